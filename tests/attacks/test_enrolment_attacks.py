"""Attacks on the way to a device's identity: somebody else's name, somebody else's key, more than was claimed."""

import asyncio
import contextlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from yarl import URL

from firmware_store.cose import sign1
from firmware_store.errors import InvalidInputError
from firmware_store.keys import Algorithm, SigningKey
from server.domain.identity import DeviceId
from server.embedded import EmbeddedBroker
from server.protocol.renewal import prove_renewal, renewal_payload
from server.services.admission import Buckets
from server.services.device_ca import create_device_ca
from server.services.tokens import Role
from tests.enrolment_world import (
    DeviceSide,
    EnrolmentWorld,
    as_pem,
    enrolment_world,
    make_csr,
    request_builder,
    sign_request,
)
from tests.mqtt_client import REFUSED, ConnectRefusedError, HungUpError
from tests.servers import pour

NewId = Callable[[], DeviceId]

HOSTILE_IDS = [
    *("*", "+", "#", ">", "a/b", "a.b", "Pump-1", "PUMP", "a\0b", "pump\0", "pump\n", " pump", "pump 1", "", "ab"),
    *("tidegate.server", "$SYS", "../../etc", "..", "%2e%2e", "-pump", "_pump", "{{name()}}", "%u", "${clientid}"),
    *("pump\N{FULLWIDTH DIGIT ONE}", "p\N{CYRILLIC SMALL LETTER U}mp", "pump\u200b", "x" * 65, "pump;rm", "pump,CN=x"),
]


@pytest.fixture
async def world(database: str, broker: EmbeddedBroker, tmp_path: Path) -> AsyncIterator[EnrolmentWorld]:
    async with enrolment_world(database, tmp_path, broker=broker) as running:
        yield running


# --- hostile ids at every door ---------------------------------------------------------------------------------------


async def test_no_hostile_id_gets_through_any_door_of_the_api(world: EnrolmentWorld) -> None:
    key = SigningKey.generate(Algorithm.ESP256)
    admission = world.parts.context.admission  # how often somebody may knock is not what is tested here
    admission._addresses = Buckets(admission._together._rate)
    for hostile in HOSTILE_IDS:
        path = "/v1/devices/" + quote(hostile, safe="")
        body = {"device": hostile, "csr": make_csr(key)}
        renewal = {**body, "nonce": b64encode(bytes(32)).decode(), "proof": b64encode(b"x").decode()}
        answers = [
            await world.admin("POST", "/v1/devices", {"devices": [{"id": hostile, "region": "eu", "cohort": "main"}]}),
            *[await world.admin("POST", URL(path + f"/{verb}", encoded=True), {}) for verb in ("claim", "credential")],
            await world.admin("POST", URL(path + "/revoke", encoded=True), {"reason": "x"}),
            await world.knock("POST", "/v1/enrol", body, token=f"tgc_{'A' * 22}"),
            await world.knock("POST", "/v1/enrol/renew", renewal),
        ]

        assert {answer.status for answer in answers} <= {404, 405, 422}, (hostile, [a.status for a in answers])
        assert answers[0].status == answers[4].status == answers[5].status == 422, hostile


@pytest.mark.parametrize("hostile", HOSTILE_IDS)
def test_the_authority_signs_no_hostile_id(hostile: str, tmp_path: Path) -> None:
    ca = create_device_ca(tmp_path, passphrase=None, name="test", dev=True)

    with pytest.raises(InvalidInputError):
        ca.issue(DeviceId(hostile), SigningKey.generate(Algorithm.ESP256).public, now=datetime.now(UTC))


@pytest.mark.parametrize("common_name", ["*", "+", "#", ">", "a/b", "a.b", "VICTIM", "victim", "tidegate.server"])
async def test_the_name_in_a_request_counts_for_nothing(
    world: EnrolmentWorld, new_device_id: NewId, common_name: str
) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    answer = await world.enrol(device, await world.claim(device.id), csr=make_csr(device.key, common_name))

    assert answer.status == 201
    assert device.certificate.subject.rfc4514_string() == f"CN={device.id}"
    assert device.identity["broker"]["username"] == device.id


@pytest.mark.parametrize(
    "client_id", ["*", "+", "#", ">", "a/b", "a.b", "UPPER", "tidegate.server", "$MQTT", "x" * 300, "a\0b"]
)
async def test_a_hostile_client_id_opens_nothing_at_the_broker(
    world: EnrolmentWorld, new_device_id: NewId, client_id: str
) -> None:
    thief, victim = await world.enrolled(new_device_id()), await world.enrolled(new_device_id())
    mine, theirs = (f"tg/1/eu/device/{device.id}/down/directive" for device in (thief, victim))

    # refused, or let in as itself: NATS takes most of them as plain text
    with contextlib.suppress(ConnectRefusedError, HungUpError):
        for clean_session in (False, True):  # the second leaves no session behind
            with world.connect(
                thief.identity["broker"], client_id=client_id, clean_session=clean_session
            ) as connection:
                assert connection.subscribe(theirs, "tg/1/eu/device/+/down/directive", mine) == [REFUSED, REFUSED, 0]


@pytest.mark.parametrize("username", ["*", "+", ">", "a.b", "tidegate.server", "UPPER", ""])
async def test_a_hostile_user_name_opens_nothing_at_the_broker(
    world: EnrolmentWorld, new_device_id: NewId, username: str
) -> None:
    thief, victim = await world.enrolled(new_device_id()), await world.enrolled(new_device_id())
    wanted = (f"tg/1/eu/device/{victim.id}/down/directive", "tg/1/eu/device/+/down/directive", "tg/#")

    with (
        contextlib.suppress(ConnectRefusedError, HungUpError),
        world.connect(thief.identity["broker"], username=username) as connection,
    ):
        assert connection.subscribe(*wanted) == [REFUSED] * 3


# --- requests that ask for more --------------------------------------------------------------------------------------


async def test_what_a_request_asks_for_is_not_what_it_gets(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    greedy = (
        request_builder("tidegate.server")
        .add_extension(x509.BasicConstraints(ca=True, path_length=5), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("victim"), x509.RFC822Name("a@b")]), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName("x")], None), critical=True)
        .add_extension(
            x509.AuthorityInformationAccess(
                [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://x"))]
            ),
            critical=False,
        )
        .add_attribute(x509.ObjectIdentifier("1.2.840.113549.1.9.7"), b"challenge")
    )
    answer = await world.enrol(device, await world.claim(device.id), csr=as_pem(sign_request(greedy, device.key)))
    plain = await world.enrolled(new_device_id())

    assert answer.status == 201
    assert device.certificate.subject.rfc4514_string() == f"CN={device.id}"
    assert not device.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [extension.oid for extension in device.certificate.extensions] == [
        extension.oid for extension in plain.certificate.extensions
    ]
    with pytest.raises(x509.ExtensionNotFound):
        device.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def foreign_request(private: Any, algorithm: Any = None) -> str:
    return as_pem(request_builder("").sign(private, algorithm))


def der_of(pem: str) -> bytes:
    return x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER)


def with_another_key(pem: str) -> str:
    """Somebody's signing request with the attacker's key put in its place."""
    mine, other = SigningKey.generate(Algorithm.ESP256), SigningKey.generate(Algorithm.ESP256)
    der = der_of(make_csr(mine))
    assert mine.public.material in der
    return b64encode(der.replace(mine.public.material, other.public.material)).decode()


def with_a_flipped_bit(pem: str) -> str:
    der = bytearray(der_of(pem))
    der[-1] ^= 1
    return b64encode(bytes(der)).decode()


BAD_REQUESTS: dict[str, Callable[[str], str]] = {
    "a key whose private half nobody showed": with_another_key,
    "a flipped bit in the signature": with_a_flipped_bit,
    "trailing bytes": lambda pem: b64encode(der_of(pem) + b"\0").decode(),
    "a truncated request": lambda pem: b64encode(der_of(pem)[:-1]).decode(),
    "RSA": lambda _: foreign_request(rsa.generate_private_key(65537, 2048), hashes.SHA256()),
    "P-384": lambda _: foreign_request(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
    "secp256k1": lambda _: foreign_request(ec.generate_private_key(ec.SECP256K1()), hashes.SHA256()),
    "Ed448": lambda _: foreign_request(ed448.Ed448PrivateKey.generate()),
    "SHA-224": lambda _: foreign_request(ec.generate_private_key(ec.SECP256R1()), hashes.SHA224()),
    "a certificate": lambda _: "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    "a private key": lambda _: SigningKey.generate(Algorithm.ESP256).to_pem(None).decode(),
    "not base64": lambda _: "{}",
    "base64 of nothing": lambda _: "====",
    "text beyond ASCII": lambda _: "-----BEGIN \N{SNOWMAN}",
    "a length of 4 GB": lambda _: b64encode(b"\x30\x84\xff\xff\xff\xff").decode(),
    "nested sequences": lambda _: b64encode(b"\x30\x80" * 1000).decode(),
}


@pytest.mark.parametrize("bad", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_a_bad_request_is_refused_and_the_claim_stays_open(
    world: EnrolmentWorld, new_device_id: NewId, bad: Callable[[str], str]
) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    token = await world.claim(device.id)
    answer = await world.enrol(device, token, csr=bad(make_csr(device.key)))

    assert (answer.status, answer.body["title"]) == (422, "invalid input")
    assert (await world.enrol(device, token)).status == 201


# Points of order 1, 2, 4 and 8 (RFC 7748 section 7 of X25519's list, as Edwards points).
SMALL_ORDER = [
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    bytes(32),
    bytes(31) + b"\x80",
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
async def test_a_key_of_small_order_is_refused(world: EnrolmentWorld, new_device_id: NewId, point: bytes) -> None:
    honest = SigningKey.generate(Algorithm.ED25519)
    der = der_of(make_csr(honest)).replace(honest.public.material, point)
    # s = 0 and R = the neutral element: for the first point this "signature" holds for every message
    forged = der[:-64] + SMALL_ORDER[0] + bytes(32)
    name = new_device_id()
    await world.add(name)
    answer = await world.enrol(DeviceSide(name), await world.claim(name), csr=b64encode(forged).decode())

    assert (answer.status, answer.body["title"]) == (422, "not trusted")


def test_the_forgery_with_the_neutral_element_is_a_real_one() -> None:
    honest = SigningKey.generate(Algorithm.ED25519)
    der = der_of(make_csr(honest)).replace(honest.public.material, SMALL_ORDER[0])

    assert x509.load_der_x509_csr(der[:-64] + SMALL_ORDER[0] + bytes(32)).is_signature_valid


# --- claims ----------------------------------------------------------------------------------------------------------


async def test_anothers_claim_opens_nothing_and_stays_open(world: EnrolmentWorld, new_device_id: NewId) -> None:
    mine, victim = DeviceSide(new_device_id()), DeviceSide(new_device_id())
    await world.add(mine.id)
    await world.add(victim.id)
    token = await world.claim(mine.id)
    stolen = await world.enrol(victim, token)
    unknown = await world.enrol(victim, f"tgc_{'A' * 22}")

    assert (stolen.status, stolen.detail) == (unknown.status, unknown.detail) == (401, "This claim token is not known.")
    assert (await world.enrol(mine, token)).status == 201


@pytest.mark.parametrize(
    "token", ["", "tgc_", "tgc_" + "A" * 23, "A" * 22, "tgc_" + "\N{KELVIN SIGN}" * 22, "x" * 5000]
)
async def test_what_is_no_claim_is_refused(world: EnrolmentWorld, new_device_id: NewId, token: str) -> None:
    name = new_device_id()
    await world.add(name)
    device = DeviceSide(name)
    body = {"device": name, "csr": make_csr(device.key)}
    async with world._client.post(
        "/v1/enrol", json=body, headers={"Authorization": f"Bearer {token}".encode().decode("latin-1")}
    ) as response:
        assert response.status in {400, 401}


async def test_tokens_of_one_kind_do_not_open_the_doors_of_the_other(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    device = DeviceSide(new_device_id())
    await world.add(device.id)
    claim = await world.claim(device.id)

    assert (await world.enrol(device, await world.token_for(Role.ADMIN))).status == 401
    assert (await world.admin("GET", "/v1/devices", token=claim)).status == 401


async def test_a_key_of_another_device_cannot_be_claimed(world: EnrolmentWorld, new_device_id: NewId) -> None:
    owner = await world.enrolled(new_device_id())
    name = new_device_id()
    await world.add(name)
    token = await world.claim(name)
    answer = await world.enrol(DeviceSide(name, owner.key), token)

    assert answer.status == 409
    assert owner.id not in json.dumps(answer.body)
    assert (await world.enrol(DeviceSide(name), token)).status == 201


async def test_of_two_devices_that_race_for_a_key_one_gets_it(world: EnrolmentWorld, new_device_id: NewId) -> None:
    key = SigningKey.generate(Algorithm.ESP256)
    devices = [DeviceSide(new_device_id(), key) for _ in range(4)]
    for device in devices:
        await world.add(device.id)
    tokens = [await world.claim(device.id) for device in devices]
    answers = await asyncio.gather(*map(world.enrol, devices, tokens))

    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409]


# --- renewals --------------------------------------------------------------------------------------------------------


async def test_nobody_renews_for_another(world: EnrolmentWorld, new_device_id: NewId) -> None:
    thief, victim = await world.enrolled(new_device_id()), await world.enrolled(new_device_id())
    new = SigningKey.generate(Algorithm.ESP256)
    stranger = SigningKey.generate(Algorithm.ED25519)
    as_victim = DeviceSide(victim.id, thief.key)

    assert (await world.renew(as_victim, new)).status == 401
    assert (await world.renew(thief, new, name=victim.id)).status == 401
    assert (await world.renew(victim, new, signer=stranger)).status == 401
    assert (await world.renew(DeviceSide(new_device_id()), new)).status == 401
    assert (await world.renew(victim, new)).status == 201


async def test_a_proof_is_for_one_request(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())
    swapped = der_of(make_csr(SigningKey.generate(Algorithm.ESP256)))

    assert (await world.renew(device, SigningKey.generate(Algorithm.ESP256), der=swapped)).status == 401


async def test_a_proof_is_good_once(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())
    new, nonce = SigningKey.generate(Algorithm.ED25519), await world.nonce()  # Ed25519: the same CSR each time
    proof = prove_renewal(device.key, DeviceId(device.id), der_of(make_csr(new)), nonce)
    first = await world.renew(device, new, nonce=nonce, proof=proof)
    replayed = await world.renew(device, new, nonce=nonce, proof=proof)

    assert (first.status, replayed.status) == (201, 401)


async def test_of_copies_of_a_proof_sent_at_once_one_is_good(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())
    new, nonce = SigningKey.generate(Algorithm.ED25519), await world.nonce()
    proof = prove_renewal(device.key, DeviceId(device.id), der_of(make_csr(new)), nonce)
    answers = await asyncio.gather(*(world.renew(device, new, nonce=nonce, proof=proof) for _ in range(6)))

    assert sorted(answer.status for answer in answers) == [201] + [401] * 5


async def test_only_a_nonce_of_the_server_counts_and_only_for_minutes(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    device = await world.enrolled(new_device_id())
    new = SigningKey.generate(Algorithm.ESP256)
    nonce = await world.nonce()
    changed = nonce[:-1] + bytes([nonce[-1] ^ 1])
    fresh = (2**40).to_bytes(8, "big") + nonce[8:]

    for made_up in (bytes(32), changed, fresh):
        assert (await world.renew(device, new, nonce=made_up)).status == 401
    assert (await world.renew(device, new, nonce=nonce[:-1])).status == 422
    world.enrolment._clock = lambda: datetime.now(UTC).timestamp() + 301
    assert (await world.renew(device, new, nonce=nonce)).status == 401


async def test_a_signature_for_something_else_renews_nothing(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())
    new, nonce = SigningKey.generate(Algorithm.ED25519), await world.nonce()
    payload = renewal_payload(DeviceId(device.id), der_of(make_csr(new)), nonce)
    good = prove_renewal(device.key, DeviceId(device.id), der_of(make_csr(new)), nonce)

    for proof in (
        sign1(device.key, payload, typ="application/tidegate-directive+cbor"),
        sign1(device.key, payload, typ=None),
        sign1(new, payload, typ="application/tidegate-renewal+cbor"),
        good[:-1],
        good + b"\0",
        good[1:],
        b"\xf6",
    ):
        assert (await world.renew(device, new, nonce=nonce, proof=proof)).status == 401
    assert (await world.renew(device, new, nonce=nonce, proof=good)).status == 201


async def test_a_renewal_cannot_take_anothers_key(world: EnrolmentWorld, new_device_id: NewId) -> None:
    thief, victim = await world.enrolled(new_device_id()), await world.enrolled(new_device_id())

    assert (await world.renew(thief, victim.key)).status == 409


# --- too much --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/enrol", "/v1/enrol/renew", "/v1/enrol/nonce"])
async def test_a_body_too_large_is_not_read(world: EnrolmentWorld, path: str) -> None:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer tgc_{'A' * 22}"}

    assert (await world.knock("POST", path, data=b" " * 16_385)).status == 413
    assert await pour(world.url, path, headers) == 413


@pytest.mark.parametrize(
    "body", [b"[" * 16_000, b'{"device": 1}', b"null", b"\xff", b'{"x": NaN}', b'{"device": "\\ud800"}']
)
async def test_a_body_that_is_nonsense_is_refused(world: EnrolmentWorld, body: bytes) -> None:
    assert (await world.knock("POST", "/v1/enrol", data=body, token=f"tgc_{'A' * 22}")).status in {400, 422}


async def test_whoever_knocks_too_often_has_to_wait(world: EnrolmentWorld) -> None:
    answers = [await world.knock("POST", "/v1/enrol/nonce") for _ in range(80)]
    refused = [answer for answer in answers if answer.status == 429]

    assert [answer.status for answer in answers[:50]] == [200] * 50
    assert refused
    assert refused[0].headers["Retry-After"] == "1"
    assert (await world.admin("GET", "/v1/devices")).status == 200
