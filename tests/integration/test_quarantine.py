"""Devices that are held: by hand, and when their attempts are spent; always with an end that can be seen."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from firmware_store.documents import Kind
from firmware_store.errors import NotFoundError
from server.db.database import Database
from server.domain.execution import State as Execution
from server.domain.identity import CampaignId, DeviceId
from server.domain.plan import Plan, Policy, Wave
from server.protocol.orders import read_welcome
from server.protocol.reasons import Reason
from server.services.device import Device
from tests.records import EU, LAB, MAIN
from tests.service_world import World

POLICY = Policy(halt=LAB, trial_s=10, watch_s=5000, offer_s=1000, quarantine_s=600)
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(10, EU)
    return world


async def running(world: World) -> CampaignId:
    campaign = await world.start(await world.add_release(), AT_ONCE, POLICY, EU)
    await world.live()
    return campaign


def some_device(world: World) -> Device:
    return next(iter(world.fleet.members(MAIN, EU)))


async def fail(world: World, campaign: CampaignId, device: Device, *attempts: int) -> None:
    for attempt in attempts:
        for state in (Execution.DOWNLOADING, Execution.FAILED):
            await world.report(campaign, state, device, attempt=attempt, reason=Reason.STORAGE_FULL)


async def eligible(world: World, campaign: CampaignId) -> int:
    record = await world.campaign(campaign)
    survey = await world.surveyor.survey(record, await world.campaigns.bundle_of(record), now=world.now)
    return sum(view.eligible for view in survey.counts.snapshot.regions)


async def test_a_device_whose_attempts_are_spent_is_held_until_its_time_is_over(world: World) -> None:
    campaign = await running(world)
    device = some_device(world)
    await fail(world, campaign, device, 1, 2)
    await world.live(11)
    assert not device.held

    await fail(world, campaign, device, 3)
    failed_at = datetime.fromtimestamp(world.now, UTC)
    await world.live(11)

    record = await world.devices.get(device.id)
    assert record.held
    assert record.held_until is not None
    assert (record.held_until - failed_at).total_seconds() == pytest.approx(600, abs=0.001)
    assert record.held_reason == f"3 attempts of spring (cmp_{campaign.hex}) have failed."
    assert await eligible(world, campaign) == 9
    await world.live(580)
    assert device.held
    await world.live(10)
    released = await world.devices.get(device.id)
    assert (released.held, released.held_until, released.held_reason) == (False, None, "")
    assert await eligible(world, campaign) == 10
    await world.live(60)
    assert not device.held


async def test_whoever_is_released_by_hand_is_not_held_again_for_what_has_failed_before(world: World) -> None:
    campaign = await running(world)
    device = some_device(world)
    await fail(world, campaign, device, 1, 2, 3)
    await world.live(11)
    assert device.held

    await world.quarantine.release(device.id, caller="ann")
    await world.live(30)
    assert not device.held
    await fail(world, campaign, device, 4)
    await world.live(11)

    assert device.held


async def test_a_device_learns_at_once_that_it_is_held_or_not_any_more(world: World) -> None:
    device = some_device(world)
    topic = world.topics.welcome(EU, device.id)

    await world.quarantine.hold(device.id, for_s=60, reason="on the bench", caller="ann")
    await world.quarantine.release(device.id, caller="ann")

    told = [body for name, body in world.shelf.published if name == topic][-2:]
    assert [read_welcome(world.authority.root.unseal(Kind.WELCOME, body).value).held for body in told] == [True, False]


async def test_a_hold_without_an_end_lasts(world: World) -> None:
    device = some_device(world)
    await world.quarantine.hold(device.id, for_s=None, reason="stolen", caller="ann")

    await world.live(10**7)

    record = await world.devices.get(device.id)
    assert (record.held, record.held_until, record.held_reason) == (True, None, "stolen")


async def test_a_device_that_is_not_there_is_not_held(world: World) -> None:
    with pytest.raises(NotFoundError):
        await world.quarantine.hold(DeviceId("nobody"), for_s=None, reason="x", caller="ann")
    with pytest.raises(NotFoundError):
        await world.quarantine.release(DeviceId("nobody"), caller="ann")
