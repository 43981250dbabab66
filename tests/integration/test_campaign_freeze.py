"""Campaigns in a freeze: held at its start, going on at its end, and halted meanwhile as ever."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from firmware_store.errors import InvalidInputError, NotFoundError, SignerUnavailableError
from server.db.database import Database
from server.db.freezes import FreezeRecord
from server.domain.campaign import Cause, State
from server.domain.identity import CampaignId, Region
from server.domain.plan import Plan, Policy, Wave
from server.protocol.orders import Action
from server.services.drafts import Draft
from server.services.transitions import completed
from tests.records import EU, LAB, MAIN, US
from tests.service_world import World

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
SLOW = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=10_000, soak_s=60),))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(5, EU)
    return world


async def add(world: World, region: Region | None, *, after_s: float, for_s: float) -> FreezeRecord:
    starts = datetime.fromtimestamp(world.now + after_s, UTC).replace(tzinfo=None)
    return await world.freezes.add(
        region=region,
        zone="UTC",
        starts=starts,
        ends=starts + timedelta(seconds=for_s),
        reason="the sales",
        caller="ann",
    )


async def running(world: World) -> CampaignId:
    campaign = await world.start(await world.add_release(), SLOW, POLICY, EU)
    await world.live()
    return campaign


def action(world: World) -> Action:
    order = world.order(EU)
    assert order is not None
    return order.action


@pytest.mark.parametrize("region", [EU, None])
async def test_a_freeze_holds_a_campaign_and_lets_it_go_on(world: World, region: Region | None) -> None:
    campaign = await running(world)
    await add(world, region, after_s=100, for_s=600)

    await world.live(90)
    assert (await world.campaign(campaign)).state is State.RUNNING
    await world.live(20)
    held = await world.campaign(campaign)
    assert (held.state, held.causes, action(world)) == (State.PAUSED, {Cause.FREEZE}, Action.HOLD)
    assert held.sentence.startswith("Held by a freeze until ")
    assert held.sentence.endswith("UTC: the sales")
    level = held.regions[0].ramp.l1
    await world.live(580)
    assert (await world.campaign(campaign)).regions[0].ramp.level(world.now) == level
    await world.live(20)

    going_on = await world.campaign(campaign)
    assert (going_on.state, going_on.causes, action(world)) == (State.RUNNING, set(), Action.OFFER)
    assert level <= going_on.regions[0].ramp.l0 < 1.5 * level
    decisions = await world.campaigns.decisions(campaign, 2)
    assert [(d.kind, d.actor) for d in decisions] == [("resume", "freeze"), ("pause", "freeze")]


async def test_a_freeze_also_holds_what_is_watched_and_lets_late_devices_in(world: World) -> None:
    campaign = await running(world)
    at = datetime.fromtimestamp(world.now, UTC)
    assert await world.repository.save(completed(await world.campaign(campaign), now=at)) is not None
    await add(world, EU, after_s=10, for_s=100)

    await world.live(5)
    assert (await world.campaign(campaign)).state is State.WATCHING
    await world.live(10)
    held = await world.campaign(campaign)
    assert (held.state, held.causes, action(world)) == (State.PAUSED, {Cause.FREEZE}, Action.HOLD)
    await world.live(110)

    assert ((await world.campaign(campaign)).causes, action(world)) == (set(), Action.OFFER)


async def test_another_regions_freeze_holds_nothing(world: World) -> None:
    campaign = await running(world)
    await add(world, US, after_s=-10, for_s=600)

    await world.live(1)

    assert (await world.campaign(campaign)).state is State.RUNNING


async def test_what_starts_in_a_freeze_reaches_no_device(world: World) -> None:
    await add(world, EU, after_s=-10, for_s=600)

    campaign = await running(world)

    assert (await world.campaign(campaign)).causes == {Cause.FREEZE}
    assert world.order(EU) is None


async def test_a_person_does_not_resume_what_is_frozen_and_the_end_does_not_what_a_person_paused(world: World) -> None:
    campaign = await running(world)
    await add(world, EU, after_s=-10, for_s=600)
    await world.live()
    await world.campaigns.pause(campaign, caller="ann", reason="let me look")

    resumed = await world.campaigns.resume(campaign, caller="ann", reason="go on")
    assert (resumed.state, resumed.causes) == (State.PAUSED, {Cause.FREEZE})
    await world.campaigns.pause(campaign, caller="ann", reason="let me look")
    await world.live(700)

    assert (await world.campaign(campaign)).causes == {Cause.OPERATOR}


async def test_a_freeze_that_is_removed_holds_no_more(world: World) -> None:
    campaign = await running(world)
    record = await add(world, EU, after_s=-10, for_s=600)
    await world.live()

    await world.freezes.remove(record.freeze.id, caller="ann")
    await world.live()

    assert (await world.campaign(campaign)).state is State.RUNNING
    assert await world.freezes.all() == []
    with pytest.raises(NotFoundError):
        await world.freezes.remove(record.freeze.id, caller="ann")


async def test_an_emergency_goes_through_a_freeze(world: World) -> None:
    campaign = await running(world)
    await world.campaigns.cancel(campaign, caller="ann", reason="a better one comes")
    await add(world, EU, after_s=-10, for_s=600)
    release = await world.add_release(2)
    draft = await world.campaigns.draft(Draft("fix", MAIN, (EU,), release.id, SLOW, POLICY, "r"), caller="ann")
    await world.campaigns.start(draft.id, caller="ann", reason="it burns", emergency=True)
    await world.live()

    assert (await world.campaign(draft.id)).state is State.RUNNING


async def test_a_freeze_that_cannot_be_is_refused(world: World) -> None:
    with pytest.raises(InvalidInputError, match="ends after"):
        await add(world, EU, after_s=0, for_s=0)
    with pytest.raises(InvalidInputError, match="no time zone"):
        await world.freezes.add(
            region=EU,
            zone="Mars/Olympus",
            starts=datetime.fromisoformat("2026-01-01"),
            ends=datetime.fromisoformat("2026-01-02"),
            reason="dust",
            caller="ann",
        )


@pytest.mark.parametrize(
    "error", [SignerUnavailableError("nobody signs"), RuntimeError("a bug")], ids=["signer", "bug"]
)
async def test_a_chore_that_fails_keeps_no_campaign_from_being_evaluated(world: World, error: Exception) -> None:
    async def fail(_now: float) -> None:
        raise error

    campaign = await running(world)
    world.orchestrator.chores = (fail,)
    await world.campaigns.cancel(campaign, caller="ann", reason="another one")
    other = await world.start(await world.add_release(2), SLOW, POLICY, EU)
    await world.live()

    assert (await world.campaign(other)).wave == 0
