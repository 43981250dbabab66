"""Why a campaign is where it is: what it waits for, what the halt rule knows, and what comes next, in plain words."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from server.db.campaign_records import CampaignRecord
from server.domain.campaign import JUDGED, State
from server.domain.decide import duration
from server.domain.gate import FULL
from server.domain.halt import Verdict
from server.domain.identity import CampaignId
from server.domain.scope import EVERYTHING, Scope
from server.domain.snapshot import RegionView, Snapshot
from server.domain.standstill import lacking
from server.domain.wave_gate import few_enough, is_short, wave_views
from server.services.approvals import missing
from server.services.campaigns import Campaigns
from server.services.evidence import Evidence
from server.services.forecast import Step, forecast
from server.services.halt_outlook import Outlook, outlook
from server.services.room import Room
from server.services.snapshot import Surveyor
from server.services.visible import is_whole
from server.services.why_campaign import CLEARED_BY
from server.services.why_facts import moment
from server.services.wire import Wire


@dataclass(frozen=True, slots=True)
class Explanation:
    """``sentence``: why it is where it is. ``next``: what comes next, at ``next_at`` (Unix seconds) at the earliest.

    ``halt`` None: the rule does not look at it (any more), or what it knows is of more than the caller may see.
    """

    campaign: CampaignRecord
    sentence: str
    waits_for: tuple[str, ...]
    next: str
    next_at: float | None
    halt: Outlook | None
    steps: tuple[Step, ...]


_STANDS: Final = {
    State.DRAFT: "is a draft: nothing happens to any device before it is started",
    State.SCHEDULED: "has its approvals and has not been started",
    State.FINISHED: "is finished",
    State.HALTED: "is halted",
    State.ROLLING_BACK: "is being rolled back",
    State.ROLLED_BACK: "was rolled back",
    State.CANCELLED: "was cancelled",
}
_FOR_A_PERSON: Final = {
    State.DRAFT: "somebody submits or starts it",
    State.SCHEDULED: "somebody starts it",
    State.HALTED: "somebody resumes it (another run, with a reason and approvals), rolls it back, or cancels it",
    State.ROLLING_BACK: "its devices' return; those that are away find the order when they come back",
}


class Explain:
    """Asks everybody who knows something of a campaign."""

    def __init__(
        self,
        *,
        campaigns: Campaigns,
        surveyor: Surveyor,
        evidence: Evidence,
        room: Room,
        wire: Wire,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._campaigns = campaigns
        self._surveyor = surveyor
        self._evidence = evidence
        self._room = room
        self._wire = wire
        self._clock = clock

    async def ask(self, campaign: CampaignId, *, scope: Scope = EVERYTHING) -> Explanation:
        """Explain a campaign, or the part of it that is within ``scope``. Raises: NotFoundError."""
        record = await self._campaigns.get(campaign, scope=scope)
        now = self._clock()
        bundle = await self._campaigns.bundle_of(record)
        counts = await self._surveyor.count(record, bundle, now=now, scope=scope)
        verdict, rule = self._evidence.verdict(campaign), self._evidence.rule(campaign)
        is_judged = record.state in JUDGED and is_whole(record, scope) and not scope.is_limited
        if verdict is None or not is_judged:
            verdict, rule = Verdict(), None
        snapshot = replace(counts.snapshot, verdict=verdict)
        waits = [] if self._wire.up_since is not None else ["the broker: the server has no session there"]
        waits += await self._waits(record, snapshot, now)
        steps = tuple(forecast(record, now)) if record.state in _AHEAD else ()
        what, at = _next(record, steps, now)
        return Explanation(
            campaign=record,
            sentence=_sentence(record, snapshot, now),
            waits_for=tuple(waits),
            next=what,
            next_at=at,
            halt=None if rule is None else outlook(rule, verdict),
            steps=steps,
        )

    async def _waits(self, record: CampaignRecord, snapshot: Snapshot, now: float) -> list[str]:
        if record.state is State.RUNNING and record.wave is None:
            return [f"its blobs: {(await self._room.publication(record)).sentence}"]
        return waits_of(record, snapshot, now)


_AHEAD: Final = frozenset({State.DRAFT, State.AWAITING_APPROVAL, State.SCHEDULED, State.RUNNING, State.PAUSED})


def waits_of(record: CampaignRecord, snapshot: Snapshot, now: float) -> list[str]:
    """Say what a campaign waits for, one thing a line; nothing where it waits for nothing."""
    if record.state is State.RUNNING:
        return _wave_waits(record, snapshot, now)
    if record.state is State.PAUSED:
        return [f"{cause.value}: {CLEARED_BY[cause]}" for cause in sorted(record.causes)]
    if record.state is State.AWAITING_APPROVAL:
        wanted = missing(record)
        return [f"{wanted} approval{'s' * (wanted != 1)}, by people other than {record.created_by}"]
    if record.state is State.WATCHING and record.watching_since is not None:
        until = record.watching_since.timestamp() + record.policy.watch_s
        return [f"late failures, until {moment(until)}; devices that come late are still let in"]
    return [_FOR_A_PERSON[record.state]] if record.state in _FOR_A_PERSON else []


def _wave_waits(record: CampaignRecord, snapshot: Snapshot, now: float) -> list[str]:
    """Say what the open wave waits for: its levels, then its soak, then the numbers, then somebody's word."""
    wave = snapshot.current
    assert wave is not None
    views = wave_views(snapshot)
    if record.awaits and record.sentence:
        return [record.sentence.rstrip(".")]
    rising = [view for view in views if view.ramp.l1 < view.target or now < view.ramp.t1]
    if rising:
        lines = [
            f"the level of {view.region}: {view.ramp.level(now) / FULL:.1%} of {view.target / FULL:.1%}"
            for view in rising
        ]
        said = lacking(snapshot, now)
        return [*lines, said.rstrip(".")] if said else lines
    soaked = max((view.ramp.t1 for view in views), default=now) + wave.soak_s
    if now < soaked:
        return [f"its soak, until {moment(soaked)}"]
    return _gate_waits(snapshot, views)


def _gate_waits(snapshot: Snapshot, views: Sequence[RegionView]) -> list[str]:
    wave = snapshot.current
    assert wave is not None
    reached, confirmed = sum(view.reached for view in views), sum(view.confirmed for view in views)
    under_way = sum(view.waiting + view.in_flight for view in snapshot.regions)
    lines = []
    if is_short(snapshot):
        wanted = wave.gate.confirmed_ratio
        lines.append(f"its gate: {confirmed} of {reached} devices reached have confirmed, and it wants {wanted:.1%}")
    if not few_enough(snapshot):
        lines.append(f"its gate: too many have failed or fallen silent for a bound of {wave.gate.failure_ratio:.1%}")
    if under_way:
        lines.append(f"{under_way} devices that are under way or about to start")
    return lines or ["the next evaluation, which is due within a second"]


def _sentence(record: CampaignRecord, snapshot: Snapshot, now: float) -> str:
    name, why = record.name, record.sentence.rstrip(".")
    if record.state is State.AWAITING_APPROVAL:
        return f"{name} waits for approvals."
    if record.state is State.PAUSED:
        causes = ", ".join(cause.value for cause in sorted(record.causes))
        return f"{name} is paused ({causes}){': ' + why if why else ''}."
    if record.state is State.WATCHING:
        return f"{name} is through its last wave and is watched: {_numbers(snapshot)}."
    if record.state is State.RUNNING and record.wave is None:
        return f"{name} runs, and its first wave has not opened."
    if record.state is State.RUNNING:
        assert snapshot.current is not None
        since = min((view.planned.t0 for view in wave_views(snapshot)), default=int(now))
        wave = f"wave {snapshot.number} of {len(snapshot.plan.waves)} ({snapshot.current.target})"
        return f"{name} runs: {wave} is open for {duration(max(0.0, now - since))}; {_numbers(snapshot)}."
    return f"{name} {_STANDS[record.state]}{': ' + why if why else ''}."


def _numbers(snapshot: Snapshot) -> str:
    counted = [
        (sum(view.confirmed for view in snapshot.regions), "confirmed"),
        (sum(view.waiting + view.in_flight for view in snapshot.regions), "under way"),
        (sum(view.failed for view in snapshot.regions), "failed"),
        (sum(view.silent for view in snapshot.regions), "silent"),
    ]
    reached = sum(view.reached for view in snapshot.regions)
    eligible = sum(view.eligible for view in snapshot.regions)
    return f"{reached} of {eligible} devices reached, " + ", ".join(f"{many} {what}" for many, what in counted)


def _next(record: CampaignRecord, steps: Sequence[Step], now: float) -> tuple[str, float | None]:
    """Return what comes next if nothing holds the campaign back, and when at the earliest."""
    if record.state is State.WATCHING and record.watching_since is not None:
        return "it is finished", record.watching_since.timestamp() + record.policy.watch_s
    if record.state is not State.RUNNING or not steps:
        return "", None
    first = steps[0]
    if record.wave is None:
        return "wave 1 opens, when its blobs are there", None
    if now < first.risen_at:
        return f"wave {first.wave + 1} is at its target", first.risen_at
    follows = f"wave {first.wave + 2} opens" if len(steps) > 1 else "it is watched for late failures"
    gate = ", if its gate lets it through" if now < first.through_at else ", when its gate lets it through"
    return f"{follows}{gate}", first.through_at if now < first.through_at else None
