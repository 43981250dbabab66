"""When a device in virtual time has a session: its absences, what bars it from its line, and its sleep."""

from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from random import Random
from typing import Final, Protocol

from device_sim.agent.runner import RECONNECT_LONGEST_S
from device_sim.scenario.absences import Span
from device_sim.scenario.cast import Role
from device_sim.virtual.clock import Clock

_ABSENT: Final = "absent"


class Sleeper(Protocol):
    """What sleep asks of the device."""

    @property
    def is_on(self) -> bool:
        """It has power, and is through its boot."""

    def may_sleep(self) -> bool:
        """Nothing is under way that a sleep would hold up."""

    def has_something_to_do(self) -> bool:
        """If it woke now, it would find something to do."""

    def connected(self) -> None:
        """A session has begun."""

    def disconnected(self, *, rests: bool) -> None:
        """The session has ended. ``rests``: to sleep."""


class Presence:
    """Of one device. ``session`` rises whenever one begins or ends: what was under way in another does not arrive."""

    def __init__(
        self, role: Role, device: Sleeper, clock: Clock, rng: Random, *, is_broker_up: Callable[[], bool]
    ) -> None:
        self.is_up = False
        self.session = 0
        self._role = role
        self._device = device
        self._clock = clock
        self._rng = rng
        self._is_broker_up = is_broker_up
        self._bars: set[str] = set()
        self._is_resting = False
        self._woke_at = 0.0

    def start(self) -> None:
        """Let its absences come."""
        self._plan_absence(0)

    def bar(self, why: str) -> None:
        """It has no line from now on."""
        self._bars.add(why)
        self.lose()

    def let_back(self, why: str, *, after_s: float = 0.0) -> None:
        """That is over, ``after_s`` after it began: it connects within the pause devices make between their tries."""
        self._bars.discard(why)
        pause_s = self._rng.random() * min(RECONNECT_LONGEST_S, after_s)
        self._clock.after(pause_s, self.connect)

    def forget(self, *whys: str) -> None:
        """These were of the boot before."""
        self._bars.difference_update(whys)

    def connect(self) -> None:
        """Begin a session, if nothing is in the way."""
        if self._bars or self.is_up or self._is_resting or not self._device.is_on or not self._is_broker_up():
            return
        self.is_up = True
        self.session += 1
        self._woke_at = self._clock.now
        self._device.connected()
        if self._role.wake_interval_s is not None:
            self._clock.after(self._role.awake_s, partial(self._doze_off, self.session))

    def lose(self, *, rests: bool = False) -> None:
        """End the session, if there is one."""
        if self.is_up:
            self.is_up = False
            self.session += 1
            self._device.disconnected(rests=rests)

    def flap(self, why: str, spans: Iterator[Span], lasts: Callable[[], bool]) -> None:
        """Lose the line for each of these spans, while that ``lasts``."""
        start, end = next(spans)

        def begin() -> None:
            if lasts():
                self.bar(why)
                self._clock.at(end, finish)

        def finish() -> None:
            if lasts():
                self.let_back(why)
                self.flap(why, spans, lasts)

        self._clock.at(start, begin)

    def _plan_absence(self, number: int) -> None:
        if number >= len(self._role.absences):
            return
        start, end = self._role.absences[number]

        def begin() -> None:
            self.bar(_ABSENT)
            if end < inf:
                self._clock.at(end, finish)

        def finish() -> None:
            self.let_back(_ABSENT, after_s=end - start)
            self._plan_absence(number + 1)

        if start <= 0:
            begin()
        else:
            self._clock.at(start, begin)

    def _doze_off(self, session: int) -> None:
        """Go to sleep if there is nothing to do, else look again a little later."""
        if session != self.session or not self._device.is_on:
            return
        if not self._device.may_sleep():
            self._clock.after(self._role.awake_s, partial(self._doze_off, session))
            return
        assert self._role.wake_interval_s is not None
        self._is_resting = True
        self.lose(rests=True)
        self._clock.at(self._woke_at + self._role.wake_interval_s, self._wake_up)

    def _wake_up(self) -> None:
        """Wake if there is something to do; of wakes that find nothing the server's arrays know by themselves."""
        assert self._role.wake_interval_s is not None
        if self._device.is_on and not self._bars and not self._device.has_something_to_do():
            self._clock.after(self._role.wake_interval_s, self._wake_up)
            return
        self._is_resting = False
        self.connect()
