"""Devices that sleep in a campaign: admitted as there is room for their like, and judged after their third interval."""

from pathlib import Path

import pytest

from server.db.database import Database
from server.db.devices import NewDevice
from server.domain.campaign import State
from server.domain.execution import State as Execution
from server.domain.identity import CampaignId, DeviceId
from server.domain.plan import Plan, Policy, Wave
from server.protocol.reasons import Reason
from server.services.device import Device
from tests.records import EU, LAB, MAIN
from tests.service_world import World

INTERVAL_S = 60
HALT = LAB.model_copy(update={"sleeper_room": 2, "slow_room": 2})
POLICY = Policy(halt=HALT, trial_s=10, watch_s=50_000)
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))
NAMES = [DeviceId(f"nap-{number}") for number in range(5)]


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    """60 devices that are always awake, and five that sleep."""
    world = World(store, tmp_path)
    await world.populate(60, EU)
    await world.inventory.add([NewDevice(name, EU, MAIN) for name in NAMES])
    await world.connect(*NAMES, wake_interval_s=INTERVAL_S)
    return world


def sleepers(world: World) -> list[Device]:
    return [device for device in world.fleet if device.wake_interval_s]


async def start(world: World) -> CampaignId:
    """Everybody who is always awake is updated, and judged."""
    campaign = await world.start(await world.add_release(), AT_ONCE, POLICY, EU)
    await world.live()
    awake = [device for device in world.fleet if not device.wake_interval_s]
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign, state, *awake)
    await world.live(LAB.g1_s + 20)
    return campaign


async def silent(world: World, campaign: CampaignId) -> list[DeviceId]:
    progress = await world.executions.progress(campaign)
    return [device for device, one in progress.items() if one.state is Execution.SILENT]


async def test_sleepers_are_admitted_as_there_is_room_for_them_and_those_that_wait_hold_up_no_wave(
    world: World,
) -> None:
    campaign = await start(world)
    await world.report(campaign, Execution.DUE, *sleepers(world), reason=Reason.LATE)
    await world.live()
    admitted = [device for device in sleepers(world) if device.admit is not None]
    await world.report(campaign, Execution.DOWNLOADING, *admitted)
    await world.live()

    assert len(admitted) == 2
    assert [device for device in sleepers(world) if device.admit is not None] == admitted
    assert (await world.campaign(campaign)).state is State.WATCHING


async def test_a_sleeper_is_judged_after_its_third_interval(world: World) -> None:
    campaign = await start(world)
    asleep, lost = sleepers(world)[:2]
    await world.report(campaign, Execution.REBOOTING, asleep, lost)
    rebooted_at = world.now
    for device in sleepers(world):
        device.gone = True
    await world.live(LAB.g1_s + INTERVAL_S)
    world.beat(asleep)
    asleep.gone = True
    await world.live(rebooted_at + LAB.g1_s + 3 * INTERVAL_S - 30 - world.now)

    assert await silent(world, campaign) == []
    await world.live(60)
    assert await silent(world, campaign) == [lost.id]
