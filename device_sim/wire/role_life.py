"""What befalls a device that plays a role of a scenario's cast: absences, faults and effects, each at its time."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from device_sim.agent.boot_environment import SlotInfo
from device_sim.agent.clock import Clock
from device_sim.agent.device import Connect, connect_mqtt
from device_sim.agent.events import Note
from device_sim.agent.filesystem import Filesystem
from device_sim.agent.http_client import Http
from device_sim.agent.slots import SlotBackend
from device_sim.line import Line
from device_sim.scenario.behaviour import Tongue
from device_sim.scenario.cast import Role
from device_sim.scenario.channel import Channel
from device_sim.scenario.device_clock import DeviceClock
from device_sim.scenario.draws import generator
from device_sim.scenario.fate import LOOP_S, OFF_S, POWER_CUT_STATES, REBOOT_S, Fate
from device_sim.scenario.faults import (
    AppDies,
    BootLoop,
    Brick,
    CrashRate,
    Effect,
    FlapsAfterBoot,
    Hang,
    Lies,
    NeverConfirms,
    NoNetwork,
    PowerCut,
    Replays,
    SessionTakeover,
    Unhealthy,
)
from device_sim.scenario.faulty_slots import FaultySlots, Medium
from device_sim.wire.carried_link import carried, carried_http
from device_sim.wire.fleet_clock import FleetClock
from device_sim.wire.memory_files import MemoryFiles, Pool
from device_sim.wire.skewed_clock import SkewedClock
from device_sim.wire.speaking_link import speaking


class Handle(Protocol):
    """What a life does to its device."""

    def reset(self) -> None: ...
    def die(self) -> None: ...
    def lend(self) -> None:
        """Let somebody else take its session over, once."""


class RoleLife:
    """See ``Life``."""

    def __init__(self, role: Role, device: Handle, clock: FleetClock, *, seed: int, pool: Pool) -> None:
        self.line = Line()
        self.files: Filesystem = MemoryFiles(pool)
        self._role = role
        self._device = device
        self._clock = clock
        self._rng = generator(seed, role.id, "life")
        self._fate = Fate(role, self._rng)
        self._own_clock = DeviceClock(role.faults)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_over = self._is_off_net = False
        self._without_power_s: float | None = None
        self._cuts = [fault for fault in role.faults if isinstance(fault, PowerCut)]
        self.tongue = Tongue()
        self._channel = Channel(role.line, role.faults, generator(seed, role.id, "channel"))
        self._medium = Medium(
            role.faults,
            now=lambda: clock.now,
            rng=generator(seed, role.id, "medium"),
            on_step=partial(self._cut_where, None),
        )
        self.connect: Connect = self.line.carry(self._speaking(carried(connect_mqtt, self._channel, clock)))

    # --- what the device asks ---

    def begin(self) -> None:
        self._await_absence(0)
        for number, cut in enumerate(self._cuts):
            if cut.step is None and cut.during is None:
                self._timers[f"cut {number}"] = self._clock.call_at(cut.at, partial(self._cut_power, cut))
        for number, takeover in enumerate(one for one in self._role.faults if isinstance(one, SessionTakeover)):
            self._timers[f"takeover {number}"] = self._clock.call_at(
                takeover.at, partial(self._take_over, f"takeover {number}", takeover)
            )

    def stop(self) -> None:
        self._is_over = True
        for timer in self._timers.values():
            timer.cancel()

    def http(self, http: Http) -> Http:
        return carried_http(http, self._channel, self._clock)

    def slots(self, slots: SlotBackend) -> SlotBackend:
        running = next(slot for slot in slots.slots() if slot.name == slots.booted())
        confirms = self._role.effect(NeverConfirms, running.version) is None
        self._medium.has_power = True
        return FaultySlots(slots, self._medium, confirms=confirms, on_confirm=partial(self._cut_where, "confirming"))

    def clock(self) -> Clock | None:
        return None if self._own_clock.is_true else SkewedClock(self._own_clock, self._clock)

    def boots(self, slot: SlotInfo) -> bool:
        return self._fate.boots(slot.version)

    def returns_with(self, version: str) -> bool:
        return self._fate.returns_with(version)

    def is_healthy(self, version: str) -> bool:
        return self._role.effect(Unhealthy, version) is None

    def without_power_s(self, *, came_up: bool) -> float:
        if self._without_power_s is not None:
            fleet_s, self._without_power_s = self._without_power_s, None
        elif came_up:
            fleet_s = self._fate.reboot_s()
        else:
            fleet_s = max((hang.watchdog for hang in self._role.effects_of(Hang)), default=REBOOT_S)
        return self._clock.real_s(fleet_s)

    def noted(self, note: Note) -> None:
        if note.event == "booted":
            self._booted(note.version)
        elif note.event == "rebooting":
            self.tongue.lies |= self._role.effect(Lies, note.version) is not None
        if note.event in POWER_CUT_STATES:
            self._cut_where(POWER_CUT_STATES[note.event])

    # --- effects of the release that runs ---

    def _booted(self, version: str) -> None:
        for name in [name for name in self._timers if name.startswith("effect")]:
            self._timers.pop(name).cancel()
        if self._is_off_net:
            self._is_off_net = False
            self.line.mend()
        for number, (after_s, effect) in enumerate(self._fate.coming(version)):
            if isinstance(effect, NoNetwork) and not after_s:
                self._leave_net()  # before this boot connects for the first time
            else:
                self._later(f"effect {number}", after_s, partial(self._suffer, effect))

    def _suffer(self, effect: Effect) -> None:
        """An effect of the release begins."""
        match effect:
            case NoNetwork():
                self._leave_net()
            case AppDies() | Brick():
                self._device.die()
            case BootLoop():
                self._later("effect loop", LOOP_S, self._device.reset)
            case CrashRate():
                self._later("effect crash", self._fate.crash_in_s(effect), self._device.reset)
            case FlapsAfterBoot():
                self._flap(effect)

    def _leave_net(self) -> None:
        self._is_off_net = True
        self.line.cut()

    def _flap(self, effect: FlapsAfterBoot) -> None:
        self._later("effect flap", self._rng.uniform(0.5, 1.5) * effect.every, partial(self._lose, effect))

    def _lose(self, effect: FlapsAfterBoot) -> None:
        self._leave_net()
        self._later("effect flap", self._rng.uniform(0.5, 1.5) * effect.off, partial(self._find, effect))

    def _find(self, effect: FlapsAfterBoot) -> None:
        self._is_off_net = False
        self.line.mend()
        self._flap(effect)

    # --- the background, and what strikes in time ---

    def _await_absence(self, number: int) -> None:
        if number < len(self._role.absences):
            start, _ = self._role.absences[number]
            self._timers["absence"] = self._clock.call_at(start, partial(self._leave, number))

    def _leave(self, number: int) -> None:
        self.line.cut()
        _, end = self._role.absences[number]
        if end < float("inf"):
            self._timers["absence"] = self._clock.call_at(end, partial(self._come_back, number))

    def _come_back(self, number: int) -> None:
        self.line.mend()
        self._await_absence(number + 1)

    def _take_over(self, name: str, fault: SessionTakeover) -> None:
        if self._clock.now < fault.until:
            self._device.lend()
            self._later(name, fault.every, partial(self._take_over, name, fault))

    def _cut_power(self, cut: PowerCut) -> None:
        self._without_power_s = OFF_S if cut.lasts is None else cut.lasts
        self._medium.has_power = False
        self._device.reset()

    def _cut_where(self, state: str | None = None, step: int | None = None) -> None:
        """Cut the power once, if that is to happen here."""
        for cut in self._cuts:
            is_here = cut.during == state if step is None else cut.step == step
            if is_here and cut.at <= self._clock.now:
                self._cuts.remove(cut)
                self._cut_power(cut)
                return

    # --- what it says, and how that travels ---

    def _speaking(self, connect: Connect) -> Connect:
        replays = [fault for fault in self._role.faults if isinstance(fault, Replays)]
        if not self._role.effects_of(Lies) and not replays:
            return connect

        def says_again() -> bool:
            return any(fault.at <= self._clock.now < fault.until for fault in replays)

        return speaking(connect, self.tongue, says_again)

    def _later(self, name: str, fleet_s: float, act: Callable[[], None]) -> None:
        if not self._is_over:
            self._timers[name] = self._clock.call_later(fleet_s, act)
