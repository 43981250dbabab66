"""A revoked device at the embedded broker: thrown off, kept out, and let in again with a newer credential."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from firmware_store.errors import BrokerUnavailableError, ConfigurationError, InvalidInputError
from server.domain.enrolment import CREDENTIAL_LIFE
from server.domain.identity import DeviceId
from server.embedded import EmbeddedBroker, MqttCredential
from tests.mqtt_client import ConnectRefusedError, MqttClient

PATIENCE_S = 30
THIEF, OTHER = DeviceId("stolen-1"), DeviceId("honest-1")


def connect(broker: EmbeddedBroker, credential: MqttCredential, **options: object) -> MqttClient:
    return MqttClient(
        broker.mqtt_host,
        broker.mqtt_port,
        client_id=credential.client_id,
        username=credential.username,
        password=credential.password,
        **options,
    )


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker(tmp_path) as broker:
        yield broker


def is_let_in(broker: EmbeddedBroker, credential: MqttCredential) -> bool:
    try:
        with connect(broker, credential):
            return True
    except ConnectRefusedError:
        return False


@pytest.mark.parametrize("clean_session", [True, False])
async def test_a_revoked_device_is_thrown_off_and_kept_out(running: EmbeddedBroker, clean_session: bool) -> None:
    credential = running.issue_device_credential(THIEF)
    with connect(running, credential, clean_session=clean_session) as client:
        client.subscribe(f"tg/1/eu/device/{THIEF}/down/directive", qos=1)
        await running.revoke({THIEF: datetime.now(UTC)})
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(client.await_hanging_up)

    assert not is_let_in(running, credential)


async def test_the_other_sessions_go_on(running: EmbeddedBroker) -> None:
    thief, other = running.issue_device_credential(THIEF), running.issue_device_credential(OTHER)
    with (
        connect(running, running.server_credential, clean_session=False) as server,
        connect(running, other) as honest,
        connect(running, thief),
    ):
        server.subscribe("tg/1/+/device/+/up/+", qos=1)
        honest.subscribe(f"tg/1/eu/device/{OTHER}/down/ack")
        await running.revoke({THIEF: datetime.now(UTC)})
        server.publish(f"tg/1/eu/device/{OTHER}/down/ack", b"still here")
        honest.publish(f"tg/1/eu/device/{OTHER}/up/report", b"so am I")

        assert honest.receive() == (f"tg/1/eu/device/{OTHER}/down/ack", b"still here")
        assert server.receive() == (f"tg/1/eu/device/{OTHER}/up/report", b"so am I")


async def test_revocations_survive_a_restart(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        stolen, honest = broker.issue_device_credential(THIEF), broker.issue_device_credential(OTHER)
        await broker.revoke({THIEF: datetime.now(UTC)})

    async with EmbeddedBroker(tmp_path) as broker:
        assert not is_let_in(broker, stolen)
        assert is_let_in(broker, honest)


async def test_the_next_revocation_keeps_the_earlier_ones(running: EmbeddedBroker) -> None:
    first, second = running.issue_device_credential(THIEF), running.issue_device_credential(OTHER)
    await running.revoke({THIEF: datetime.now(UTC)})
    await running.revoke({OTHER: datetime.now(UTC)})

    assert not is_let_in(running, first)
    assert not is_let_in(running, second)


async def test_a_credential_issued_in_the_next_second_lets_in_again(running: EmbeddedBroker) -> None:
    at = datetime.now(UTC)
    await running.revoke({THIEF: at})

    assert not is_let_in(running, running.issue_device_credential(THIEF, issued=at))
    assert is_let_in(running, running.issue_device_credential(THIEF, issued=at + timedelta(seconds=1)))


async def test_an_entry_never_moves_back(running: EmbeddedBroker) -> None:
    at = datetime.now(UTC)
    credential = running.issue_device_credential(THIEF, issued=at)
    await running.revoke({THIEF: at})
    await running.revoke({THIEF: at - timedelta(hours=1)})

    assert not is_let_in(running, credential)


async def test_what_is_revoked_already_disturbs_nobody(running: EmbeddedBroker, tmp_path: Path) -> None:
    at = datetime.now(UTC)
    await running.revoke({THIEF: at})
    before = (tmp_path / "broker" / "nats.json").stat().st_mtime_ns
    await running.revoke({THIEF: at})

    assert (tmp_path / "broker" / "nats.json").stat().st_mtime_ns == before


async def test_many_revocations_at_once_all_hold(running: EmbeddedBroker) -> None:
    names = [DeviceId(f"stolen-{number:03}") for number in range(20)]
    credentials = [running.issue_device_credential(name) for name in names]
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(running.revoke({name: datetime.now(UTC)}))

    assert not any(is_let_in(running, credential) for credential in credentials)


async def test_entries_outlive_the_credentials_they_are_about_and_no_longer(
    running: EmbeddedBroker, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    old = {DeviceId("long-ago"): now - CREDENTIAL_LIFE - timedelta(days=2)}
    young = {DeviceId("of-late"): now - CREDENTIAL_LIFE}
    await running.revoke(old | young)

    assert set(json.loads((tmp_path / "broker" / "revoked.json").read_text())) == {"of-late"}


async def test_no_credential_lives_longer_than_its_revocation_is_remembered(running: EmbeddedBroker) -> None:
    with pytest.raises(InvalidInputError):
        running.issue_device_credential(THIEF, valid_for=CREDENTIAL_LIFE + timedelta(seconds=1))


@pytest.mark.parametrize("name", ["*", "a.b", "tidegate.server", ""])
async def test_nobody_but_a_device_can_be_revoked(running: EmbeddedBroker, name: str) -> None:
    with pytest.raises(InvalidInputError):
        await running.revoke({DeviceId(name): datetime.now(UTC)})

    assert is_let_in(running, running.server_credential)


async def test_a_damaged_list_stops_the_start(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        await broker.revoke({THIEF: datetime.now(UTC)})
    (tmp_path / "broker" / "revoked.json").write_text('{"stolen-1": ')

    with pytest.raises(ConfigurationError, match="damaged"):
        await EmbeddedBroker(tmp_path).start()


async def test_a_broker_that_is_gone_says_so_and_the_next_start_enforces_it(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    await broker.start()
    credential = broker.issue_device_credential(THIEF)
    assert broker._child is not None
    os.kill(broker._child.pid, signal.SIGKILL)
    with pytest.raises(BrokerUnavailableError):
        await broker.revoke({THIEF: datetime.now(UTC)})
    await broker.stop()

    async with EmbeddedBroker(tmp_path) as again:
        assert not is_let_in(again, credential)


async def test_a_broker_that_was_never_started_revokes_nobody(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailableError):
        await EmbeddedBroker(tmp_path).revoke({THIEF: datetime.now(UTC)})
