"""Rolling a release back: one order for each region, until everybody has answered or patience is over."""

from pathlib import Path

import pytest

from firmware_store.errors import ConflictError, IllegalTransitionError
from server.db.database import Database
from server.domain.campaign import State
from server.domain.execution import State as Execution
from server.domain.identity import CampaignId
from server.domain.plan import Plan, Policy, Wave
from server.protocol.orders import Action
from server.protocol.reasons import Reason
from server.services.device import Device
from tests.records import EU, LAB, MAIN, US
from tests.service_world import World

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000, rollback_s=3600)
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))
DEVICES = 12


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    """12 devices in each of two regions, all of them online with a factory image."""
    world = World(store, tmp_path)
    await world.populate(DEVICES, EU, US)
    return world


def everybody(world: World) -> list[Device]:
    return [device for region in (EU, US) for device in world.fleet.members(MAIN, region)]


async def updated(world: World, release: int = 1) -> CampaignId:
    """A campaign whose release every device has confirmed."""
    campaign = await world.start(await world.add_release(release), AT_ONCE, POLICY, EU, US)
    await world.live()
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign, state, *everybody(world))
    await world.live(70)
    return campaign


async def roll_back(world: World, campaign: CampaignId) -> None:
    await world.campaigns.rollback(campaign, caller="ann", reason="it drains the battery")


async def go_back(world: World, campaign: CampaignId, *devices: Device) -> None:
    await world.report(campaign, Execution.ROLLED_BACK, *devices, reason=Reason.ROLLED_BACK)


async def stay(world: World, campaign: CampaignId, *devices: Device) -> None:
    await world.report(campaign, Execution.CONFIRMED, *devices, reason=Reason.NO_WAY_BACK, detail="no other slot")


def orders(world: World) -> list[Action | None]:
    return [None if order is None else order.action for order in (world.order(EU), world.order(US))]


async def test_one_order_for_each_region_and_an_end_when_all_have_returned(world: World) -> None:
    campaign = await updated(world)

    await roll_back(world, campaign)
    assert orders(world) == [Action.ROLLBACK, Action.ROLLBACK]
    await world.live(60)
    devices = everybody(world)
    await go_back(world, campaign, *devices[:20])
    await world.live(60)
    assert (await world.campaign(campaign)).state is State.ROLLING_BACK
    await stay(world, campaign, *devices[20:22])
    await world.live(60)
    await go_back(world, campaign, *devices[22:])
    await world.live(60)

    record = await world.campaign(campaign)
    assert record.state is State.ROLLED_BACK
    assert record.sentence == ("Rolled back in 3 min: 22 of 24 devices run their previous release; 2 have no way back.")
    assert orders(world) == [Action.NONE, Action.NONE]
    decision = (await world.campaigns.decisions(campaign, 1))[0]
    assert decision.evidence == {"returned": 22, "no_way_back": 2, "never_answered": 0, "seconds": 180.0}


async def test_devices_without_a_way_back_are_listed_with_what_to_do(world: World) -> None:
    previous = await world.add_release(3)
    campaign = await updated(world, release=7)
    await roll_back(world, campaign)
    lost = everybody(world)[5]
    await stay(world, campaign, lost)

    listed = await world.executions.page(campaign, after="", limit=10, reason=Reason.NO_WAY_BACK)
    progress = await world.rollbacks.progress(await world.campaign(campaign))

    assert [(row.device_id, row.state, row.detail) for row in listed] == [
        (lost.id, Execution.CONFIRMED, "no other slot")
    ]
    assert progress is not None
    assert (progress.returns.no_way_back, progress.returns.waiting) == (1, 2 * DEVICES - 1)
    assert f"bun_{previous.id.hex}" in progress.hint
    assert "above 7" in progress.hint


async def test_devices_that_are_away_are_waited_for_until_patience_is_over(world: World) -> None:
    campaign = await updated(world)
    await roll_back(world, campaign)
    await go_back(world, campaign, *everybody(world)[:-3])

    await world.live(POLICY.rollback_s - 10)
    assert (await world.campaign(campaign)).state is State.ROLLING_BACK
    await world.live(20)

    record = await world.campaign(campaign)
    assert record.state is State.ROLLED_BACK
    assert record.sentence.endswith("21 of 24 devices run their previous release; 3 never answered.")


async def test_a_trial_under_way_is_waited_for_and_a_download_is_not(world: World) -> None:
    campaign = await world.start(await world.add_release(), AT_ONCE, POLICY, EU, US)
    await world.live()
    on_trial, downloading, *_ = everybody(world)
    await world.report(campaign, Execution.DOWNLOADING, on_trial, downloading)
    await world.report(campaign, Execution.REBOOTING, on_trial)
    await world.report(campaign, Execution.TRIAL, on_trial)
    await world.campaigns.pause(campaign, caller="ann", reason="let me look")
    await roll_back(world, campaign)
    await world.live(5)
    assert (await world.campaign(campaign)).state is State.ROLLING_BACK

    await go_back(world, campaign, on_trial)
    await world.live(5)

    assert (await world.campaign(campaign)).sentence == (
        "Rolled back in 5 s: 1 of 1 devices run their previous release."
    )


async def test_a_halted_campaign_that_nobody_ran_is_rolled_back_at_once(world: World) -> None:
    campaign = await world.start(await world.add_release(), AT_ONCE, POLICY, EU, US)
    await world.live()
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")

    await roll_back(world, campaign)
    await world.live()

    assert (await world.campaign(campaign)).sentence == "Rolled back: no device ran the release."


async def test_a_running_campaign_is_halted_or_paused_before_it_is_rolled_back(world: World) -> None:
    campaign = await world.start(await world.add_release(), AT_ONCE, POLICY, EU, US)

    with pytest.raises(IllegalTransitionError):
        await roll_back(world, campaign)


async def test_a_successor_on_the_same_devices_is_in_the_way_unless_it_is_superseded(world: World) -> None:
    first = await updated(world)
    await world.live(600)
    assert (await world.campaign(first)).state is State.FINISHED
    second = await world.start(await world.add_release(2), AT_ONCE, POLICY, EU, US)
    await world.live()

    with pytest.raises(ConflictError, match="is active on these devices"):
        await roll_back(world, first)
    await world.campaigns.rollback(first, caller="ann", reason="both are bad", supersede=True)

    successor = await world.campaign(second)
    assert successor.state is State.CANCELLED
    assert successor.sentence == f"Superseded by spring (cmp_{first.hex})."
    assert orders(world) == [Action.ROLLBACK, Action.ROLLBACK]


async def test_devices_that_run_a_later_release_have_nothing_to_return_from(world: World) -> None:
    first = await updated(world)
    await world.live(600)
    second = await updated(world, release=2)
    await world.live(600)
    assert (await world.campaign(second)).state is State.FINISHED

    await roll_back(world, first)
    await world.live()

    assert (await world.campaign(first)).sentence == "Rolled back: no device ran the release."
