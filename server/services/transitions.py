"""How a campaign's record changes with each decision (pure): its state, its causes, and the lines of its levels.

The orchestrator and people's orders change campaigns by these functions alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, assert_never

import numpy as np

from firmware_store.errors import ConflictError, IllegalTransitionError
from server.db.campaign_records import CampaignRecord, RegionRecord
from server.domain.campaign import Cause, Event, State, allowed, next_state
from server.domain.consent import Answer, Awaited, Word
from server.domain.decide import Decision, Kind
from server.domain.gate import FULL, Ramp, level_for_count, level_for_ratio
from server.domain.halt.view import NOBODY, Indices
from server.domain.identity import Region
from server.domain.plan import Wave
from server.domain.snapshot import regions_of
from server.protocol.orders import Action


class Change(NamedTuple):
    """A campaign after a decision, and the order that tells devices of it; None: they need not know.

    ``regions`` hear it; None: those that always hear such an order.
    """

    campaign: CampaignRecord
    action: Action | None = None
    regions: Sequence[RegionRecord] | None = None


def decided(
    campaign: CampaignRecord, decision: Decision, heights: Mapping[Region, Indices], *, now: datetime
) -> Change:
    """Return what a decision makes of the campaign. ``heights`` are the candidates' by region."""
    match decision.kind:
        case Kind.NOTHING:
            return Change(campaign)
        case Kind.PACE:
            return Change(paced(campaign, decision.ramps))
        case Kind.WAIT:
            return Change(awaiting(campaign, decision.awaits, decision.sentence))
        case Kind.OPEN_WAVE:
            assert decision.wave is not None
            risen, raised = opened(campaign, decision.wave, heights, now)
            return Change(risen, Action.OFFER, raised)
        case Kind.PAUSE:
            assert decision.cause is not None
            held = replace(paused(campaign, decision.cause, now=now), sentence=decision.sentence)
            return Change(held, Action.HOLD)
        case Kind.UNPAUSE:
            assert decision.cause is not None
            return Change(resumed(campaign, frozenset({decision.cause})), Action.OFFER)
        case Kind.HALT:
            return Change(replace(halted(campaign, now=now), sentence=decision.sentence), Action.HALT)
        case Kind.COMPLETE:
            return Change(completed(campaign, now=now))
        case Kind.FINISH:
            return Change(replace(ended(campaign, Event.FINISH, now=now), sentence=decision.sentence), Action.NONE)
        case _:
            assert_never(decision.kind)


def opened(
    campaign: CampaignRecord, index: int, heights: Mapping[Region, Indices], now: datetime
) -> tuple[CampaignRecord, list[RegionRecord]]:
    """Return the campaign with its wave open, and the regions that rise.

    A wave that is open already takes in more devices: regions that stay as they are keep their ramps.
    """
    wave = campaign.plan.waves[index]
    names = set(regions_of(wave, [region.region for region in campaign.regions]))
    regions, risen = [], []
    for before in campaign.regions:
        region = before
        if before.region in names:
            region = _raise(before, wave, heights.get(before.region, NOBODY), now, most=ceiling(campaign))
        if region.target == before.target and index == campaign.wave:
            region = before
        regions.append(region)
        if region is not before:
            risen.append(region)
    answer = campaign.answer if index == campaign.wave else None
    return replace(_awaiting_nobody(campaign), wave=index, regions=tuple(regions), answer=answer), risen


def ceiling(campaign: CampaignRecord) -> int:
    """Return the level above which no wave goes: those whose heights lie above it are the holdout."""
    return FULL - level_for_ratio(campaign.policy.holdout)


def _raise(region: RegionRecord, wave: Wave, heights: Indices, now: datetime, *, most: int) -> RegionRecord:
    start = int(now.timestamp())
    level = region.ramp.level(now.timestamp())  # of this very moment: a published level never falls
    # A ratio of a small region is one device, too; devices that are named wait for no level.
    count = wave.count or 1
    wanted = 0 if wave.devices else level_for_count(np.sort(heights)[:count].tolist(), count)
    if wave.ratio is not None:
        wanted = max(wanted, level_for_ratio(wave.ratio))
    planned = Ramp(start, level, start + wave.ramp_s, max(region.target, level, min(wanted, most)))
    return replace(region, ramp=Ramp.flat(level, start), planned=planned, opened_at=region.opened_at or now)


def paused(campaign: CampaignRecord, cause: Cause, *, now: datetime) -> CampaignRecord:
    """Return the campaign held for one more cause, its levels where they are."""
    state = next_state(campaign.state, Event.PAUSE)
    return replace(_frozen(campaign, now), state=state, causes=campaign.causes | {cause})


def resumed(campaign: CampaignRecord, cleared: frozenset[Cause]) -> CampaignRecord:
    """Return the campaign without these causes; if none is left it runs, from the levels it was held at.

    A webhook whose objection ends with that is asked again.
    """
    if Cause.GATE in cleared and campaign.answer is not None and campaign.answer.word is Word.STOP:
        campaign = replace(campaign, answer=None)
    causes = campaign.causes - cleared
    if causes:
        return replace(campaign, causes=causes)
    return replace(campaign, state=next_state(campaign.state, Event.RESUME), causes=causes, sentence="")


def restored(campaign: CampaignRecord, *, now: datetime, backup_at: datetime) -> CampaignRecord:
    """Return an active campaign as it comes back from a backup: it stands still until a person has looked at it.

    Its levels are those of ``backup_at``: how far they have risen since nobody knows, and from below they only let in
    devices once more that were let in then. One that was rolling back is halted, and can be rolled back from there.
    """
    when = f"{backup_at:%Y-%m-%d %H:%M:%S} UTC"
    if campaign.state is State.ROLLING_BACK:
        sentence = f"Halted: it was rolling back in the backup of {when} that this database was restored from."
        ended = replace(_frozen(campaign, backup_at), state=State.HALTED, ended_at=now)
        return replace(ended, halted_at=campaign.halted_at or now, sentence=sentence)
    sentence = (
        f"Paused: the database was restored from a backup of {when}. If the campaign was halted or ended since, halt "
        "or cancel it now; else resume it."
    )
    held = paused(campaign, Cause.RESTORED, now=backup_at)
    return replace(held, sentence=sentence, blobs_ready=False)


def paced(campaign: CampaignRecord, ramps: Mapping[Region, Ramp]) -> CampaignRecord:
    """Return the campaign with new lines for some regions."""
    regions = tuple(replace(region, ramp=ramps.get(region.region, region.ramp)) for region in campaign.regions)
    return replace(campaign, regions=regions)


def awaiting(campaign: CampaignRecord, whom: Awaited, sentence: str) -> CampaignRecord:
    """Return the campaign whose open wave waits for somebody's word, and says so."""
    return replace(campaign, awaits=whom, sentence=sentence)


def advanced(campaign: CampaignRecord, number: int) -> CampaignRecord:
    """Return the campaign with the word of a person for its open wave, which is wave ``number``, counted from 1.

    Raises:
        ConflictError: another wave is open: whoever says so has looked at an old screen.
        IllegalTransitionError: it does not wait for a person.
    """
    state = next_state(campaign.state, Event.ADVANCE)
    is_open = 0 if campaign.wave is None else campaign.wave + 1
    if is_open != number:
        raise ConflictError(
            f"Wave {is_open} is open, not {number}; look at it again." if is_open else "No wave is open yet."
        )
    if campaign.awaits is not Awaited.ADVANCE:
        others = tuple(event for event in allowed(state) if event is not Event.ADVANCE)
        raise IllegalTransitionError(f"Wave {number} does not wait for a person.", state=state, allowed=others)
    return replace(_awaiting_nobody(campaign), state=state, advanced=campaign.wave)


def answered(campaign: CampaignRecord, answer: Answer) -> CampaignRecord:
    """Return the campaign whose open wave's webhook has answered; what that means is for ``decide()`` to say."""
    return replace(campaign, answer=answer)


def completed(campaign: CampaignRecord, *, now: datetime) -> CampaignRecord:
    """Return the campaign whose last wave is through its gate."""
    state = next_state(campaign.state, Event.COMPLETE)
    return replace(_awaiting_nobody(campaign), state=state, watching_since=now)


def submitted(campaign: CampaignRecord) -> CampaignRecord:
    """Return the draft as one that waits for approvals, or that may start where it needs none."""
    state = next_state(campaign.state, Event.SUBMIT)
    if not campaign.policy.approvals:
        state = next_state(state, Event.APPROVE)
    return replace(campaign, state=state)


def started(campaign: CampaignRecord, *, now: datetime, emergency: str = "") -> CampaignRecord:
    """Return the campaign running. A draft that needs no approval, and any in an ``emergency``, starts at once.

    Raises:
        IllegalTransitionError: it has to be submitted or approved first, or is past its start.
    """
    state = campaign.state
    if state is State.DRAFT and (emergency or not campaign.policy.approvals):
        state = next_state(state, Event.SUBMIT)
    if state is State.AWAITING_APPROVAL and (emergency or not campaign.policy.approvals):
        state = next_state(state, Event.APPROVE)
    return replace(campaign, state=next_state(state, Event.START), started_at=now, run_at=now, emergency=emergency)


def reopened(campaign: CampaignRecord, *, now: datetime) -> CampaignRecord:
    """Return the halted campaign in its next run: new statistics, and levels that stay until the blobs are back.

    It counts as halted no more, so that directives stop naming its release among those that were.
    """
    return replace(
        _planned_anew(_frozen(campaign, now)),
        state=next_state(campaign.state, Event.RESUME),
        run=campaign.run + 1,
        run_at=now,
        blobs_ready=False,
        halted_at=None,
        ended_at=None,
        watching_since=None,
        sentence="",
        advanced=None,
        answer=None,
    )


def _planned_anew(campaign: CampaignRecord) -> CampaignRecord:
    """Return a campaign that has nothing to make up for: what is left of its lines begins where its levels are."""
    regions = tuple(
        replace(region, planned=_shifted(region.planned, region.ramp.l1, region.ramp.t1)) for region in campaign.regions
    )
    return replace(campaign, regions=regions)


def _shifted(planned: Ramp, level: int, at: int) -> Ramp:
    """Return the rest of a line, from ``level`` on, as steep as it was and begun at ``at``."""
    rise = planned.l1 - planned.l0
    share = (planned.l1 - level) / rise if rise else 0.0
    return Ramp(at, level, at + round((planned.t1 - planned.t0) * share), max(planned.l1, level))


def supplied(campaign: CampaignRecord) -> CampaignRecord:
    """Return the campaign whose blobs are at the broker: its levels may rise."""
    return replace(campaign, blobs_ready=True)


def rolling_back(campaign: CampaignRecord, *, now: datetime) -> CampaignRecord:
    """Return the campaign whose devices are on their way back."""
    state = next_state(campaign.state, Event.ROLLBACK)
    return replace(_frozen(campaign, now), state=state, causes=frozenset(), ended_at=None, rolling_since=now)


def halted(campaign: CampaignRecord, *, now: datetime) -> CampaignRecord:
    """Return the campaign halted, its levels where they are."""
    return replace(ended(campaign, Event.HALT, now=now), halted_at=now)


def ended(campaign: CampaignRecord, event: Event, *, now: datetime) -> CampaignRecord:
    """Return the campaign after ``event``, which ends it, its levels where they are."""
    state = next_state(campaign.state, event)
    return replace(_frozen(campaign, now), state=state, causes=frozenset(), ended_at=now)


def _frozen(campaign: CampaignRecord, now: datetime) -> CampaignRecord:
    at = now.timestamp()
    regions = tuple(replace(region, ramp=region.ramp.frozen(at)) for region in campaign.regions)
    return replace(_awaiting_nobody(campaign) if campaign.awaits else campaign, regions=regions)


def _awaiting_nobody(campaign: CampaignRecord) -> CampaignRecord:
    """What an open wave waits for is all that the sentence of a running campaign says."""
    return replace(campaign, awaits=Awaited.NOBODY, sentence="")
