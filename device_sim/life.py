"""What befalls one simulated device over all its boots, and the usual answer: faults by the seed, and a trace."""

import random
from collections.abc import Callable
from typing import Final, Protocol

from device_sim.agent.boot_environment import SlotInfo
from device_sim.agent.clock import Clock
from device_sim.agent.device import Connect, DeviceConfig, connect_mqtt
from device_sim.agent.events import Note
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.agent.http_client import Http
from device_sim.agent.slots import SlotBackend
from device_sim.faults import DeviceFaults
from device_sim.follower import Follower
from device_sim.line import Line
from device_sim.scenario import model
from device_sim.scenario.channel import Channel
from device_sim.script import Script
from device_sim.wire.carried_link import carried, carried_http
from device_sim.wire.fleet_clock import FleetClock

REBOOT_S: Final = 1.5
REBOOT_SPREAD: Final = 0.3  # sigma of the logarithm


class Life(Protocol):
    """The simulated device asks it what happens, and tells it what the device has done."""

    line: Line
    files: Filesystem
    """Where the device keeps what it keeps."""
    connect: Connect
    """How the device reaches its broker."""

    def begin(self) -> None:
        """Every device has reached the broker: what happens at a time counts from now."""

    def stop(self) -> None:
        """Let nothing more happen."""

    def http(self, http: Http) -> Http:
        """Return how the device fetches over HTTP."""

    def slots(self, slots: SlotBackend) -> SlotBackend:
        """Return what the agent sees of its slots in this boot."""

    def clock(self) -> Clock | None:
        """Return the clock of this boot; None: it is the true one."""

    def boots(self, slot: SlotInfo) -> bool:
        """Tell whether a slot comes up."""

    def returns_with(self, version: str) -> bool:
        """Tell whether the device ever comes back with this version."""

    def is_healthy(self, version: str) -> bool:
        """Answer the health check of a version."""

    def without_power_s(self, *, came_up: bool) -> float:
        """Return how long a reboot takes, in real seconds; ``came_up``: whether the slot that was tried came up."""

    def noted(self, note: Note) -> None:
        """Hear what the device has just done."""


class OrdinaryLife:
    """See ``Life``: the faults that it has, a line that may be slow, and a script if it lives by a trace."""

    def __init__(
        self,
        config: DeviceConfig,
        faults: DeviceFaults,
        script: Script | None,
        *,
        seed: int,
        reboot_s: float,
        on_death: Callable[[], None],
    ) -> None:
        self.line = Line()
        self.files: Filesystem = SYSTEM_FILES
        self._faults = faults
        self._script = script
        self._reboot_s = reboot_s
        self._rng = random.Random(f"{seed}|{config.device_id}")
        self._clock = FleetClock(1)
        self._channel = Channel(model.Line(bandwidth=faults.bytes_per_s), (), self._rng)
        connect = carried(connect_mqtt, self._channel, self._clock)
        self._follower: Follower | None = None
        if script is not None:
            rng = random.Random(f"{seed}|{config.device_id}|fate")
            self._follower = Follower(script, self.line, rng=rng, on_death=on_death)
            connect = self._follower.slowed(connect)
        self.connect = self.line.carry(connect)

    def begin(self) -> None:
        if self._follower is not None:
            self._follower.begin()

    def stop(self) -> None:
        if self._follower is not None:
            self._follower.stop()

    def http(self, http: Http) -> Http:
        return carried_http(http, self._channel, self._clock)

    def slots(self, slots: SlotBackend) -> SlotBackend:
        return slots

    def clock(self) -> Clock | None:
        return None

    def boots(self, slot: SlotInfo) -> bool:
        return self._faults.boots(slot.version)

    def returns_with(self, version: str) -> bool:
        in_script = self._script is None or self._script.returns_with(version)
        return in_script and not self._faults.bricks(version)

    def is_healthy(self, version: str) -> bool:
        return not self._faults.is_unhealthy(version)

    def without_power_s(self, *, came_up: bool) -> float:  # noqa: ARG002 - a try that fails takes as long
        if self._script is not None:
            return self._script.reboot_s
        return self._rng.lognormvariate(0, REBOOT_SPREAD) * self._reboot_s

    def noted(self, note: Note) -> None:
        if self._follower is not None:
            self._follower.noted(note)
