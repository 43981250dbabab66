"""The one decision: what should become of a campaign now, given all that is known of it (pure).

``decide(snapshot, now)`` is asked soon after any news and at least every second. It returns a value; carrying it
out, by compare-and-set, is the orchestrator's job. The order of the questions is the order of safety: first whether to
halt, then whether to stand still, and only then whether to go on, and how fast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Final

import numpy as np

from server.domain import bounds
from server.domain.campaign import JUDGED, Cause, State
from server.domain.consent import Answer, Awaited, Consent
from server.domain.gate import Ramp
from server.domain.halt import Call, Verdict
from server.domain.identity import Region
from server.domain.paced import Line, Startable, raised
from server.domain.plan import Plan, Policy, Wave


class Kind(StrEnum):
    """What to do; values are stored with the evidence."""

    NOTHING = "nothing"
    PACE = "pace"
    WAIT = "wait"
    OPEN_WAVE = "open_wave"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    HALT = "halt"
    COMPLETE = "complete"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class RegionView:
    """One region of a campaign, counted. ``reached``: eligible devices that are due and have been online since.

    ``waiting`` of them have not started (``starting`` of these are about to, the others wait to be admitted),
    ``in_flight`` have started and are not over, ``confirmed``, ``failed`` (explicitly) and ``silent`` are; ``excess``
    silent ones their neighbours' rate does not explain. ``candidates`` are the eligible devices, online or not, and
    those of which nothing is known before their first hello; ``targeted`` of them are due once the level is at its
    target, and ``targeted_online`` of those are eligible and online. ``startable`` are the eligible ones above the
    level that are online.
    """

    region: Region
    ramp: Ramp
    planned: Ramp
    eligible: int = 0
    eligible_online: int = 0
    candidates: int = 0
    targeted: int = 0
    targeted_online: int = 0
    reached: int = 0
    waiting: int = 0
    starting: int = 0
    in_flight: int = 0
    confirmed: int = 0
    failed: int = 0
    judged: int = 0
    silent: int = 0
    excess: float = 0.0
    controls: int = 0
    control_silent: int = 0
    startable: Startable = field(default_factory=Startable.nobody)

    @property
    def target(self) -> int:
        """The level that the wave is for."""
        return self.planned.l1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A campaign and what is known of its devices, at one moment. Times in Unix seconds.

    ``verdict`` is the halt rule's; its regions are in the order of ``regions``. ``advanced``: the wave that a person
    has let through; ``answer``: the last of the open wave's webhook. ``awaits`` and ``sentence``: whose word the
    campaign says that it waits for, and how.
    """

    state: State
    causes: frozenset[Cause]
    plan: Plan
    policy: Policy
    regions: Sequence[RegionView]
    started_at: float
    verdict: Verdict = field(default_factory=Verdict)
    starting_in_classes: Sequence[int] = ()
    wave: int | None = None
    blobs_ready: bool = True
    watching_since: float | None = None
    advanced: int | None = None
    awaits: Awaited = Awaited.NOBODY
    sentence: str = ""
    answer: Answer | None = None

    @property
    def lines(self) -> list[Line]:
        """The levels of the regions, in their order."""
        return [
            Line(view.region, view.ramp, view.planned, view.starting, view.in_flight, view.startable)
            for view in self.regions
        ]

    @property
    def current(self) -> Wave | None:
        """The open wave, if one is."""
        return None if self.wave is None else self.plan.waves[self.wave]

    @property
    def consent(self) -> Consent | None:
        """What the open wave wants beyond numbers, if one is open."""
        if self.wave is None:
            return None
        gate = self.plan.waves[self.wave].gate
        again_s = None if gate.webhook is None else gate.webhook_s
        return Consent(self.wave, gate.manual, again_s, self.advanced, self.answer)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the sentence that says why, and the numbers it was made on. ``ramps`` are new lines of levels.

    ``awaits``: whose word is missing, where the decision is to wait.
    """

    kind: Kind = Kind.NOTHING
    sentence: str = ""
    wave: int | None = None
    cause: Cause | None = None
    ramps: Mapping[Region, Ramp] = field(default_factory=dict)
    evidence: Mapping[str, object] = field(default_factory=dict)
    awaits: Awaited = Awaited.NOBODY


NOTHING: Final = Decision()


def regions_of(wave: Wave, campaign_regions: Sequence[Region]) -> tuple[Region, ...]:
    """Return the regions a wave raises: those it names, or all of the campaign's."""
    return wave.regions or tuple(campaign_regions)


def decide(snapshot: Snapshot, now: float) -> Decision:
    """Return what should become of the campaign at ``now`` (Unix seconds)."""
    if snapshot.state not in JUDGED:
        return NOTHING
    decision = _stop(snapshot, now) or _stand_still(snapshot, now) or _go_on(snapshot, now)
    return decision if decision is NOTHING else replace(decision, evidence=_evidence(snapshot))


# --- whether to halt ---


def _stop(snapshot: Snapshot, now: float) -> Decision | None:
    verdict = snapshot.verdict
    if verdict.call is Call.HALT:
        why = verdict.why
        if snapshot.current is not None and snapshot.current.devices:
            why += " The open wave's devices were named, so they are no random sample."
        return Decision(Kind.HALT, f"Halted after {duration(now - snapshot.started_at)}: {why}")
    if verdict.is_storm_ours and snapshot.policy.on_offline_spike == "halt":
        where = ", ".join(sorted(verdict.bad_weather))
        return Decision(
            Kind.HALT,
            f"Halted after {duration(now - snapshot.started_at)}: devices that were not updated went dark in {where}, "
            "where the release is going out, and nowhere else.",
        )
    return None


# --- whether to stand still ---


def _stand_still(snapshot: Snapshot, now: float) -> Decision | None:
    verdict, causes = snapshot.verdict, snapshot.causes
    if verdict.call is Call.HOLD and Cause.EVIDENCE not in causes:
        return Decision(Kind.PAUSE, f"On hold: {verdict.why}", cause=Cause.EVIDENCE)
    if snapshot.state is State.WATCHING:
        return None  # its levels are at their targets; weather and gates have nothing to keep from rising
    if _is_spike_for_a_person(snapshot, now) and Cause.EVIDENCE not in causes:
        where = ", ".join(sorted(verdict.bad_weather)) or "every region"
        lasted = duration(snapshot.policy.halt.spike_hold_s)
        why = f"On hold: devices have been dark in {where} for {lasted}, whatever the reason."
        return Decision(Kind.PAUSE, why, cause=Cause.EVIDENCE)
    if verdict.is_blind and Cause.WEATHER not in causes:
        return Decision(Kind.PAUSE, f"Paused: {_weather(verdict)}", cause=Cause.WEATHER)
    if snapshot.state is State.PAUSED:
        if Cause.WEATHER in causes and not verdict.is_blind:
            why = "The weather is good again: devices that only watch are back."
            return Decision(Kind.UNPAUSE, why, cause=Cause.WEATHER)
        if Cause.GATE in causes and _mended(snapshot):
            return Decision(Kind.UNPAUSE, "The gate holds again.", cause=Cause.GATE)
        return NOTHING
    consent = snapshot.consent
    broken = "" if consent is None else _broken(snapshot) or consent.objection
    if broken:
        return Decision(Kind.PAUSE, broken, cause=Cause.GATE)
    return None


def _is_spike_for_a_person(snapshot: Snapshot, now: float) -> bool:
    policy, since = snapshot.policy, snapshot.verdict.bad_since
    return policy.on_offline_spike == "hold" and since is not None and now - since >= policy.halt.spike_hold_s


def _weather(verdict: Verdict) -> str:
    if verdict.bad_weather:
        where = ", ".join(sorted(verdict.bad_weather))
        return f"devices that only watch are dark in {where}; it goes on by itself when they are back."
    return "the server could not hear its devices for a while; it goes on by itself when it has heard them again."


def _broken(snapshot: Snapshot) -> str:
    """Say why the open wave's gate cannot hold as things stand, or nothing.

    It is broken when even the lower bound of the failure ratio is too high, or when all are judged and the upper is.
    """
    wave = snapshot.current
    assert wave is not None
    views = _wave_views(snapshot)
    ended = sum(view.confirmed + view.failed + view.silent for view in views)
    failures = _failures(snapshot)
    early = ended >= _LEAST_ENDED and bounds.lower(failures, ended) > wave.gate.failure_ratio
    if early or (failures >= _HALF and _all_over(views) and not _few_enough(snapshot)):
        return (
            f"Paused by the gate of wave {_number(snapshot)}: {failures:.0f} of {ended} devices failed or fell silent, "
            f"more than {wave.gate.failure_ratio:.1%} allows."
        )
    return ""


def _mended(snapshot: Snapshot) -> bool:
    """A gate that was broken holds again only on the word of all: devices thought silent have come back.

    Those who wait are not asked: they may not start before.
    """
    if snapshot.wave is None:
        return True  # no wave is open whose gate could be broken
    if snapshot.consent is not None and snapshot.consent.objection:
        return False  # a person looks at what a webhook has stopped
    return not any(view.in_flight for view in _wave_views(snapshot)) and _few_enough(snapshot)


# --- whether to go on ---


def _go_on(snapshot: Snapshot, now: float) -> Decision:
    if snapshot.state is State.WATCHING:
        since = snapshot.watching_since
        if since is not None and now - since >= snapshot.policy.watch_s:
            return Decision(Kind.FINISH, _finish_sentence(snapshot))
        return NOTHING
    if not snapshot.blobs_ready:
        return NOTHING  # nobody could fetch what a level lets in
    if snapshot.wave is None:
        return _open(snapshot, 0)
    if _short(snapshot):
        return _open(snapshot, snapshot.wave)
    ramps = raised(
        snapshot.lines,
        snapshot.verdict,
        snapshot.starting_in_classes,
        policy=snapshot.policy,
        now=now,
    )
    if ramps:
        return Decision(Kind.PACE, ramps=ramps)
    is_last = snapshot.wave + 1 == len(snapshot.plan.waves)
    if not _passed(snapshot, now) or (is_last and not _few_under_way(snapshot.regions)):
        return NOTHING
    waiting = _wait(snapshot, now)
    if waiting is not None:
        return waiting
    if not is_last:
        return _open(snapshot, snapshot.wave + 1)
    return Decision(Kind.COMPLETE, "Every wave is through its gate; watching for late failures.")


def _wait(snapshot: Snapshot, now: float) -> Decision | None:
    """Say for whose word the open wave waits, once; None where it waits for nobody's."""
    assert snapshot.consent is not None
    awaits, sentence = snapshot.consent.missing(now)
    if awaits is Awaited.NOBODY:
        return None
    if (snapshot.awaits, snapshot.sentence) == (awaits, sentence):
        return NOTHING
    return Decision(Kind.WAIT, sentence, awaits=awaits)


def _open(snapshot: Snapshot, index: int) -> Decision:
    wave = snapshot.plan.waves[index]
    if wave.devices:
        why = "They are no random sample: guard rails and what they say themselves judge them, and no comparison."
        return Decision(
            Kind.OPEN_WAVE, f"Wave {index + 1} of {len(snapshot.plan.waves)} opens: {wave.target}. {why}", wave=index
        )
    where = ", ".join(regions_of(wave, [view.region for view in snapshot.regions]))
    verb = "opens" if index != snapshot.wave else "takes in devices that have come since"
    return Decision(
        Kind.OPEN_WAVE, f"Wave {index + 1} of {len(snapshot.plan.waves)} {verb}: {where} to {wave.target}.", wave=index
    )


def _short(snapshot: Snapshot) -> bool:
    """Tell whether a wave opened on fewer devices than it is for (at least one), and others have come since."""
    wave = snapshot.current
    assert wave is not None
    if wave.devices:
        return False
    count = wave.count or 1
    return any(view.targeted < min(count, view.candidates) for view in _wave_views(snapshot))


def _wave_views(snapshot: Snapshot) -> list[RegionView]:
    wave = snapshot.current
    assert wave is not None
    names = set(regions_of(wave, [view.region for view in snapshot.regions]))
    return [view for view in snapshot.regions if view.region in names]


def _excess(snapshot: Snapshot) -> list[float]:
    """Return each region's silence that its neighbours do not explain, never more than there is.

    The halt rule knows better than a count of the moment does: it compares each device with its own shadows, and judges
    nobody in bad weather.
    """
    given = snapshot.verdict.excess_silent
    if not len(given):
        return [view.excess for view in snapshot.regions]
    return [min(float(each), view.silent) for each, view in zip(given, snapshot.regions, strict=True)]


def _failures(snapshot: Snapshot) -> float:
    """Return the open wave's explicit failures, and its excess silence where luck does not explain it.

    A good release loses a device now and then, too: one of 25 is within what the halt rule tolerates.
    """
    names = {view.region for view in _wave_views(snapshot)}
    counted = [
        (view, excess) for view, excess in zip(snapshot.regions, _excess(snapshot), strict=True) if view.region in names
    ]
    failed = sum(view.failed for view, _ in counted)
    silent = sum(view.silent for view, _ in counted)
    excess = sum(each for _, each in counted)
    policy = snapshot.policy.halt
    tolerated = policy.beta * (silent - excess) + policy.d0 * sum(view.judged for view, _ in counted)
    return failed + (0.0 if bounds.is_luck(silent, tolerated) else excess)


_HALF: Final = 0.5
"""Excess silence is an estimate: less than half a device is none."""

_LEAST_ENDED: Final = 5
"""Fewer devices that are over say nothing of a ratio."""

_TRICKLE: Final = 0.02
"""A share of the devices reached; of fewer than 50, nobody."""


def _all_over(views: Sequence[RegionView]) -> bool:
    return not any(view.waiting + view.in_flight for view in views)


def _few_under_way(views: Sequence[RegionView]) -> bool:
    """In a large fleet somebody always comes back and updates late: that goes on while the campaign is watched."""
    under_way = sum(view.waiting + view.in_flight for view in views)
    return under_way <= _TRICKLE * sum(view.reached for view in views)


def _passed(snapshot: Snapshot, now: float) -> bool:
    """Tell whether the open wave is through its gate, but for anybody's word."""
    wave = snapshot.current
    assert wave is not None
    views = _wave_views(snapshot)
    if snapshot.verdict.call is not Call.GO:
        return False
    if any(view.ramp.l1 < view.target or now < view.ramp.t1 + wave.soak_s for view in views):
        return False
    gate = wave.gate
    reached = sum(view.reached for view in views)
    # Who is offline does not block a wave; but where anybody is online, no wave passes on the word of nobody.
    wanted = min(gate.min_reached, max(1, sum(view.targeted_online for view in views)))
    if not any(view.eligible_online for view in views):
        wanted = 0
    confirmed = sum(view.confirmed for view in views)
    return reached >= wanted and confirmed >= gate.confirmed_ratio * reached and _few_enough(snapshot)


def _few_enough(snapshot: Snapshot) -> bool:
    """With fewer than 3 / y reached (the rule of three) there may be none; above, the upper bound decides.

    A gate that tolerates all is never closed by failures.
    """
    wave = snapshot.current
    assert wave is not None
    gate = wave.gate
    if gate.failure_ratio >= 1:
        return True
    failures = _failures(snapshot)
    reached = sum(view.reached for view in _wave_views(snapshot))
    if reached < 3 / gate.failure_ratio:
        return failures < _HALF
    return bounds.upper(failures, reached) <= gate.failure_ratio


def _number(snapshot: Snapshot) -> int:
    assert snapshot.wave is not None
    return snapshot.wave + 1


def _finish_sentence(snapshot: Snapshot) -> str:
    confirmed = sum(view.confirmed for view in snapshot.regions)
    eligible = sum(view.eligible for view in snapshot.regions)
    return f"Finished: {confirmed} of {eligible} eligible devices confirmed the release."


def _evidence(snapshot: Snapshot) -> dict[str, object]:
    verdict, answer = snapshot.verdict, snapshot.answer
    asked = {} if answer is None else {"webhook": {**asdict(answer), "wave": answer.wave + 1}}
    return {
        **asked,
        "rule": {
            "call": verdict.call.name.lower(),
            "wealth": float(np.round(verdict.wealth, 6)),
            "channel": verdict.channel,
            "scope": verdict.scope,
            "why": verdict.why,
            "in_flight": verdict.in_flight,
            "bad_weather": sorted(verdict.bad_weather),
            "is_blind": verdict.is_blind,
            **verdict.evidence,
        },
        "regions": [
            {
                "region": view.region,
                "eligible": view.eligible,
                "reached": view.reached,
                "confirmed": view.confirmed,
                "failed": view.failed,
                "judged": view.judged,
                "silent": view.silent,
                "controls": view.controls,
                "control_silent": view.control_silent,
            }
            for view in snapshot.regions
        ],
    }


def duration(seconds: float) -> str:
    """Say a number of seconds as a person would: ``45 s``, ``23 min``, ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
