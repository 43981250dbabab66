"""The one decision: what should become of a campaign now, given all that is known of it (pure).

``decide(snapshot, now)`` is asked soon after any news and at least every second. It returns a value; carrying it
out, by compare-and-set, is the orchestrator's job. The order of the questions is the order of safety: first whether to
halt, then whether to stand still, and only then whether to go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from server.domain import fisher
from server.domain.campaign import JUDGED, Cause, State
from server.domain.gate import Ramp
from server.domain.identity import Region
from server.domain.plan import Gate, Plan, Policy, Wave


class Kind(StrEnum):
    """What to do; values are stored with the evidence."""

    NOTHING = "nothing"
    OPEN_WAVE = "open_wave"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    HALT = "halt"
    COMPLETE = "complete"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class RegionView:
    """One region of a campaign, counted. ``reached``: eligible devices that are due and have been online since.

    ``waiting`` of them have not started, ``in_flight`` have started and are not over, ``confirmed`` and ``failed``
    (explicitly) are; ``table`` has the silent ones. ``candidates`` are the eligible devices, online or not, and those
    of which nothing is known before their first hello; ``targeted`` of them are due once the ramp is at its target, and
    ``targeted_online`` of those are eligible and online.
    """

    region: Region
    ramp: Ramp
    eligible: int = 0
    eligible_online: int = 0
    candidates: int = 0
    targeted: int = 0
    targeted_online: int = 0
    reached: int = 0
    waiting: int = 0
    in_flight: int = 0
    confirmed: int = 0
    failed: int = 0
    table: fisher.Table = field(default_factory=lambda: fisher.Table("", 0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A campaign and what is known of its devices, at one moment. Times in Unix seconds."""

    state: State
    causes: frozenset[Cause]
    plan: Plan
    policy: Policy
    regions: Sequence[RegionView]
    started_at: float
    wave: int | None = None
    blobs_ready: bool = True
    looks: int = 0
    seen_silent: int = 0
    watching_since: float | None = None

    @property
    def current(self) -> Wave | None:
        """The open wave, if one is."""
        return None if self.wave is None else self.plan.waves[self.wave]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the sentence that says why, and the numbers it was made on."""

    kind: Kind = Kind.NOTHING
    sentence: str = ""
    wave: int | None = None
    cause: Cause | None = None
    looks: int = 0
    seen_silent: int = 0
    evidence: Mapping[str, object] = field(default_factory=dict)


NOTHING: Final = Decision()


def regions_of(wave: Wave, campaign_regions: Sequence[Region]) -> tuple[Region, ...]:
    """Return the regions a wave raises: those it names, or all of the campaign's."""
    return wave.regions or tuple(campaign_regions)


def decide(snapshot: Snapshot, now: float) -> Decision:
    """Return what should become of the campaign at ``now`` (Unix seconds)."""
    if snapshot.state not in JUDGED:
        return NOTHING
    verdict = fisher.judge(
        [view.table for view in snapshot.regions],
        snapshot.policy,
        looks=snapshot.looks,
        seen_silent=snapshot.seen_silent,
    )
    if verdict.halt:
        decision = Decision(Kind.HALT, _halt_sentence(snapshot, verdict, now))
    else:
        decision = _pace(snapshot, now)
    silent = sum(view.table.silent for view in snapshot.regions)
    return replace(
        decision,
        looks=verdict.looks,
        # It follows the count down, too: who falls silent after a late success of others is worth a look.
        seen_silent=silent if verdict.looks > snapshot.looks else min(silent, snapshot.seen_silent),
        evidence=_evidence(snapshot, verdict),
    )


def _pace(snapshot: Snapshot, now: float) -> Decision:
    if snapshot.state is State.PAUSED:
        if snapshot.causes == {Cause.GATE} and _mended(snapshot):
            return Decision(Kind.UNPAUSE, "Resumed: the gate holds again.", cause=Cause.GATE)
        return NOTHING
    if snapshot.state is State.WATCHING:
        since = snapshot.watching_since
        if since is not None and now - since >= snapshot.policy.watch_s:
            return Decision(Kind.FINISH, _finish_sentence(snapshot))
        return NOTHING
    if snapshot.wave is None:
        return _open(snapshot, 0) if snapshot.blobs_ready else NOTHING
    broken = _broken(snapshot)
    if broken:
        return Decision(Kind.PAUSE, broken, cause=Cause.GATE)
    if _short(snapshot):
        return _open(snapshot, snapshot.wave)
    if not _passed(snapshot, now):
        return NOTHING
    if snapshot.wave + 1 < len(snapshot.plan.waves):
        return _open(snapshot, snapshot.wave + 1)
    if not _all_over(snapshot.regions):
        return NOTHING
    return Decision(Kind.COMPLETE, "Every wave is through its gate; watching for late failures.")


def _open(snapshot: Snapshot, index: int) -> Decision:
    wave = snapshot.plan.waves[index]
    target = f"{wave.ratio:.1%}" if wave.ratio is not None else f"{wave.count} devices"
    where = ", ".join(regions_of(wave, [view.region for view in snapshot.regions]))
    verb = "opens" if index != snapshot.wave else "takes in devices that have come since"
    return Decision(
        Kind.OPEN_WAVE, f"Wave {index + 1} of {len(snapshot.plan.waves)} {verb}: {where} to {target}.", wave=index
    )


def _short(snapshot: Snapshot) -> bool:
    """Tell whether a wave opened on fewer devices than it is for (at least one), and others have come since."""
    wave = snapshot.current
    assert wave is not None
    count = wave.count or 1
    return any(view.targeted < min(count, view.candidates) for view in _wave_views(snapshot))


def _wave_views(snapshot: Snapshot) -> list[RegionView]:
    wave = snapshot.current
    assert wave is not None
    names = set(regions_of(wave, [view.region for view in snapshot.regions]))
    return [view for view in snapshot.regions if view.region in names]


def _failures(views: Sequence[RegionView]) -> float:
    return sum(view.failed + fisher.excess_silent(view.table) for view in views)


def _broken(snapshot: Snapshot) -> str:
    """Say why the open wave's gate cannot hold as things stand, or nothing.

    It is broken when even the lower bound of the failure ratio is too high, or when all are judged and the upper is.
    """
    wave = snapshot.current
    assert wave is not None
    views = _wave_views(snapshot)
    ended = sum(view.confirmed + view.failed + view.table.silent for view in views)
    failures = _failures(views)
    early = ended >= snapshot.policy.min_judged and fisher.lower_bound(failures, ended) > wave.gate.failure_ratio
    if early or (failures and _all_over(views) and not _few_enough(views, wave.gate)):
        return (
            f"Paused by the gate of wave {_number(snapshot)}: {failures:.0f} of {ended} devices failed or fell silent, "
            f"more than {wave.gate.failure_ratio:.1%} allows."
        )
    return ""


def _mended(snapshot: Snapshot) -> bool:
    """A gate that was broken holds again only on the word of all: devices thought silent have come back."""
    wave = snapshot.current
    if wave is None:
        return True  # no wave is open whose gate could be broken
    views = _wave_views(snapshot)
    return _all_over(views) and _few_enough(views, wave.gate)


def _all_over(views: Sequence[RegionView]) -> bool:
    return not any(view.waiting + view.in_flight for view in views)


def _passed(snapshot: Snapshot, now: float) -> bool:
    wave = snapshot.current
    assert wave is not None
    views = _wave_views(snapshot)
    if any(now < view.ramp.t1 + wave.soak_s for view in views):
        return False
    gate = wave.gate
    reached = sum(view.reached for view in views)
    # Who is offline does not block a wave; but where anybody is online, no wave passes on the word of nobody.
    wanted = min(gate.min_reached, max(1, sum(view.targeted_online for view in views)))
    if not any(view.eligible_online for view in views):
        wanted = 0
    confirmed = sum(view.confirmed for view in views)
    return (
        not gate.manual
        and reached >= wanted
        and confirmed >= gate.confirmed_ratio * reached
        and _few_enough(views, gate)
    )


def _few_enough(views: Sequence[RegionView], gate: Gate) -> bool:
    """With fewer than 3 / y reached (the rule of three) there may be none; above, the upper bound decides."""
    failures = _failures(views)
    reached = sum(view.reached for view in views)
    if reached < 3 / gate.failure_ratio:
        return failures == 0
    return fisher.upper_bound(failures, reached) <= gate.failure_ratio


def _number(snapshot: Snapshot) -> int:
    assert snapshot.wave is not None
    return snapshot.wave + 1


def _halt_sentence(snapshot: Snapshot, verdict: fisher.Verdict, now: float) -> str:
    tables = [view.table for view in snapshot.regions if view.table.silent]
    fleet = fisher.merge([view.table for view in snapshot.regions])
    where = tables[0].region if len(tables) == 1 else f"{len(tables)} regions"
    controls = fleet
    if len(tables) == 1 and verdict.rule == "silence" and tables[0].controls >= snapshot.policy.min_controls:
        controls = tables[0]
    text = (
        f"Halted after {duration(now - snapshot.started_at)}: {fleet.silent} of {fleet.judged} updated devices "
        f"({where}) were not heard from within {duration(snapshot.policy.silence_deadline_s)} of their reboot; "
    )
    if verdict.rule == "rail":
        return text + f"only {controls.controls} devices were left to compare with, so the guard rail decided."
    return text + f"of {controls.controls:,} comparable devices not yet updated, {controls.control_silent} were silent."


def _finish_sentence(snapshot: Snapshot) -> str:
    confirmed = sum(view.confirmed for view in snapshot.regions)
    eligible = sum(view.eligible for view in snapshot.regions)
    return f"Finished: {confirmed} of {eligible} eligible devices confirmed the release."


def _evidence(snapshot: Snapshot, verdict: fisher.Verdict) -> dict[str, object]:
    return {
        "rule": verdict.rule,
        "p_value": verdict.p_value,
        "alpha_per_look": snapshot.policy.alpha / snapshot.policy.max_looks,
        "look": verdict.looks,
        "regions": [
            {
                "region": view.region,
                "eligible": view.eligible,
                "reached": view.reached,
                "confirmed": view.confirmed,
                "failed": view.failed,
                "judged": view.table.judged,
                "silent": view.table.silent,
                "controls": view.table.controls,
                "control_silent": view.table.control_silent,
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
