"""When the rest of a campaign comes at the earliest, by its plan alone: what may hold it back is for others to say."""

from typing import NamedTuple

from server.db.campaign_records import CampaignRecord, RegionRecord
from server.domain.gate import level_for_ratio
from server.domain.identity import Region
from server.domain.paced import CATCH_UP
from server.domain.plan import Wave
from server.domain.snapshot import regions_of
from server.services.transitions import ceiling


class Step(NamedTuple):
    """A wave, from 0: when it opens or has opened, its levels are up, and its soak is over (Unix seconds)."""

    wave: int
    opens_at: float
    risen_at: float
    through_at: float


class Due(NamedTuple):
    """In which wave, from 0, a level passes a height, and when at the earliest (Unix seconds)."""

    wave: int
    at: float


def forecast(campaign: CampaignRecord, now: float) -> list[Step]:
    """Return the open wave and all after it, if nothing held the campaign back from ``now`` on."""
    plan = campaign.effective_plan
    steps: list[Step] = []
    at = now
    if campaign.wave is not None:
        wave = plan.waves[campaign.wave]
        open_regions = _regions(campaign, wave)
        risen = max((_risen_at(region, now) for region in open_regions), default=now)
        opened = min((region.planned.t0 for region in open_regions), default=now)
        at = max(now, risen + wave.soak_s)
        steps.append(Step(campaign.wave, opened, risen, at))
    first = 0 if campaign.wave is None else campaign.wave + 1
    for index, wave in enumerate(plan.waves[first:], first):
        steps.append(Step(index, at, at + wave.ramp_s, at + wave.ramp_s + wave.soak_s))
        at = steps[-1].through_at
    return steps


def due(campaign: CampaignRecord, region: Region, height: int, now: float) -> Due | None:
    """Return when the region's level passes a height that it has not passed yet.

    None where no wave does, or only one that is for a number of devices, of which the heights are not known here.
    """
    record = next(one for one in campaign.regions if one.region == region)
    reached = 0
    for step in forecast(campaign, now):
        wave = campaign.plan.waves[step.wave]
        if region not in regions_of(wave, [one.region for one in campaign.regions]):
            continue
        if step.wave == campaign.wave:
            at = record.planned.due_at(height)
            if at is not None:
                return Due(step.wave, _held_back(record, height, at, now))
            reached = record.target
        elif wave.ratio is not None:
            target = min(level_for_ratio(wave.ratio), ceiling(campaign))
            if height < target:
                share = (height + 1 - reached) / max(1, target - reached)
                return Due(step.wave, step.opens_at + wave.ramp_s * min(1.0, max(0.0, share)))
            reached = max(reached, target)
    return None


def _regions(campaign: CampaignRecord, wave: Wave) -> list[RegionRecord]:
    names = set(regions_of(wave, [one.region for one in campaign.regions]))
    return [one for one in campaign.regions if one.region in names]


def _risen_at(region: RegionRecord, now: float) -> float:
    """Return when the level is up: it is never above its line, and makes up for what it lags behind."""
    planned = region.planned
    if region.ramp.l1 >= planned.l1:
        return float(region.ramp.t1)
    return max(float(planned.t1), now + _rise_s(region, planned.l1, now))


def _held_back(region: RegionRecord, height: int, planned_at: float, now: float) -> float:
    return max(planned_at, now + _rise_s(region, height + 1, now))


def _rise_s(region: RegionRecord, level: int, now: float) -> float:
    """Return how long the level takes up to another, as fast as it may."""
    planned = region.planned
    rise = max(1, planned.l1 - planned.l0)
    return max(0, level - region.ramp.level(now)) * (planned.t1 - planned.t0) / rise / CATCH_UP
