"""One campaign takes another's place: both in one transaction, and devices obey the new one."""

import asyncio
from pathlib import Path

import pytest

from firmware_store.errors import ConflictError
from server.db.database import Database
from server.domain.campaign import State
from server.domain.identity import CampaignId, Region
from server.domain.plan import Plan, Policy, Wave
from server.protocol.orders import Action
from server.services.drafts import Draft
from tests.records import EU, LAB, MAIN, US
from tests.service_world import World

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(5, EU, US)
    return world


async def draft(world: World, number: int, *regions: Region) -> CampaignId:
    release = await world.add_release(number)
    made = Draft(f"release {number}", MAIN, regions, release.id, AT_ONCE, POLICY, "a test")
    return (await world.campaigns.draft(made, caller="ann")).id


async def running(world: World, *regions: Region) -> CampaignId:
    campaign = await world.start(await world.add_release(), AT_ONCE, POLICY, *regions)
    await world.orchestrator.tick()
    return campaign


async def test_the_one_that_is_in_the_way_is_named(world: World) -> None:
    old = await running(world, EU, US)
    new = await draft(world, 2, US)

    with pytest.raises(ConflictError, match=rf"spring \(cmp_{old.hex}\) is active on these devices"):
        await world.campaigns.start(new, caller="bea", reason="go")

    assert (await world.campaign(new)).state is State.DRAFT
    assert (await world.campaign(old)).state is State.RUNNING


async def test_devices_obey_the_new_one_and_the_old_one_says_by_what_it_was_superseded(world: World) -> None:
    old = await running(world, EU, US)
    new = await draft(world, 2, US)

    await world.campaigns.start(new, caller="bea", reason="go", supersede=True)

    record = await world.campaign(old)
    assert (record.state, record.sentence) == (State.CANCELLED, f"Superseded by release 2 (cmp_{new.hex}).")
    assert [(d.kind, d.actor) for d in await world.campaigns.decisions(old, 1)] == [("cancel", "bea")]
    for region in (EU, US):
        order = world.order(region)
        assert order is not None
        assert order.action is Action.NONE
    await world.publish()
    await world.orchestrator.tick()
    offer = world.order(US)
    assert offer is not None
    assert (offer.action, offer.campaign) == (Action.OFFER, new)


async def test_of_two_that_supersede_together_one_is_left_and_none_is_lost(world: World) -> None:
    old = await running(world, EU, US)
    first, second = await draft(world, 2, EU), await draft(world, 3, EU, US)

    async def start(campaign: CampaignId) -> None:
        await world.campaigns.start(campaign, caller="bea", reason="go", supersede=True)

    await asyncio.gather(start(first), start(second), return_exceptions=True)

    states = [(await world.campaign(campaign)).state for campaign in (old, first, second)]
    assert states[0] is State.CANCELLED
    assert states.count(State.RUNNING) == 1
