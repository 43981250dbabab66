"""Who is there: greetings that are signed afresh, beats that cost no write, last wills that are believed with care."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from firmware_store.documents import Kind
from server.db.database import Database
from server.db.devices import DeviceRepository, NewDevice
from server.db.directives import issue
from server.db.pool import open_pool
from server.domain.identity import DeviceId
from server.protocol.messages import Beat, Counter, Gone
from server.protocol.orders import Action, Welcome, read_welcome
from server.services.device import Device
from server.services.fleet import Fleet
from server.services.presence import WELCOME_AGAIN_S
from tests.records import EU, MAIN, US, order
from tests.service_world import HEARTBEAT_S, World

NAME = DeviceId("gw-0001")


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.inventory.add([NewDevice(NAME, EU, MAIN)])
    return world


@pytest.fixture
async def device(world: World) -> Device:
    """It is online, and has been welcomed."""
    await world.connect(NAME)
    known = world.fleet.get(NAME)
    assert known is not None
    return known


def welcomes(world: World) -> list[Welcome]:
    bodies = [body for topic, body in world.shelf.published if topic == world.topics.welcome(EU, NAME)]
    return [read_welcome(world.authority.root.unseal(Kind.WELCOME, body).value) for body in bodies]


async def order_something(world: World) -> Counter:
    """Put the cohort under an order, and return its counter."""
    nothing = replace(order(action=Action.NONE), fleet=world.authority.root.fleet)
    async with world.store.transaction() as connection:
        await issue(connection, [nothing], world.authority.sign_directive, floor=0)
    await world.directives.flush()
    return world.directives.counter(nothing.audience)


async def test_a_hello_is_answered_by_a_welcome_for_this_very_session(world: World, device: Device) -> None:
    (welcome,) = welcomes(world)

    assert welcome.nonce == device.nonce
    assert (welcome.device, welcome.region, welcome.cohort, welcome.held) == (NAME, EU, MAIN, False)
    assert (welcome.server_time, welcome.heartbeat_s) == (int(world.now), HEARTBEAT_S)
    assert (welcome.cohort_counter, welcome.device_counter) == (Counter(), Counter())


async def test_a_welcome_names_the_counter_that_a_device_must_hold(world: World) -> None:
    counter = await order_something(world)

    await world.connect(NAME)

    assert [welcome.cohort_counter for welcome in welcomes(world)] == [counter]


async def test_a_beat_with_an_old_counter_is_answered_but_not_each_time(world: World, device: Device) -> None:
    await order_something(world)
    old = Beat(b"bootboot", 5, Counter())
    answered = []
    for later_s in (0.0, WELCOME_AGAIN_S, 1.0, WELCOME_AGAIN_S - 1.1, 0.2):
        world.now += later_s
        world.presence.beat(device, old, world.now, region=EU)
        answered.append(len(welcomes(world)) - 1)

    assert answered == [0, 1, 1, 1, 2]


async def test_a_beat_that_is_up_to_date_is_not_answered_and_not_written(world: World, device: Device) -> None:
    counter = await order_something(world)
    world.now += 60

    world.presence.beat(device, Beat(b"bootboot", 65, counter), world.now, region=EU)

    assert len(welcomes(world)) == 1
    assert device.last_seen == world.now
    stored = (await world.devices.get(NAME)).last_seen
    assert stored is not None
    assert stored.timestamp() == pytest.approx(world.now - 60)


async def test_a_beat_in_another_region_says_nothing_of_our_counters(world: World, device: Device) -> None:
    """It holds that region's directives, which may well be newer."""
    await order_something(world)
    before = world.directives.floor

    ahead = Counter(0, int(world.now + 60) * 1000)
    world.presence.beat(device, Beat(b"bootboot", 5, ahead), world.now, region=US)

    assert world.directives.floor == before


async def test_a_device_is_online_until_it_has_missed_two_and_a_half_beats(world: World, device: Device) -> None:
    assert world.fleet.is_online(device, world.now + 2.5 * HEARTBEAT_S)
    assert not world.fleet.is_online(device, world.now + 2.5 * HEARTBEAT_S + 0.1)


async def test_a_last_will_takes_a_device_offline_at_once_if_it_is_this_sessions(world: World, device: Device) -> None:
    world.presence.gone(device, Gone(b"bootboot", b"an older session"))
    assert world.fleet.is_online(device, world.now)

    world.presence.gone(device, Gone(b"bootboot", device.nonce))
    assert not world.fleet.is_online(device, world.now)


async def test_a_beat_after_a_last_will_brings_a_device_back(world: World, device: Device) -> None:
    world.presence.gone(device, Gone(b"bootboot", device.nonce))

    world.presence.beat(device, Beat(b"bootboot", 5), world.now, region=EU)

    assert world.fleet.is_online(device, world.now)


async def test_last_seen_is_written_in_batches_and_a_failed_batch_is_written_again(
    world: World, device: Device, database: str
) -> None:
    world.now += 60
    world.beat(device)
    gone = await open_pool(database)
    await gone.close()
    world.presence._repository = DeviceRepository(Database(gone))
    await world.presence.save_seen_now()

    world.presence._repository = world.devices
    await world.presence.save_seen_now()

    assert (await world.devices.get(NAME)).last_seen == datetime.fromtimestamp(world.now, UTC)


async def test_a_restarted_server_knows_who_was_there_last(world: World, device: Device) -> None:
    await world.presence.save_seen_now()
    restarted = World(world.store, Path("unused"))
    async for record in restarted.devices.each():
        restarted.fleet.add(record)

    known = restarted.fleet.get(NAME)
    assert known is not None
    assert (known.class_id, known.nonce) == (device.class_id, device.nonce)
    assert known.last_seen == pytest.approx(device.last_seen, abs=1e-5)
    assert world.fleet.unsaved() == []


def come_and_go(world: World, device: Device, times: int) -> None:
    for _ in range(times):
        world.now += 3600
        world.beat(device)


async def test_a_device_that_comes_and_goes_is_unsteady_also_after_a_restart(world: World, device: Device) -> None:
    assert not device.is_unsteady
    come_and_go(world, device, 4)
    assert device.is_away_by_habit
    assert not device.is_unsteady
    come_and_go(world, device, 7)
    assert device.is_unsteady

    await world.presence.save_seen_now()
    restarted = World(world.store, Path("unused"))
    restarted.fleet.add(await world.devices.get(NAME))

    known = restarted.fleet.get(NAME)
    assert known is not None
    assert known.is_unsteady


async def test_a_device_that_stayed_for_weeks_is_settled_again(world: World, device: Device) -> None:
    come_and_go(world, device, 4)

    for _ in range(2 * 7 * 24 * 60):
        world.now += world.fleet.grace_s
        world.beat(device)

    assert not device.is_away_by_habit


async def test_what_the_server_could_not_hear_was_no_absence(world: World, device: Device) -> None:
    for _ in range(10):
        world.now += 3600
        world.fleet.listen(world.now - 1)
        world.beat(device)

    assert not device.is_away_by_habit


async def test_a_device_that_stays_away_after_the_server_is_back_was_away(world: World, device: Device) -> None:
    for _ in range(4):
        world.now += 3600
        world.fleet.listen(world.now - world.fleet.grace_s - 1)
        world.beat(device)

    assert device.is_away_by_habit


async def test_a_device_that_declares_that_it_sleeps_is_asleep_and_not_dark_until_it_has_missed_a_wake(
    world: World,
) -> None:
    await world.connect(NAME, wake_interval_s=3600)
    device = world.fleet.get(NAME)
    assert device is not None
    world.presence.gone(device, Gone(b"bootboot", device.nonce))

    def habits(later_s: float) -> tuple[bool, bool, bool]:
        at = world.now + later_s
        return world.fleet.is_online(device, at), world.fleet.is_asleep(device, at), world.fleet.is_dark(device, at)

    assert [habits(later_s) for later_s in (1, 5400, 5401)] == [
        (False, True, False),
        (False, True, False),
        (False, False, True),
    ]
    assert device.drops == 0


async def test_what_a_device_declares_of_its_sleep_survives_a_restart_and_waking_in_time_is_no_absence(
    world: World,
) -> None:
    for _ in range(5):
        world.now += 3600
        await world.connect(NAME, wake_interval_s=3600)
    record = await DeviceRepository(world.store).get(NAME)
    fresh = Fleet(heartbeat_s=HEARTBEAT_S)
    fresh.add(record)
    known = fresh.get(NAME)
    assert known is not None

    assert (record.wake_interval_s, known.wake_interval_s) == (3600, 3600)
    assert known.absences == 0
    assert not fresh.is_dark(known, world.now + 5000)
