"""The configuration in deploy/nats on a real NATS with TLS, run as somebody else would run it."""

import asyncio
import signal
import socket
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from firmware_store.errors import BrokerUnavailableError, ConfigurationError, ConflictError
from server.cli import device as device_cli
from server.config import Settings
from server.domain.identity import DeviceId
from server.embedded import MqttCredential, mqtt_probe
from server.embedded.broker import _locate_program
from server.embedded.own_nats import OwnNats, create_nats_folder
from server.mqtt.session import BrokerAccess, ServerSession
from server.outside import NatsIssuer, Outside, external_broker, stand_broker
from server.protocol.topics import Topics
from server.services.certificates import Certificates
from tests.enrolment_world import enrolment_world
from tests.mosquitto_peer import Authority
from tests.mqtt_client import REFUSED, ConnectRefusedError, MqttClient
from tests.ports import free_port

SHIPPED = Path(__file__).parents[2] / "deploy" / "nats"
PATIENCE_S = 20
THIEF, OTHER = DeviceId("stolen-1"), DeviceId("honest-1")

NO_TLS = Certificates(rest=None, mqtt=None)


class Nats:
    """A server that runs the shipped configuration; only paths and ports differ. ``reloading`` is systemd's part."""

    def __init__(self, tmp_path: Path) -> None:
        self.keys, self._folder = tmp_path / "keys", tmp_path / "nats"
        self._folder.mkdir()
        (tmp_path / "public").mkdir()
        certificate, key = Authority(tmp_path / "public").issue("localhost", file="broker")
        self.trusted_ca = tmp_path / "public" / "ca.pem"
        self.port = free_port()
        (self._folder / "trust.conf").symlink_to(self.keys / "trust.conf")
        config = (SHIPPED / "nats.conf").read_text()
        for shipped, ours in (
            ("127.0.0.1:4222", f"127.0.0.1:{free_port()}"),
            ("0.0.0.0:8883", f"127.0.0.1:{self.port}"),
            ("/etc/nats/tidegate/broker.pem", str(certificate)),
            ("/etc/nats/tidegate/broker.key", str(key)),
            ("/var/lib/nats/tidegate", str(self._folder / "store")),
        ):
            assert config.count(shipped) == 1, shipped
            config = config.replace(shipped, ours)
        (self._folder / "nats.conf").write_text(config)

    def __enter__(self) -> Self:
        with (self._folder / "log").open("ab") as log:
            command = [_locate_program(), "--config", self._folder / "nats.conf"]
            self._process = subprocess.Popen(command, stderr=log, stdout=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.trusted_ca)

    def access(self) -> OwnNats:
        return OwnNats(self.keys, "tg/1", host="localhost", port=self.port, tls=self.tls)

    def connect(self, credential: MqttCredential) -> MqttClient:
        return MqttClient(
            "localhost",
            self.port,
            tls=self.tls,
            client_id=credential.client_id,
            username=credential.username,
            password=credential.password,
        )

    def is_let_in(self, credential: MqttCredential) -> bool:
        try:
            with self.connect(credential):
                return True
        except ConnectRefusedError:
            return False

    @asynccontextmanager
    async def reloading(self) -> AsyncIterator[None]:
        """Reload when the link's target is another file, as tidegate-nats.path does."""
        known = (self.keys / "trust.conf").stat().st_ino

        async def watch() -> None:
            nonlocal known
            while True:
                if (found := (self.keys / "trust.conf").stat().st_ino) != known:
                    known = found
                    self._process.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Nats]:
    server = Nats(tmp_path)
    device_cli.init_nats(server.keys)
    with server:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", server.port)).close()
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_probe, "REFUSAL_TIMEOUT_S", 0.5)


async def test_a_device_may_do_what_it_needs_and_no_more(nats: Nats) -> None:
    access = nats.access()
    await access.start()
    credential = access.issue_device_credential(OTHER, issued=datetime.now(UTC))
    topic = f"tg/1/eu/device/{OTHER}"
    with nats.connect(access.server_credential) as server, nats.connect(credential) as device:
        server.subscribe("tg/1/+/device/+/up/+", qos=1)

        assert device.subscribe(f"{topic}/down/ack", f"tg/1/eu/device/{THIEF}/down/ack", "#") == [0, REFUSED, REFUSED]
        device.publish(f"{topic}/up/hello", b"hello")
        assert server.receive() == (f"{topic}/up/hello", b"hello")


async def test_a_revoked_device_is_thrown_off_and_others_stay(nats: Nats) -> None:
    access = nats.access()
    await access.start()
    stolen, honest = (access.issue_device_credential(name, issued=datetime.now(UTC)) for name in (THIEF, OTHER))
    with nats.connect(stolen) as thief, nats.connect(honest) as other:
        async with nats.reloading():
            await access.revoke({THIEF: datetime.now(UTC)})
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(thief.await_hanging_up)

        assert other.subscribe(f"tg/1/eu/device/{OTHER}/down/ack") == [0]
    assert not nats.is_let_in(stolen)
    assert nats.is_let_in(honest)


async def test_nothing_is_told_again_after_a_restart_of_ours(nats: Nats) -> None:
    first = nats.access()
    await first.start()
    async with nats.reloading():
        await first.revoke({THIEF: datetime.now(UTC)})
    before = (nats.keys / "trust.conf").stat()
    again = nats.access()
    await again.start()
    await again.revoke({})

    assert (nats.keys / "trust.conf").stat().st_ino == before.st_ino


async def test_a_nats_that_nobody_reloads_is_an_error_until_it_has_been(nats: Nats, impatient: None) -> None:
    access = nats.access()
    await access.start()
    stolen = access.issue_device_credential(THIEF, issued=datetime.now(UTC))
    with pytest.raises(BrokerUnavailableError, match="new configuration"):
        await access.revoke({THIEF: datetime.now(UTC)})
    with pytest.raises(BrokerUnavailableError):
        await nats.access().start()
    assert nats.is_let_in(stolen)

    nats._process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_S):
        while nats.is_let_in(stolen):
            await asyncio.sleep(0.02)
    await nats.access().start()


async def test_a_nats_that_does_not_know_our_keys_says_so(nats: Nats, tmp_path: Path) -> None:
    create_nats_folder(tmp_path / "others", "tg/1")
    stranger = OwnNats(tmp_path / "others", "tg/1", host="localhost", port=nats.port, tls=nats.tls)

    with pytest.raises(ConfigurationError, match=r"include .*trust\.conf"):
        await stranger.start()


async def test_a_nats_that_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_probe, "ANSWER_TIMEOUT_S", 0.2)
    create_nats_folder(tmp_path / "keys", "tg/1")

    with pytest.raises(BrokerUnavailableError):
        await OwnNats(tmp_path / "keys", "tg/1", host="127.0.0.1", port=free_port()).start()


async def test_another_topic_root_reaches_nats(nats: Nats) -> None:
    access = OwnNats(nats.keys, "acme/tg/1", host="localhost", port=nats.port, tls=nats.tls)
    async with nats.reloading():
        await access.start()
        credential = access.issue_device_credential(OTHER, issued=datetime.now(UTC))
        with nats.connect(credential) as device:
            topics = [f"{root}/eu/device/{OTHER}/down/ack" for root in ("acme/tg/1", "tg/1")]

            assert device.subscribe(*topics) == [0, REFUSED]


async def test_enrolment_gives_a_credential_for_it_and_revocation_ends_the_session(
    nats: Nats, database: str, tmp_path: Path
) -> None:
    access = nats.access()
    await access.start()
    told = BrokerAccess("mqtt.example.com", 8883, "", tls=nats.tls)
    async with nats.reloading(), enrolment_world(database, tmp_path, issuer=NatsIssuer(access, told)) as world:
        device = await world.enrolled("pump-1")
        broker: dict[str, Any] = device.identity["broker"]
        credential = MqttCredential(**{name: broker[name] for name in ("username", "password", "client_id")})
        assert nats.is_let_in(credential)
        revoked = await world.revoke("pump-1")

        assert (broker["host"], broker["port"], broker["tls"]) == ("mqtt.example.com", 8883, True)
        assert revoked.body["session_ended"] is True
        assert not nats.is_let_in(credential)


async def test_the_server_itself_comes_in_over_tls(nats: Nats, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(nats.trusted_ca))
    url = f"mqtts://localhost:{nats.port}"
    settings = Settings(data_dir=tmp_path, nats_dir=nats.keys, mqtt_url=url, device_mqtt_url="mqtts://mqtt.example.com")
    outside: Outside = await stand_broker(settings, AsyncExitStack(), "unused", NO_TLS, ())
    session = ServerSession(outside.broker, topics=Topics())
    running = asyncio.create_task(session.run())
    await session.wait_up(PATIENCE_S)
    up_since = session.up_since
    await session.close()
    await running

    assert up_since is not None
    assert isinstance(outside.issuer, NatsIssuer)
    assert (outside.issuer.told.host, outside.issuer.told.port) == ("mqtt.example.com", 8883)


def test_the_keys_are_for_tidegate_and_the_rest_for_nats(tmp_path: Path) -> None:
    trust = create_nats_folder(tmp_path / "keys", "tg/1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in trust.parent.iterdir()}

    assert modes == {"keys.json": 0o600, "trust.conf": 0o644}
    assert "seed" not in trust.read_text()
    with pytest.raises(ConflictError):
        create_nats_folder(tmp_path / "keys", "tg/1")


def test_a_folder_without_keys_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nats init"):
        OwnNats(tmp_path, "tg/1", host="127.0.0.1", port=1)


async def test_keys_of_ones_own_need_a_broker_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TIDEGATE_MQTT_URL"):
        await stand_broker(Settings(nats_dir=tmp_path), AsyncExitStack(), "unused", NO_TLS, ())


@pytest.mark.parametrize("url", ["http://x", "mqtt://", "x", "mqtts:x"])
def test_a_url_that_is_no_brokers_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="mqtt://"):
        external_broker(url, "")
