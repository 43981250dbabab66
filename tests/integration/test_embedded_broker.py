"""The embedded MQTT broker: what it keeps over a restart, and what it refuses."""

import asyncio
import json
import re
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from firmware_store.errors import BrokerUnavailableError, ConfigurationError
from server.embedded import EmbeddedBroker, MqttCredential
from tests.mqtt_client import MqttClient

PATIENCE_S = 30


def connect(broker: EmbeddedBroker, credential: MqttCredential, *, clean_session: bool = True) -> MqttClient:
    return MqttClient(
        broker.mqtt_host,
        broker.mqtt_port,
        client_id=credential.client_id,
        username=credential.username,
        password=credential.password,
        clean_session=clean_session,
    )


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker(tmp_path) as broker:
        yield broker


async def test_credentials_port_and_retained_messages_survive_a_restart(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path / "with space") as broker:
        port, device = broker.mqtt_port, broker.issue_device_credential("dev1")
        with connect(broker, broker.server_credential) as server:
            server.publish("tg/1/eu/device/dev1/down/directive", b"hold", retain=True)

    async with EmbeddedBroker(tmp_path / "with space") as broker:
        assert broker.mqtt_port == port
        with connect(broker, device) as client:
            assert client.receive_retained("tg/1/eu/device/dev1/down/directive") == b"hold"


async def test_the_servers_session_keeps_what_it_has_not_acknowledged_over_a_restart(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        device, own = broker.issue_device_credential("dev1"), broker.server_credential
        with connect(broker, own, clean_session=False) as server:
            assert server.subscribe("tg/1/+/device/+/up/+", qos=1) == [1]
        with connect(broker, device) as client:
            client.publish("tg/1/eu/device/dev1/up/report", b"done")

    async with EmbeddedBroker(tmp_path) as broker:
        assert broker.server_credential.client_id == own.client_id
        with connect(broker, broker.server_credential, clean_session=False) as server:
            assert server.session_present
            assert server.receive() == ("tg/1/eu/device/dev1/up/report", b"done")


async def test_a_device_knows_the_same_client_id_from_every_credential(running: EmbeddedBroker) -> None:
    assert running.issue_device_credential("dev1").client_id == running.issue_device_credential("dev1").client_id


async def test_another_port_is_taken_when_somebody_has_ours(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        port, device = broker.mqtt_port, broker.issue_device_credential("dev1")
    with socket.create_server(("127.0.0.1", port)):
        async with EmbeddedBroker(tmp_path) as broker:
            assert broker.mqtt_port != port
            with connect(broker, device) as client:
                assert client.subscribe("tg/1/trust/status") == [0]


async def test_a_port_that_was_asked_for_is_used_or_nothing_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=r"did not start .*address already in use"):
            await EmbeddedBroker(tmp_path, port=port).start()

    async with EmbeddedBroker(tmp_path, port=port) as broker:
        assert broker.mqtt_port == port


async def test_damaged_keys_are_refused_and_never_replaced(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path):
        pass
    keys = tmp_path / "broker" / "keys.json"
    for damaged in ("", "{}", "[]", json.dumps(json.loads(keys.read_text()) | {"account_seed": "SA"})):
        keys.write_text(damaged)

        with pytest.raises(ConfigurationError, match=r"keys\.json is damaged: restore it from a backup"):
            await EmbeddedBroker(tmp_path).start()
        assert keys.read_text() == damaged


async def test_secrets_are_in_files_of_our_own(running: EmbeddedBroker, tmp_path: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "broker").iterdir() if path.is_file()}

    assert stat.S_IMODE((tmp_path / "broker").stat().st_mode) == 0o700
    assert {"keys.json", "nats.json", "broker.log", "lock", "port"} == set(modes)
    assert set(modes.values()) == {0o600}


async def test_no_credential_is_written_to_the_log(running: EmbeddedBroker, tmp_path: Path) -> None:
    device = running.issue_device_credential("dev1")
    with connect(running, device) as client:
        client.subscribe("#")
        client.publish("tg/1/eu/device/dev2/up/beat", b"forged")

    log = (tmp_path / "broker" / "broker.log").read_text()
    assert "Violation" in log
    assert device.password not in log
    assert device.password.split(".")[2] not in log


async def test_a_second_server_is_turned_away_and_does_no_harm(running: EmbeddedBroker, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Another Tidegate \(process \d+\) uses"):
        await EmbeddedBroker(tmp_path).start()

    with connect(running, running.issue_device_credential("dev1")) as client:
        assert client.subscribe("tg/1/trust/status") == [0]


async def test_an_end_by_itself_is_reported(running: EmbeddedBroker) -> None:
    watching = asyncio.create_task(running.watch())
    assert running._child is not None
    psutil.Process(running._child.pid).kill()

    with pytest.raises(BrokerUnavailableError, match=r"has ended by itself \(exit status -9"):
        await asyncio.wait_for(watching, PATIENCE_S)


async def test_an_ordered_stop_ends_the_watch_quietly(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    await broker.start()
    watching = asyncio.create_task(broker.watch())
    await asyncio.sleep(0)
    await broker.stop()

    await asyncio.wait_for(watching, PATIENCE_S)
    with pytest.raises(BrokerUnavailableError):
        _ = broker.mqtt_port


async def test_a_broker_that_was_never_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailableError):
        EmbeddedBroker(tmp_path).issue_device_credential("dev1")


async def test_a_token_is_good_for_mqtt_only(running: EmbeddedBroker, tmp_path: Path) -> None:
    found = re.search(
        r"Listening for client connections on (\S+):(\d+)", (tmp_path / "broker" / "broker.log").read_text()
    )
    assert found is not None
    assert found[1] == "127.0.0.1"
    reader, writer = await asyncio.open_connection(found[1], int(found[2]))
    await reader.readline()  # INFO
    options = {"jwt": running.server_credential.password, "verbose": True, "pedantic": False}
    writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")
    answer = await asyncio.wait_for(reader.readline(), PATIENCE_S)
    writer.close()
    await writer.wait_closed()

    assert answer == b"-ERR 'Authorization Violation'\r\n"
