"""A campaign in virtual time: world, rule and engine, tick by tick, to a verdict that ``expect`` may check.

A halt ends it, and so does a pause that only a person ends. A gate's pause goes on, since it may mend; a campaign that
is still paused by its gate when the trace ends needs a person, too.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from server.domain.campaign import Cause, State
from server.domain.decide import Decision, Kind
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.view import Call, Floats, Moment, Population, Verdict
from server.domain.plan import Plan, Policy
from server.services.replay.engine import Engine, plan_of_a_day
from server.services.replay.neighbours import Neighbours
from server.services.replay.world import Count, World, campaign_of
from server.traces.format import Expect, Trace

_SHOWN_S: Final = 3600.0
"""A plot shows what has come to its deadline in so long a time."""

_COMPLETE: Final = frozenset({State.WATCHING, State.FINISHED})


class Rule(Protocol):
    """Whatever judges a release; the halt rule, or another one to compare it with."""

    def step(self, moment: Moment) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Point:
    """One tick, for a plot: shares of devices silent at their deadline (nan: none were due), and the rule's wealth."""

    virtual_s: float
    updated_silent: float
    control_silent: float
    wealth: float
    is_paused: bool


@dataclass(frozen=True, slots=True)
class Result:
    """How a replay ended. ``verdict`` is ``complete``, ``hold``, ``halt``, or ``unfinished`` when the trace was short.

    ``bricked``: devices that are dark or flapping because of the release at the decision (or the end). ``virtual_s``:
    when that was, since the trace began; ``completed_s``: when the last wave was through. ``seen``: what happened on
    the way, of pause, brake, hold and halt.
    """

    name: str
    seed: int
    devices: int
    verdict: str
    scope: str
    channel: str
    sentence: str
    started: int
    updated: int
    bricked: int
    virtual_s: float
    completed_s: float | None
    pauses: int
    wealth: float
    seen: tuple[str, ...]
    curve: tuple[Point, ...] = field(default=(), repr=False)

    def plain(self) -> dict[str, Any]:
        """Everything but the curve, ready for JSON."""
        fields = asdict(self)
        del fields["curve"]
        return fields


def replay(
    trace: Trace,
    rule: Rule,
    population: Population,
    *,
    plan: Plan | None = None,
    policy: Policy | None = None,
    curve: bool = False,
    watch: bool = True,
    on_tick: Callable[[float, Count], None] | None = None,
    on_decision: Callable[[float, Decision], None] | None = None,
) -> Result:
    """Run the trace's release to its end or to the rule's verdict.

    ``watch``: judge what comes after the last wave, too, as long as the trace goes. ``on_tick`` hears the share of the
    trace that is done, and how many devices have come how far; ``on_decision`` when (Unix seconds) what was decided.
    """
    world = World(trace)
    settings = policy or Policy()
    tick, duration = trace.head.tick, trace.head.duration
    engine = Engine(
        plan or plan_of_a_day(population),
        population,
        settings,
        campaign=campaign_of(trace),
        begins=trace.epoch,
        grace_s=trace.head.mqtt.lost_after_s,
    )
    log = _Log()
    shown = _Curve(population, settings.halt)
    verdict, end, completed, elapsed = Verdict(), None, None, 0.0
    while elapsed < duration and end is None:
        elapsed = min(elapsed + tick, duration)
        now = trace.epoch + elapsed
        moment = world.tick(now, engine.level(now))
        verdict = rule.step(moment)
        starting = engine.step(moment, verdict, until=now + tick)
        is_still = is_paused(verdict) or engine.campaign.state is State.PAUSED
        log.note(now, verdict, engine.decisions, is_paused=is_still)
        if curve:
            shown.note(elapsed, moment, verdict, is_paused=is_still)
        if on_decision is not None:
            for decision in engine.decisions:
                on_decision(now, decision)
        if on_tick is not None:
            on_tick(elapsed / duration, world.count)
        end = _end(engine, verdict)
        if len(starting):
            world.start(starting)
        if completed is None and engine.campaign.state in _COMPLETE:
            completed = elapsed
        if completed is not None and (not watch or engine.campaign.state is State.FINISHED):
            break
    if end is None and Cause.GATE in engine.campaign.causes:
        end, elapsed = End("hold", "gate", "fleet", log.gate), log.gate_at - trace.epoch
    if end is not None:
        log.seen.add(end.verdict)
    return Result(
        name=trace.head.name,
        seed=trace.head.seed,
        devices=trace.head.devices,
        verdict=end.verdict if end else ("unfinished" if completed is None else "complete"),
        scope=end.scope if end else "",
        channel=end.channel if end else "",
        sentence=end.sentence if end else "",
        started=world.count.started,
        updated=world.count.rebooted,
        bricked=world.count.suffering,
        virtual_s=elapsed if end or completed is None else completed,
        completed_s=completed,
        pauses=log.pauses,
        wealth=verdict.wealth,
        seen=tuple(sorted(log.seen)),
        curve=tuple(shown.points),
    )


class End(NamedTuple):
    """How a campaign ended before it was complete."""

    verdict: str
    channel: str
    scope: str
    sentence: str


def _end(engine: Engine, verdict: Verdict) -> End | None:
    """Return how the campaign has just ended, or None: a halt, or a pause that only a person ends."""
    for decision in engine.decisions:
        is_hold = decision.kind is Kind.PAUSE and decision.cause is Cause.EVIDENCE
        if decision.kind is not Kind.HALT and not is_hold:
            continue
        call = Call.HOLD if is_hold else Call.HALT
        channel, scope = (verdict.channel, verdict.scope) if verdict.call is call else ("spike", "fleet")
        return End(call.name.lower(), channel, scope, decision.sentence)
    return None


def misses(result: Result, expect: Expect) -> list[str]:
    """Say in what the result is not what the trace expects; nothing, if it is."""
    said = []
    if "any" not in expect.verdict.split("|") and result.verdict not in expect.verdict.split("|"):
        said.append(f"verdict {result.verdict}, expected {expect.verdict}")
    is_stopped = result.verdict in {"halt", "hold"}
    if is_stopped and expect.scope is not None and expect.scope not in result.scope.split():
        said.append(f"scope {result.scope or 'none'}, expected {expect.scope}")
    if is_stopped and expect.channel is not None and expect.channel != result.channel:
        said.append(f"channel {result.channel or 'none'}, expected {expect.channel}")
    happened = {*result.seen, result.verdict}
    said += [f"no {word}, which must be" for word in expect.must if word not in happened]
    said += [f"{word}, which must not be" for word in expect.must_not if word in happened]
    return said


def is_paused(verdict: Verdict) -> bool:
    """Tell whether some region, or the whole campaign, stands still until the weather is better."""
    return verdict.is_blind or bool(verdict.bad_weather)


class _Log:
    """What a campaign went through."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.pauses = 0
        self.gate = ""
        self.gate_at = 0.0
        """What a gate said when it last paused the campaign, and when (Unix seconds)."""
        self._is_paused = False

    def note(self, now: float, verdict: Verdict, decisions: Sequence[Decision], *, is_paused: bool) -> None:
        before, self._is_paused = self._is_paused, is_paused
        if is_paused:
            self.pauses += not before
            self.seen.add("pause")
        if verdict.call is Call.BRAKE:
            self.seen.add("brake")
        for decision in decisions:
            if decision.cause is Cause.GATE and decision.kind is Kind.PAUSE:
                self.seen.add("gate")
                self.gate, self.gate_at = decision.sentence, now


class _Curve:
    """What a plot shows: shares of the last hour's updated devices and their neighbours that fell silent."""

    def __init__(self, population: Population, policy: HaltPolicy) -> None:
        self._neighbours = Neighbours(population, deadline_s=policy.g1_s, reboot_s=policy.reboot_s)
        self._recent: deque[tuple[float, Floats]] = deque()
        self.points: list[Point] = []

    def note(self, elapsed: float, moment: Moment, verdict: Verdict, *, is_paused: bool) -> None:
        self._recent.append((elapsed, self._neighbours.step(moment)))
        while self._recent[0][0] <= elapsed - _SHOWN_S:
            self._recent.popleft()
        updated, silent, beside, dark = np.sum([totals for _, totals in self._recent], axis=0)
        self.points.append(
            Point(
                elapsed,
                silent / updated if updated else math.nan,
                dark / beside if beside else math.nan,
                verdict.wealth,
                is_paused,
            )
        )
