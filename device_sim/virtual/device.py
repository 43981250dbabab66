"""One device in virtual time: the agent's own core, with a shell around it that has no sockets, no files and no clock.

The shell does what ``Runner`` and the fleet simulator do: it carries out effects in order, connects and loses its
connection, reboots through the bootloader, and lets what the cast has in store for it happen. Nothing here is alive
between two events: a device that is idle costs nothing.
"""

from functools import partial
from math import inf
from typing import Final

from device_sim.agent.boot_environment import SlotInfo, SlotState
from device_sim.agent.core import Agent
from device_sim.agent.events import (
    CheckHealth,
    Effect,
    Event,
    HealthChecked,
    LinkDown,
    LinkUp,
    Note,
    Publish,
    Reboot,
    Received,
    Reconnect,
    Subscribe,
    Unsubscribe,
)
from device_sim.agent.state import ACTIVE, AgentState
from device_sim.agent.trust import Identity
from device_sim.scenario import faults as kinds
from device_sim.scenario.absences import losses
from device_sim.scenario.behaviour import Tongue
from device_sim.scenario.cast import Role
from device_sim.scenario.device_clock import DeviceClock
from device_sim.scenario.draws import generator
from device_sim.scenario.fate import LOOP_S, OFF_S, POWER_CUT_STATES, Fate
from device_sim.virtual.core_loop import CoreLoop
from device_sim.virtual.faulty_storage import FaultyStorage
from device_sim.virtual.line import VirtualLine
from device_sim.virtual.memory_slots import MemorySlots
from device_sim.virtual.orders import COHORT
from device_sim.virtual.presence import Presence
from device_sim.virtual.release import VENDOR
from device_sim.virtual.surroundings import World
from server.services.sites import SITE_LABEL

FACTORY_VERSION: Final = "1.0.0"
FACTORY: Final = SlotInfo("a", SlotState.CONFIRMED, 0, FACTORY_VERSION)
NONCE_BYTES: Final = 16
BOOT_ID_BYTES: Final = 8
_NO_NETWORK: Final = "no network"
_FLAPS: Final = "flaps"


class VirtualDevice:
    """``number``: its place in the cast. ``start`` it once."""

    def __init__(self, number: int, role: Role, world: World, *, seed: int) -> None:
        self.number = number
        self.role = role
        self.is_lost = False
        """It never comes back."""
        self.line = VirtualLine(role, seed=seed)
        self._world = world
        self._rng = generator(seed, role.id, "device")
        self._fate = Fate(role, generator(seed, role.id, "life"))
        self._own_clock = DeviceClock(role.faults)
        self.presence = Presence(role, self, world.clock, self._rng, is_broker_up=lambda: world.is_broker_up)
        self._loop = CoreLoop(world.clock, self._own_clock, perform=self._perform, news=self._newer_order)
        self._slots = MemorySlots(FACTORY, world.kept)
        self._storage = FaultyStorage(role, self._slots, world.clock, seed=seed, cut=self._cut_where)
        self._identity = Identity(
            role.id,
            VENDOR,
            role.hardware,
            "virtual",
            labels={SITE_LABEL: role.site} if role.site else {},
            wake_interval_s=None if role.wake_interval_s is None else round(role.wake_interval_s),
        )
        self._version = FACTORY_VERSION
        self._boots = 0
        self._heard = 0
        self._replays = [fault for fault in role.faults if isinstance(fault, kinds.Replays)]
        self._tongue = Tongue() if role.effects_of(kinds.Lies) or self._replays else None
        self._cuts = [fault for fault in role.faults if isinstance(fault, kinds.PowerCut)]

    @property
    def is_on(self) -> bool:
        return self._loop.agent is not None

    @property
    def is_updating(self) -> bool:
        """It is in the middle of an update."""
        update = None if self._loop.agent is None else self._loop.agent.state.update
        return update is not None and update.phase in ACTIVE

    def start(self) -> None:
        """Switch it on for the first time, and let what the cast has in store for it come."""
        clock = self._world.clock
        self.presence.start()
        for fault in self.role.faults:
            if isinstance(fault, (kinds.Jump, kinds.Skew)):
                clock.at(fault.at, self._loop.look_again)
                clock.at(fault.until, self._loop.look_again)
        for cut in self._cuts:
            if cut.during is None and cut.step is None:
                clock.at(cut.at, partial(self._cut_power, cut))
        self._run(self._boots)

    # --- power ---

    def _restart(self, off_s: float | None = None) -> None:
        """The power goes, or the device resets itself; it is without an agent until the bootloader is through."""
        self._loop.end()
        self.presence.lose()
        self._boots += 1
        trial = self._slots.environment.trial
        tried = self._version if trial is None else self._slots.environment.slots[trial].version
        booted = self._slots.boot(lambda slot: self._fate.boots(slot.version))
        running = self._slots.environment.slots[self._slots.booted()]
        if booted.slot is None or not self._fate.returns_with(running.version):
            self._be_lost("bricked", running.version)
            return
        tries_s = (booted.attempts - 1) * self._fate.try_s(tried)
        pause_s = self._fate.reboot_s() if off_s is None else off_s
        self._world.clock.after(pause_s + tries_s, partial(self._run, self._boots))

    def _run(self, boot: int) -> None:
        """The bootloader has handed over."""
        if boot != self._boots or self.is_lost:
            return
        now = self._world.clock.now
        running = self._slots.environment.slots[self._slots.booted()]
        self._version = running.version
        self.presence.forget(_NO_NETWORK, _FLAPS)
        self._own_clock.boot(now)
        self._storage.begin(running.version)
        self._note(Note("booted", version=running.version, slot=running.name))
        self._loop.begin(
            Agent(
                identity=self._identity,
                root=self._world.root,
                state=self._storage.load(AgentState(self.role.region, COHORT)),
                slots=self._slots.slots(),
                booted=self._slots.booted(),
                boot_id=boot.to_bytes(BOOT_ID_BYTES, "big"),
                now=self._own_clock.reading(now),
                topics=self._world.topics,
                rng=self._rng,
            )
        )
        for after_s, effect in self._fate.coming(running.version):
            if after_s:
                self._world.clock.after(after_s, partial(self._suffer, effect, boot))
            else:
                self._suffer(effect, boot)
        self.presence.connect()

    def _suffer(self, effect: kinds.Effect, boot: int) -> None:
        """An effect of the release begins."""
        if not self._is_boot(boot):
            return
        match effect:
            case kinds.Brick():
                self._be_lost("bricked", self._version)
            case kinds.AppDies():
                self._be_lost("died", self._version)
            case kinds.BootLoop():
                self._world.clock.after(LOOP_S, partial(self._crash, boot))
            case kinds.NoNetwork():
                self.presence.bar(_NO_NETWORK)
            case kinds.CrashRate():
                self._world.clock.after(self._fate.crash_in_s(effect), partial(self._crash, boot))
            case kinds.FlapsAfterBoot(every=every, off=off):
                spans = losses(self._rng, every, off, start=self._world.clock.now, end=inf)
                self.presence.flap(_FLAPS, spans, partial(self._is_boot, boot))

    def _is_boot(self, boot: int) -> bool:
        return boot == self._boots and self.is_on

    def _crash(self, boot: int) -> None:
        if self._is_boot(boot):
            self._note(Note("crashed", version=self._version))
            self._restart()

    def _be_lost(self, event: str, version: str) -> None:
        self.is_lost = True
        self._loop.end()
        self.presence.lose()
        self._note(Note(event, version=version))

    def _cut_power(self, cut: kinds.PowerCut) -> None:
        if self.is_on:
            self._storage.lose_power()
            self._note(Note("power_cut", version=self._version))
            self._restart(OFF_S if cut.lasts is None else cut.lasts)

    def _cut_where(self, state: str | None = None, step: int | None = None) -> None:
        """Cut the power once, if that is to happen here."""
        for cut in self._cuts:
            is_here = cut.during == state if step is None else cut.step == step
            if is_here and self._world.clock.now >= cut.at:
                self._cuts.remove(cut)
                self._cut_power(cut)
                return

    # --- its sessions ---

    def connected(self) -> None:
        self._heard = 0
        self._loop.feed(LinkUp(self._rng.randbytes(NONCE_BYTES)))
        now = self._world.clock.now
        if self._tongue is not None and any(fault.at <= now < fault.until for fault in self._replays):
            for said in self._tongue.again():
                self._world.published(self, said.topic, said.payload)

    def disconnected(self, *, rests: bool) -> None:
        self.line.cut()
        self._world.went(self, rests=rests)
        self._loop.feed(LinkDown())

    def receive(self, session: int, topic: str, payload: bytes) -> None:
        """A message of a session arrives, if that session is still there."""
        if session == self.presence.session and self.presence.is_up:
            self._loop.feed(Received(topic, payload))

    def catch_up(self) -> None:
        """Take in what the region is told by now."""
        self._loop.catch_up()

    def may_sleep(self) -> bool:
        return self._loop.agent is not None and self._loop.agent.may_sleep

    def has_something_to_do(self) -> bool:
        agent = self._loop.agent
        return self.is_updating or (agent is not None and bool(agent.state.unacked)) or self._world.concerns(self)

    def _newer_order(self) -> Received | None:
        """While an update is under way, another stretch of the same line is nothing to it."""
        order = self._world.order(self) if self.presence.is_up else None
        if order is None or order.counter.counter <= self._heard:
            return None
        if self._heard >= order.said_since and self.is_updating:
            return None
        self._heard = order.counter.counter
        return Received(self._world.topic_of(self), order.sealed)

    # --- what the core wants done ---

    def _perform(self, effect: Effect) -> Event | None:
        match effect:
            case Note():
                self._note(effect)
            case Subscribe(topics):
                if self.presence.is_up:
                    self._world.subscribed(self, topics)
            case Publish(topic, payload):
                if self.presence.is_up:
                    said = payload if self._tongue is None else self._tongue.speak(topic, payload)
                    self._world.published(self, topic, said)
            case CheckHealth():
                is_healthy = self.role.effect(kinds.Unhealthy, self._version) is None
                self._loop.feed(HealthChecked(is_healthy, "" if is_healthy else "the health check says no"))
            case Reboot():
                self._restart()
            case Reconnect():
                self.presence.lose()
                self._world.clock.after(self._rng.random(), self.presence.connect)
            case Unsubscribe():
                pass
            case _:
                return self._storage.perform(effect)
        return None

    def _note(self, note: Note) -> None:
        self._world.noted(self, note)
        if note.event == "rebooting" and self._tongue is not None:
            self._tongue.lies |= self.role.effect(kinds.Lies, note.version) is not None
        if self._cuts and note.event in POWER_CUT_STATES:
            self._cut_where(POWER_CUT_STATES[note.event])
