"""One device's settings, and how it reaches its broker."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from device_sim.agent.health import HEALTH_TIMEOUT_S
from server.domain.identity import Cohort, DeviceId, HardwareClass, Region
from server.domain.windows import Window
from server.mqtt.link import Incoming, MqttLink, Will


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One device: who it is, where its broker is, what it trusts, and where it keeps its state."""

    device_id: DeviceId
    host: str
    port: int
    username: str | None
    password: str | None
    vendor: str
    hardware_class: HardwareClass
    root_bytes: bytes
    """The pinned root document, from the factory."""
    directory: Path
    region: Region
    cohort: Cohort
    """Region and cohort until the first welcome says otherwise."""
    client_id: str | None = None
    """Part of the broker's credential where the broker says so; else the device id."""
    topic_root: str = "tg/1"
    tls: ssl.SSLContext | None = None
    agent_version: str = "tidegate-agent"
    components: frozenset[str] | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    wake_interval_s: int | None = None
    """What it declares: it wakes at most so long after it last woke. None: it does not sleep."""
    awake_s: float | None = None
    """It goes to sleep by itself when there was nothing to do for so long; None: others see to that."""
    lab_factor: float = 1.0
    """So many times shorter than a real device's are the pauses before it connects again: a lab's clock runs fast."""
    utc_offset_minutes: int | None = None
    """Of its local time; None: as the server says."""
    windows: tuple[Window, ...] = ()
    """Its own maintenance windows, in its local time."""
    health_timeout_s: float = HEALTH_TIMEOUT_S
    durable: bool = True
    """False saves every fsync and every thread: for simulated devices, whose storage ends with their machine."""


class Link(Protocol):
    """What the runner needs of ``MqttLink``; a simulator may put a slow line in between."""

    @property
    def connected(self) -> bool: ...
    async def run(self) -> None: ...
    async def close(self, *, graceful: bool = True) -> None: ...
    def drop(self) -> None: ...
    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> asyncio.Future[None] | None: ...
    def subscribe(self, topics: list[tuple[str, int]]) -> None: ...
    def unsubscribe(self, topics: list[str]) -> None: ...


class Connect(Protocol):
    """Make a link; not yet connected."""

    def __call__(
        self,
        config: DeviceConfig,
        *,
        will: Will,
        on_message: Callable[[Incoming], None],
        on_up: Callable[[bool], None],
        on_down: Callable[[str], None],
    ) -> Link: ...


def connect_mqtt(
    config: DeviceConfig,
    *,
    will: Will,
    on_message: Callable[[Incoming], None],
    on_up: Callable[[bool], None],
    on_down: Callable[[str], None],
) -> Link:
    """Return a link to the device's broker."""
    return MqttLink(
        host=config.host,
        port=config.port,
        client_id=config.client_id or config.device_id,
        username=config.username,
        password=config.password,
        tls=config.tls,
        will=will,
        on_message=on_message,
        on_up=on_up,
        on_down=on_down,
    )
