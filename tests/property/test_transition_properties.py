"""Levels under every order that people and the orchestrator may give: they never fall, and leave the holdout alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from server.db.campaign_records import CampaignRecord, RegionRecord
from server.domain.campaign import Cause, State
from server.domain.gate import FULL, level_for_ratio
from server.domain.identity import BundleId, CampaignId, Cohort, Region
from server.domain.plan import Plan, Policy, Wave
from server.services.transitions import ceiling, halted, opened, paused, reopened, resumed, supplied

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
EU = Region("eu")
ratios = st.one_of(
    st.builds(lambda ratio, ramp: Wave(ratio=ratio, count=None, ramp_s=ramp), st.floats(0.001, 1), st.integers(0, 900)),
    st.builds(lambda count, ramp: Wave(ratio=None, count=count, ramp_s=ramp), st.integers(1, 60), st.integers(0, 900)),
)
heights = st.lists(st.integers(0, FULL - 1), max_size=40, unique=True)
steps = st.lists(st.tuples(st.sampled_from(["open", "pause", "resume", "halt", "reopen"]), st.integers(0, 700)))


def running(waves: list[Wave], holdout: float) -> CampaignRecord:
    return CampaignRecord(
        id=CampaignId(UUID(int=1)),
        name="spring",
        cohort=Cohort("main"),
        bundle_id=BundleId(UUID(int=2)),
        plan=Plan(waves=tuple(waves)),
        policy=Policy(holdout=holdout),
        reason="a test",
        created_by="ann",
        created_at=START,
        regions=(RegionRecord(EU),),
        state=State.RUNNING,
        started_at=START,
        blobs_ready=True,
    )


def after(step: str, campaign: CampaignRecord, all_heights: list[int], now: datetime) -> CampaignRecord:
    match step, campaign.state:
        case "open", State.RUNNING:
            wave = 0 if campaign.wave is None else min(campaign.wave + 1, len(campaign.plan.waves) - 1)
            return opened(campaign, wave, {EU: all_heights}, now)[0]
        case "pause", State.RUNNING:
            return paused(campaign, Cause.OPERATOR, now=now)
        case "resume", State.PAUSED:
            return resumed(campaign, frozenset({Cause.OPERATOR}))
        case "halt", State.RUNNING | State.PAUSED:
            return halted(campaign, now=now)
        case "reopen", State.HALTED:
            return supplied(reopened(campaign, now=now))
    return campaign


@given(st.lists(ratios, min_size=1, max_size=5), st.floats(0, 0.5), heights, steps)
def test_no_level_ever_falls_nor_rises_into_the_holdout(
    waves: list[Wave], holdout: float, all_heights: list[int], orders: list[tuple[str, int]]
) -> None:
    campaign, now, level = running(waves, holdout), START, 0
    below = [height for height in all_heights if height < ceiling(campaign)]
    for step, seconds in orders:
        now += timedelta(seconds=seconds)
        assert campaign.regions[0].ramp.level(now.timestamp()) >= level
        level = campaign.regions[0].ramp.level(now.timestamp())
        campaign = after(step, campaign, below, now)

        region = campaign.regions[0]
        assert region.ramp.level(now.timestamp()) == level or region.ramp.t1 == region.ramp.t0
        assert max(region.ramp.l1, region.target) <= FULL - level_for_ratio(holdout)


def test_a_new_run_has_nothing_of_the_old_one_but_its_levels() -> None:
    campaign = replace(
        halted(opened(running([Wave(ratio=0.5, count=None)], 0), 0, {EU: []}, START)[0], now=START),
        sentence="Halted.",
    )

    again = reopened(campaign, now=START + timedelta(hours=1))

    assert (again.run, again.sentence, again.blobs_ready) == (2, "", False)
    assert again.regions[0].ramp.l1 == campaign.regions[0].ramp.l1
    assert again.regions[0].target == campaign.regions[0].target
