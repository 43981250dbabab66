"""Bad weather through the services on a real database: what an outage costs a release, and what it does not."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from server.db.database import Database
from server.domain.campaign import Cause, State
from server.domain.execution import State as Execution
from server.domain.identity import CampaignId, DeviceId, Region
from server.domain.plan import Plan, Policy, Wave
from server.services.device import Device
from tests.records import EU, LAB, MAIN, US
from tests.service_world import World

ASIA = Region("asia")
PLAN = Plan(waves=(Wave(ratio=0.35, count=None, ramp_s=20, soak_s=60),))
POLICY = Policy(halt=LAB, trial_s=10, watch_s=500)


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    """60 devices in each of three regions, all of them online with a factory image."""
    world = World(store, tmp_path)
    await world.populate(60, EU, US, ASIA)
    return world


async def on_the_way(world: World, policy: Policy = POLICY) -> CampaignId:
    """A campaign whose levels are at a third, and nobody of whose devices has begun."""
    campaign = await world.start(await world.add_release(), PLAN, policy, EU, US, ASIA)
    await world.live(30)
    return campaign


def go_dark(world: World, region: Region) -> list[Device]:
    gone = list(world.fleet.members(MAIN, region))
    for device in gone:
        device.gone = True
    return gone


async def silent(world: World, campaign: CampaignId) -> set[DeviceId]:
    progress = await world.executions.progress(campaign)
    return {device for device, one in progress.items() if one.state is Execution.SILENT}


async def test_no_deadline_comes_while_the_weather_of_its_region_is_bad(world: World) -> None:
    """An outage of one region in three lasts longer than any deadline; two devices never come back from it."""
    campaign = await on_the_way(world)
    due = world.due(campaign, EU)
    await world.report(campaign, Execution.TRIAL, *due[:4])
    await world.report(campaign, Execution.REBOOTING, *due[4:8])
    for device in (gone := go_dark(world, EU)):
        device.last_seen = world.now
    await world.live(3 * LAB.g1_s)
    in_the_outage, bad = await silent(world, campaign), world.evidence.bad_weather(campaign)

    for device in gone:
        device.gone = device in (due[0], due[4])
    await world.live(LAB.weather_clears_s + LAB.g1_s - 20)
    soon_after = await silent(world, campaign)
    await world.live(40)

    assert bad == {EU}
    assert in_the_outage == soon_after == set()
    assert await silent(world, campaign) == {due[0].id, due[4].id}
    assert (await world.campaign(campaign)).state is State.RUNNING
    assert world.evidence.bad_weather(campaign) == set()


async def test_a_spike_that_a_person_has_looked_at_is_held_no_more_but_the_next_one_is(world: World) -> None:
    halt = LAB.model_copy(update={"spike_hold_s": 60, "weather_page_s": 70})
    campaign = await on_the_way(world, Policy(halt=halt, trial_s=10, watch_s=500, on_offline_spike="hold"))
    seen = []

    async def look(seconds: float) -> None:
        await world.live(seconds)
        record = await world.campaign(campaign)
        seen.append((record.state, record.causes))

    with capture_logs() as said:
        gone = go_dark(world, EU)
        await look(50)
        await look(30)
        await world.campaigns.resume(campaign, caller="ann", reason="the carrier says two hours")
        await look(120)
        for device in gone:
            device.gone = False
        await world.live(60)
        go_dark(world, EU)
        await look(80)

    held = (State.PAUSED, {Cause.EVIDENCE})
    assert seen == [(State.RUNNING, set()), held, (State.RUNNING, set()), held]
    assert [line["log_level"] for line in said if line["event"] == "weather_stays_bad"] == ["error"] * 2
    assert [line["bad"] for line in said if line["event"] == "weather_changed"] == [[EU], [], [EU]]
    (hold, *_) = await world.campaigns.decisions(campaign, 1)
    assert hold.sentence == "On hold: devices have been dark in eu for 60 s, whatever the reason."
