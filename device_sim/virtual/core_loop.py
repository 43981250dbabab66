"""What feeds an agent's core in virtual time: events one after the other, and a tick when it has asked for one."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from device_sim.agent.core import Agent
from device_sim.agent.events import Effect, Event, LinkUp, StepFailed, Subscribe, Tick, Unsubscribe, put_answer
from device_sim.scenario.device_clock import DeviceClock
from device_sim.virtual.clock import Clock

_LEAST_S: Final = 0.001
"""The core has its next turn no sooner than this after one that it asked for."""


class CoreLoop:
    """Of one device, over its boots. ``perform`` carries an effect out, and returns what answers it.

    ``news`` is asked before each event: something that the core would have heard by now.
    """

    def __init__(
        self,
        clock: Clock,
        own_clock: DeviceClock,
        *,
        perform: Callable[[Effect], Event | None],
        news: Callable[[], Event | None],
    ) -> None:
        self.agent: Agent | None = None
        """None while the device is without power."""
        self._clock = clock
        self._own_clock = own_clock
        self._perform = perform
        self._news = news
        self._inbox: deque[Event] = deque()
        self._is_busy = False
        self._wakes_at: float | None = None

    def begin(self, agent: Agent) -> None:
        """A boot begins."""
        self.agent = agent
        self._carry_out(agent.boot())
        self._pump()

    def end(self) -> None:
        """The boot is over, whatever was under way."""
        self.agent = None
        self._inbox.clear()

    def feed(self, event: Event) -> None:
        """Give the core an event, and everything that follows from it at once."""
        if self.agent is None:
            return
        if not isinstance(event, LinkUp) and (news := self._news()) is not None:
            self._inbox.append(news)
        self._inbox.append(event)
        if not self._is_busy:
            self._pump()

    def catch_up(self) -> None:
        """Give the core what it would have heard by now, if there is anything."""
        if self.agent is not None and not self._is_busy and (news := self._news()) is not None:
            self._inbox.append(news)
            self._pump()

    def look_again(self) -> None:
        """The device's clock has changed: whatever was planned by it is planned anew."""
        self._wakes_at = None
        self.feed(Tick())

    def _pump(self) -> None:
        inbox = self._inbox
        self._is_busy = True
        while inbox and self.agent is not None:
            event = inbox.popleft()
            reads = self._own_clock.reading(self._clock.now)
            self._carry_out(self.agent.handle(event, reads, then=inbox[0] if inbox else None))
        self._is_busy = False
        self._set_wake()

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        agent, has_failed = self.agent, False
        for effect in effects:
            if has_failed and not isinstance(effect, (Subscribe, Unsubscribe)):
                continue
            answer = self._perform(effect)
            if self.agent is not agent:
                return  # the power went with it
            if answer is not None:
                put_answer(self._inbox, effect, answer)
            has_failed = has_failed or isinstance(answer, StepFailed)

    def _set_wake(self) -> None:
        at = None if self.agent is None else self.agent.acts_at
        if at is None:
            return
        when = max(self._fleet_time(at), self._clock.now + _LEAST_S)
        if self._wakes_at is None or when < self._wakes_at:
            self._wakes_at = when
            self._clock.at(when, partial(self._wake, when))

    def _wake(self, when: float) -> None:
        if when != self._wakes_at:
            return  # an earlier one was planned since
        self._wakes_at = None
        if self.agent is None:
            return
        at = self.agent.acts_at
        if at is not None and self._fleet_time(at) <= self._clock.now:
            self.feed(Tick())
        else:
            self._set_wake()

    def _fleet_time(self, reads: float) -> float:
        """Return when the device's clock says so, if nothing strikes it before."""
        now, own = self._clock.now, self._own_clock
        return reads if own.is_true else now + (reads - own.reading(now)) / own.rate(now)
