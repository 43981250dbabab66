"""Revoking a device ends everything it could prove itself with, its live session too; a new claim begins again."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from firmware_store.errors import AuthenticationError
from firmware_store.keys import Algorithm, SigningKey
from server.db.enrolment import NewCertificate
from server.domain.identity import DeviceId
from server.embedded import EmbeddedBroker
from server.mqtt.link import Incoming
from tests.enrolment_world import DeviceSide, EnrolmentWorld, enrolment_world
from tests.mqtt_client import ConnectRefusedError

PATIENCE_S = 30
NewId = Callable[[], DeviceId]


@pytest.fixture
async def world(database: str, broker: EmbeddedBroker, tmp_path: Path) -> AsyncIterator[EnrolmentWorld]:
    async with enrolment_world(database, tmp_path, broker=broker) as running:
        yield running


def is_let_in(world: EnrolmentWorld, credential: dict[str, Any]) -> bool:
    try:
        with world.connect(credential):
            return True
    except ConnectRefusedError:
        return False


async def test_a_connected_device_is_thrown_off_and_others_stay(world: EnrolmentWorld, new_device_id: NewId) -> None:
    thief, honest = await world.enrolled(new_device_id()), await world.enrolled(new_device_id())
    topic = f"tg/1/eu/device/{honest.id}/down/ack"
    assert world.broker is not None
    own = world.broker.server_credential
    server = {"host": world.broker.mqtt_host, "port": world.broker.mqtt_port, "client_id": f"test-{thief.id}"}
    with (
        world.connect(thief.identity["broker"], clean_session=False) as stolen,
        world.connect(honest.identity["broker"]) as other,
        world.connect({**server, "username": own.username, "password": own.password}) as sender,
    ):
        other.subscribe(topic)
        answer = await world.revoke(thief.id)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(stolen.await_hanging_up)
        sender.publish(topic, b"still here")

        assert (answer.status, answer.body["session_ended"]) == (200, True)
        assert other.receive() == (topic, b"still here")
    assert not is_let_in(world, thief.identity["broker"])
    assert is_let_in(world, honest.identity["broker"])


async def test_every_certificate_of_the_device_is_in_the_signed_list(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    device, other = await world.enrolled(new_device_id()), await world.enrolled(new_device_id())
    serials = {device.certificate.serial_number}
    assert await world.revoked_serials() == set()
    await world.renew(device, SigningKey.generate(Algorithm.ED25519))
    serials.add(device.certificate.serial_number)
    await world.revoke(device.id)
    found, ca = await world.revocation_list(), await world.ca()

    assert {entry.serial_number for entry in found} == serials
    assert other.certificate.serial_number not in serials
    assert found.is_signature_valid(ca.public_key())
    assert found.issuer == ca.subject
    assert found.next_update_utc is not None
    assert found.next_update_utc > datetime.now(UTC) + timedelta(days=6)


async def test_a_newer_list_has_a_higher_number(world: EnrolmentWorld, new_device_id: NewId) -> None:
    from cryptography import x509

    device = await world.enrolled(new_device_id())
    lists = [await world.revocation_list()]
    await world.revoke(device.id)
    lists.append(await world.revocation_list())
    first, second = (one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for one in lists)

    assert first < second


async def test_nothing_that_the_device_held_is_good_any_more(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())
    open_claim = await world.claim(device.id)
    await world.revoke(device.id)
    renewal = await world.renew(device, SigningKey.generate(Algorithm.ESP256))
    credential = await world.admin("POST", f"/v1/devices/{device.id}/credential", {})
    claim = await world.enrol(DeviceSide(device.id), open_claim)
    view = await world.admin("GET", f"/v1/devices/{device.id}")

    assert renewal.status == 401
    assert credential.status == 409
    assert "revoked" in credential.detail
    assert (claim.status, claim.detail) == (401, "This claim token was withdrawn.")
    assert view.body["revoked"] is True
    assert view.body["online"] is False


async def test_a_credential_from_before_enrolment_is_refused_too(world: EnrolmentWorld, new_device_id: NewId) -> None:
    name = new_device_id()
    credential = await world.add(name)
    assert credential is not None
    assert is_let_in(world, credential)
    await world.revoke(name)

    assert not is_let_in(world, credential)


async def test_a_new_claim_lets_the_device_in_again_at_once(world: EnrolmentWorld, new_device_id: NewId) -> None:
    before = await world.enrolled(new_device_id())
    await world.revoke(before.id)
    after = DeviceSide(before.id)
    answer = await world.enrol(after, await world.claim(before.id))
    credential = await world.admin("POST", f"/v1/devices/{before.id}/credential", {})
    view = await world.admin("GET", f"/v1/devices/{before.id}")

    assert answer.status == 201
    assert is_let_in(world, after.identity["broker"])
    assert is_let_in(world, credential.body["credential"])
    assert not is_let_in(world, before.identity["broker"])
    assert await world.revoked_serials() == {before.certificate.serial_number}
    assert view.body["revoked"] is False


async def test_a_device_can_be_revoked_again_after_it_was_let_in_again(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    name = new_device_id()
    await world.add(name)
    for _ in range(3):  # all within a second or two: each credential must be later than the revocation before it
        device = DeviceSide(name)
        await world.enrol(device, await world.claim(name))
        assert is_let_in(world, device.identity["broker"])
        await world.revoke(name)
        assert not is_let_in(world, device.identity["broker"])

    assert len(await world.revoked_serials()) == 3


async def test_a_revoked_key_never_comes_back(world: EnrolmentWorld, new_device_id: NewId) -> None:
    device = await world.enrolled(new_device_id())
    await world.revoke(device.id)
    token = await world.claim(device.id)
    answer = await world.enrol(device, token)

    assert answer.status == 409
    assert "make a new one" in answer.detail
    assert (await world.enrol(DeviceSide(device.id), token)).status == 201


async def test_to_revoke_twice_changes_nothing(world: EnrolmentWorld, new_device_id: NewId, database: str) -> None:
    device = await world.enrolled(new_device_id())
    first, second = await world.revoke(device.id, "stolen"), await world.revoke(device.id, "again")
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch("SELECT actor, reason FROM device_revocation WHERE device_id = $1", device.id)
    finally:
        await connection.close()

    assert first.body == second.body
    assert [tuple(row) for row in rows] == [("test-admin", "stolen")]


async def test_an_unknown_device_cannot_be_revoked(world: EnrolmentWorld, new_device_id: NewId) -> None:
    assert (await world.revoke(new_device_id())).status == 404


@pytest.mark.parametrize("reason", ["", " ", "x" * 201, "line\nbreak", "bell\a"])
async def test_a_revocation_has_a_reason_that_can_be_read(
    world: EnrolmentWorld, new_device_id: NewId, reason: str
) -> None:
    name = new_device_id()
    await world.add(name)

    assert (await world.revoke(name, reason)).status == 422
    assert (await world.admin("GET", f"/v1/devices/{name}")).body["revoked"] is False


@pytest.mark.parametrize("kind", ["hello", "beat", "report", "gone"])
async def test_what_a_revoked_device_still_says_is_not_heard(
    world: EnrolmentWorld, new_device_id: NewId, kind: str
) -> None:
    device = await world.enrolled(new_device_id())
    await world.revoke(device.id)
    world.parts.session.on_message(
        Incoming(topic=f"tg/1/eu/device/{device.id}/up/{kind}", payload=b"\xa0", qos=0, retain=False, mid=0)
    )
    dropped = world.parts.context.metrics.registry.get_sample_value
    known = world.parts.context.fleet.get(DeviceId(device.id))

    assert dropped("tidegate_messages_dropped_total", {"reason": "revoked"}) == 1
    assert known is not None
    assert known.last_seen == 0


async def test_revocations_survive_a_restart_of_server_and_broker(
    database: str, tmp_path: Path, new_device_id: NewId
) -> None:
    async with EmbeddedBroker(tmp_path) as broker, enrolment_world(database, tmp_path, broker=broker) as world:
        thief, honest = await world.enrolled(new_device_id()), await world.enrolled(new_device_id())
        await world.revoke(thief.id)

    async with EmbeddedBroker(tmp_path) as broker, enrolment_world(database, tmp_path, broker=broker) as world:
        known = world.parts.context.fleet.get(DeviceId(thief.id))

        assert known is not None
        assert known.revoked
        assert not is_let_in(world, thief.identity["broker"])
        assert is_let_in(world, honest.identity["broker"])
        assert await world.revoked_serials() == {thief.certificate.serial_number}
        assert (await world.renew(thief, SigningKey.generate(Algorithm.ESP256))).status == 401


async def test_a_broker_that_lost_its_list_gets_it_from_the_database(
    database: str, tmp_path: Path, new_device_id: NewId
) -> None:
    async with EmbeddedBroker(tmp_path) as broker, enrolment_world(database, tmp_path, broker=broker) as world:
        thief = await world.enrolled(new_device_id())
        await world.revoke(thief.id)
    (tmp_path / "broker" / "revoked.json").unlink()

    async with EmbeddedBroker(tmp_path) as broker, enrolment_world(database, tmp_path, broker=broker) as world:
        assert not is_let_in(world, thief.identity["broker"])


async def test_a_broker_that_is_down_is_told_at_its_next_start(
    database: str, tmp_path: Path, new_device_id: NewId
) -> None:
    broker = EmbeddedBroker(tmp_path)
    await broker.start()
    async with enrolment_world(database, tmp_path, broker=broker) as world:
        thief = await world.enrolled(new_device_id())
        assert broker._child is not None
        os.kill(broker._child.pid, signal.SIGKILL)
        answers = [await world.revoke(thief.id) for _ in range(2)]
        view = await world.admin("GET", f"/v1/devices/{thief.id}")
    await broker.stop()

    assert [answer.status for answer in answers] == [503, 503]
    assert view.body["revoked"] is True
    async with EmbeddedBroker(tmp_path) as again, enrolment_world(database, tmp_path, broker=again) as world:
        assert not is_let_in(world, thief.identity["broker"])


async def test_no_credential_slips_past_a_revocation_made_at_the_same_time(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    for _ in range(5):
        name = new_device_id()
        await world.add(name)
        path = f"/v1/devices/{name}/credential"
        asked = [world.admin("POST", path, {}) for _ in range(6)]
        *answers, revoked = await asyncio.gather(*asked[:3], *asked[3:], world.revoke(name))

        assert revoked.status == 200
        given = [answer.body["credential"] for answer in answers if answer.status == 200]
        assert not any(is_let_in(world, credential) for credential in given)


async def test_renewal_and_revocation_at_the_same_time_leave_nothing_good(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    for _ in range(5):
        device = await world.enrolled(new_device_id())
        first = device.certificate
        answer, revoked = await asyncio.gather(
            world.renew(device, SigningKey.generate(Algorithm.ED25519)), world.revoke(device.id)
        )

        assert (answer.status in {201, 401}, revoked.status) == (True, 200)
        assert not is_let_in(world, device.identity["broker"])
        assert {first.serial_number, device.certificate.serial_number} <= await world.revoked_serials()


async def test_a_renewal_that_a_revocation_overtakes_changes_nothing(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    device = await world.enrolled(new_device_id())
    now = datetime.now(UTC)
    late = NewCertificate(b"late", DeviceId(device.id), device.key.public, now, now + timedelta(days=90))
    await world.revoke(device.id)

    with pytest.raises(AuthenticationError):
        await world.enrolment._repository.renew(device.key.public.kid, late)
    assert await world.revoked_serials() == {device.certificate.serial_number}


async def test_enrolment_and_revocation_at_the_same_time_leave_one_truth(
    world: EnrolmentWorld, new_device_id: NewId
) -> None:
    for _ in range(5):
        device = await world.enrolled(new_device_id())
        token = await world.claim(device.id)
        again = DeviceSide(device.id)
        answer, revoked = await asyncio.gather(world.enrol(again, token), world.revoke(device.id))
        view = await world.admin("GET", f"/v1/devices/{device.id}")

        assert revoked.status == 200
        assert not is_let_in(world, device.identity["broker"])
        if answer.status == 201:
            assert is_let_in(world, again.identity["broker"]) is not view.body["revoked"]
        else:
            assert view.body["revoked"] is True
