"""A cap on a region's bytes per second: levels and late devices are let in no faster than the bundle fits into it."""

from pathlib import Path

import pytest

from server.db.database import Database
from server.domain.execution import State
from server.domain.identity import CampaignId
from server.domain.plan import Plan, Policy, Wave
from server.protocol.reasons import Reason
from tests.records import EU, LAB, US
from tests.service_world import World

SIX_A_MINUTE = 2500 // 10  # of a bundle of 2500 bytes
POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000, region_bytes_per_s_most=SIX_A_MINUTE)
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=600),))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path / "blobs")
    await world.populate(30, EU, US)
    return world


def admitted(world: World, campaign: CampaignId) -> int:
    return sum(device.admit is not None and device.admit.campaign == campaign for device in world.fleet)


async def test_each_region_rises_no_faster_than_its_bytes_allow(world: World) -> None:
    campaign = await world.start(await world.add_release(5), AT_ONCE, POLICY, EU, US)

    await world.live(55)
    after_a_minute = [len(world.due(campaign, region)) for region in (EU, US)]
    await world.live(320)

    assert max(after_a_minute) <= 6
    assert [len(world.due(campaign, region)) for region in (EU, US)] == [30, 30]


async def test_late_devices_are_let_in_no_faster_either(world: World) -> None:
    campaign = await world.start(await world.add_release(5), AT_ONCE, POLICY, EU, US)
    await world.live(400)
    await world.report(campaign, State.DUE, *world.due(campaign, EU), reason=Reason.LATE)

    await world.live(40)

    assert admitted(world, campaign) == 6
