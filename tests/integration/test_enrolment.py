"""From a claim token to a certificate and a credential, on the real API, database and embedded broker."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firmware_store.keys import Algorithm, SigningKey
from firmware_store.root import open_root
from server.domain.enrolment import CREDENTIAL_LIFE
from server.domain.identity import DeviceId
from server.embedded import EmbeddedBroker
from server.services.tokens import Role
from tests.enrolment_world import DeviceSide, EnrolmentWorld, enrolment_world, make_csr
from tests.mqtt_client import REFUSED

NewId = Callable[[], DeviceId]


@pytest.fixture
async def world(database: str, broker: EmbeddedBroker, tmp_path: Path) -> AsyncIterator[EnrolmentWorld]:
    async with enrolment_world(database, tmp_path, broker=broker) as running:
        yield running


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_a_claim_becomes_a_client_certificate_for_the_device(
    world: EnrolmentWorld, new_device_id: NewId, algorithm: Algorithm
) -> None:
    device = await world.enrolled(new_device_id(), algorithm=algorithm)
    certificate, ca = device.certificate, await world.ca()
    certificate.verify_directly_issued_by(ca)
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

    assert [(name.oid, name.value) for name in certificate.subject] == [(NameOID.COMMON_NAME, device.id)]
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    assert extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert certificate.serial_number.bit_length() > 100
    assert device.identity["serial"] == f"{certificate.serial_number:x}"
    spki = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert certificate.public_key().public_bytes(*spki) == device.key.public.to_pem()


async def test_a_certificate_lives_for_90_days_and_is_due_after_60(world: EnrolmentWorld, new_device_id: NewId) -> None:
    identity = (await world.enrolled(new_device_id())).identity
    issued, renew, expires = (datetime.fromisoformat(identity[f"{name}_at"]) for name in ("issued", "renew", "expires"))

    assert expires - issued == CREDENTIAL_LIFE == timedelta(days=90)
    assert renew - issued == timedelta(days=60)
    assert abs(datetime.now(UTC) - issued) < timedelta(minutes=1)


async def test_the_answer_holds_all_that_a_device_needs(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())
    identity, broker = device.identity, device.identity["broker"]
    chain = x509.load_pem_x509_certificates(identity["certificate"].encode())

    assert (identity["device"], identity["region"], identity["cohort"]) == (device.id, "eu", "main")
    assert chain == [device.certificate, await world.ca()]
    assert open_root(b64decode(identity["root"]), now=None) == world.parts.context.authority.root
    assert broker["topic_root"] == "tg/1"
    with world.connect(broker) as client:
        assert client.subscribe(f"tg/1/eu/device/{device.id}/down/ack", "tg/1/eu/device/other/down/ack") == [0, REFUSED]


async def test_a_request_may_come_as_der_too(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    der = x509.load_pem_x509_csr(make_csr(device.key).encode()).public_bytes(serialization.Encoding.DER)

    assert (await world.enrol(device, await world.claim(device.id), csr=b64encode(der).decode())).status == 201


async def test_a_claim_is_good_once(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    token = await world.claim(device.id)
    await world.enrol(device, token)
    again = await world.enrol(DeviceSide(device.id), token)

    assert again.status == 401
    assert "was used at" in again.detail


async def test_of_many_who_race_for_a_claim_one_wins(world: EnrolmentWorld, new_device_id: NewId) -> None:
    name = new_device_id()
    await world.add(name)
    token = await world.claim(name)
    answers = await asyncio.gather(*(world.enrol(DeviceSide(name), token) for _ in range(16)))

    assert sorted(answer.status for answer in answers) == [201] + [401] * 15


async def test_one_device_that_sends_its_request_twice_at_once_gets_one_certificate(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    token = await world.claim(device.id)
    answers = await asyncio.gather(*(world.enrol(device, token) for _ in range(4)))

    assert sorted(answer.status for answer in answers) == [201, 401, 401, 401]


async def test_an_expired_claim_is_refused(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    token = await world.claim(device.id, valid_seconds=60)
    world.enrolment._clock = lambda: datetime.now(UTC).timestamp() + 61
    answer = await world.enrol(device, token)

    assert (answer.status, answer.detail) == (401, "This claim token has expired.")


async def test_a_newer_claim_withdraws_the_older(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    older, newer = await world.claim(device.id), await world.claim(device.id)
    answer = await world.enrol(device, older)

    assert (answer.status, answer.detail) == (401, "This claim token was withdrawn.")
    assert (await world.enrol(device, newer)).status == 201


async def test_claims_made_at_the_same_time_leave_one_open(world: EnrolmentWorld, new_device_id: NewId) -> None:
    name = new_device_id()
    await world.add(name)
    tokens = await asyncio.gather(*(world.claim(name) for _ in range(8)))
    answers = [await world.enrol(DeviceSide(name), token) for token in tokens]

    assert sorted(answer.status for answer in answers) == [201] + [401] * 7


async def test_a_refused_request_leaves_the_claim_open(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    token = await world.claim(device.id)

    assert (await world.enrol(device, token, csr="nonsense")).status == 422
    assert (await world.enrol(device, token)).status == 201


async def test_only_a_tokens_digest_is_stored(world: EnrolmentWorld, new_device_id: NewId, database: str) -> None:
    import asyncpg

    name = new_device_id()
    await world.add(name)
    token = await world.claim(name)
    connection = await asyncpg.connect(database)
    try:
        dump = await connection.fetch("SELECT device_claim::text AS line FROM device_claim")
    finally:
        await connection.close()

    assert len(dump) == 1
    assert token not in dump[0]["line"]
    assert token.removeprefix("tgc_").encode().hex() not in dump[0]["line"]


async def test_a_claim_needs_a_device_that_is_there_and_a_right(world: EnrolmentWorld, new_device_id: NewId) -> None:
    name = new_device_id()
    missing = await world.admin("POST", f"/v1/devices/{name}/claim", {})
    await world.add(name)
    viewer = await world.token_for(Role.VIEWER)

    assert missing.status == 404
    assert (await world.admin("POST", f"/v1/devices/{name}/claim", {}, token=viewer)).status == 403
    assert (await world.admin("POST", f"/v1/devices/{name}/revoke", {"reason": "x"}, token=viewer)).status == 403


async def test_a_renewal_gives_a_new_certificate_and_the_old_one_stays_good(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    device = await world.enrolled(new_device_id())
    old, old_broker = device.certificate, device.identity["broker"]
    answer = await world.renew(device, SigningKey.generate(Algorithm.ED25519))

    assert answer.status == 201
    assert device.certificate.serial_number != old.serial_number
    assert device.certificate.subject == old.subject
    assert await world.revoked_serials() == set()
    for credential in (old_broker, device.identity["broker"]):
        with world.connect(credential):
            pass


async def test_a_device_whose_answer_was_lost_renews_with_the_key_it_enrolled(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    device = await world.enrolled(new_device_id())

    assert (await world.renew(device, device.key)).status == 201


async def test_a_renewed_key_renews_in_turn(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())

    for _ in range(3):
        assert (await world.renew(device, SigningKey.generate(Algorithm.ESP256))).status == 201


async def test_a_device_that_keeps_renewing_is_slowed_down(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())
    statuses = [(await world.renew(device, device.key)).status for _ in range(10)]
    refused = await world.renew(device, device.key)

    assert statuses == [201] * 9 + [429]
    assert int(refused.headers["Retry-After"]) > 60


async def test_an_expired_certificate_renews_nothing(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())
    world.enrolment._clock = lambda: (datetime.now(UTC) + CREDENTIAL_LIFE).timestamp() + 1

    assert (await world.renew(device, device.key)).status == 401


async def test_a_server_in_production_makes_no_authority_by_itself(
    database: str, broker: EmbeddedBroker, tmp_path: Path, new_device_id: NewId
) -> None:
    async with enrolment_world(database, tmp_path, broker=broker, environment="production") as world:
        name = new_device_id()
        await world.add(name)
        answer = await world.enrol(DeviceSide(name), await world.claim(name))

        assert (answer.status, answer.body["title"]) == (409, "conflict")
        assert "tidegate device ca init" in answer.detail
        assert (await world.knock("GET", "/v1/enrol/crl")).status == 409


async def test_the_authority_made_in_development_stays_over_a_restart(
    database: str, broker: EmbeddedBroker, tmp_path: Path, new_device_id: NewId
) -> None:
    async with enrolment_world(database, tmp_path, broker=broker) as world:
        first = await world.ca()
    async with enrolment_world(database, tmp_path, broker=broker) as world:
        assert await world.ca() == first
    assert (tmp_path / "keys" / "device-ca-key.pem").stat().st_mode & 0o777 == 0o600


async def test_with_a_broker_of_ones_own_the_certificate_is_all(
    database: str, tmp_path: Path, new_device_id: NewId
) -> None:
    async with enrolment_world(database, tmp_path) as world:
        device = await world.enrolled(new_device_id())
        revoked = await world.revoke(device.id)

        assert device.identity["broker"] is None
        assert revoked.body["session_ended"] is False
        assert await world.revoked_serials() == {device.certificate.serial_number}
