"""Changes of many devices: shown first, carried out batch by batch, told to those who are there, and gone on with."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from firmware_store.documents import Kind
from firmware_store.errors import ConflictError, InvalidInputError
from server.db.database import Database
from server.db.operations import OperationRecord, OperationRepository
from server.db.outbox import OutboxRepository
from server.domain.change import Change
from server.domain.events import Choice, EventType
from server.domain.execution import State
from server.domain.filter import DEVICES, Expression, read_filter
from server.domain.identity import Cohort, DeviceId
from server.domain.plan import Plan, Policy, Wave
from server.protocol.messages import Beat, Counter, Hello, Slot
from server.protocol.orders import Welcome, read_welcome
from server.services.identifiers import new_uuid7
from server.services.operations import Operations
from tests.records import EU, EVERYBODY, LAB, MAIN, US
from tests.service_world import World

CANARY = Cohort("canary")
TO_CANARY = Change(cohort="canary")
WAIT_S = 20.0


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(3, EU, US)
    return world


def operations(world: World) -> Operations:
    return Operations(
        repository=OperationRepository(world.store),
        devices=world.devices,
        fleet=world.fleet,
        presence=world.presence,
        clock=lambda: world.now,
    )


def read(text: str) -> Expression:
    return read_filter(text, DEVICES, datetime.now(UTC))


async def carry_out(world: World, text: str, change: Change, **given: Any) -> OperationRecord:
    """Begin it, and let the background do it."""
    service = operations(world)
    begun = await service.begin(
        read(text), change, text=text, caller="ann", reason="a test", **{"digest": None} | given
    )
    return await ended(service, begun)


async def ended(service: Operations, begun: OperationRecord) -> OperationRecord:
    running = asyncio.create_task(service.run())
    try:
        async with asyncio.timeout(WAIT_S):
            while (seen := await service.get(begun.id)).state == "running":
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return seen


def last_welcome(world: World, device: str, region: str) -> Welcome:
    topic = world.topics.welcome(region, DeviceId(device))  # type: ignore[arg-type]
    body = [body for where, body in world.shelf.published if where == topic][-1]
    return read_welcome(world.authority.root.unseal(Kind.WELCOME, body).value)


async def test_what_was_shown_is_what_is_moved(world: World) -> None:
    service = operations(world)
    plan = await service.plan(read("region = eu"), TO_CANARY)

    done = await carry_out(world, "region = eu", TO_CANARY, digest=plan.digest)

    assert (plan.devices, plan.refused, plan.places) == (3, 0, {(EU, MAIN): 3})
    assert plan.sample == ["eu-000", "eu-001", "eu-002"]
    assert (done.state, done.total, done.done, done.refused, done.errors) == ("done", 3, 3, 0, ())
    assert {device.id for device in world.fleet.members(CANARY, EU)} == set(plan.sample)
    told = await OutboxRepository(world.store).next_of(Choice(frozenset({EventType.OPERATION_ENDED})), 0)
    assert told is not None
    assert (json.loads(told.data)["state"], json.loads(told.data)["done"]) == ("done", 3)
    assert {device.id async for device in world.devices.each() if device.cohort == CANARY} == set(plan.sample)


async def test_other_devices_than_those_that_were_shown_are_left_alone(world: World) -> None:
    service = operations(world)
    plan = await service.plan(read("id = eu-*"), TO_CANARY)
    another = await service.plan(read("id = eu-*"), Change(cohort="lab"))
    await carry_out(world, "id = eu-001", Change(region="us"))
    await carry_out(world, "id = eu-002", TO_CANARY)

    with pytest.raises(ConflictError, match="there are 2 now"):
        await carry_out(world, "id = eu-* AND cohort = main", TO_CANARY, digest=plan.digest)

    assert another.digest != plan.digest
    assert [one.state for one in await service.newest(10)] == ["done", "done"]
    assert not any(device.cohort == CANARY for device in world.fleet if device.id == "eu-000")


async def test_a_moved_device_is_told_where_it_listens_and_its_old_counter_is_not_believed(world: World) -> None:
    """Its old cohort's directive may have a higher counter, which says nothing of the new one's."""
    await carry_out(world, "id = eu-000", Change(region="us", cohort="canary"))
    device = world.fleet.get(DeviceId("eu-000"))
    assert device is not None
    told = last_welcome(world, "eu-000", EU)
    floor = world.directives.floor

    world.now += 60
    ahead = Counter(world.authority.mandate.epoch, int(world.now * 1000))
    world.presence.beat(device, Beat(b"bootboot", 60, ahead), world.now, region=EU)
    restarted = world.fleet.__class__(heartbeat_s=10)
    async for record in world.devices.each():
        restarted.add(record)

    assert (told.region, told.cohort) == (US, CANARY)
    assert world.directives.floor == floor
    assert last_welcome(world, "eu-000", EU).server_time == int(world.now)
    known = restarted.get(device.id)
    assert known is not None
    assert known.moved
    await world.connect(device.id)
    assert not device.moved
    assert not (await world.devices.get(device.id)).moved


async def test_only_the_cohort_has_changed_and_a_beat_is_answered_until_the_next_hello(world: World) -> None:
    await carry_out(world, "id = eu-000", TO_CANARY)
    device = world.fleet.get(DeviceId("eu-000"))
    assert device is not None
    answered = len(world.shelf.published)

    world.now += 60
    world.presence.beat(device, Beat(b"bootboot", 60, Counter()), world.now, region=EU)

    assert len(world.shelf.published) == answered + 1
    assert last_welcome(world, "eu-000", EU).cohort == CANARY


async def test_a_device_under_way_is_not_moved_and_the_operation_says_so(world: World) -> None:
    release = await world.add_release()
    plan, policy = EVERYBODY, Policy(halt=LAB, trial_s=60, watch_s=0)
    campaign = await world.start(release, plan, policy, EU)
    device = world.fleet.get(DeviceId("eu-001"))
    assert device is not None
    await world.report(campaign, State.DOWNLOADING, device)
    shown = await operations(world).plan(read("cohort = main"), TO_CANARY)

    done = await carry_out(world, "cohort = main", TO_CANARY)

    assert (shown.devices, shown.refused) == (6, 1)
    assert (done.done, done.refused) == (5, 1)
    assert done.errors == (("eu-001", "it is under way in the campaign spring"),)
    assert device.cohort == MAIN
    assert len(list(world.fleet.members(CANARY, EU))) == 2


async def test_a_restart_goes_on_where_it_was(world: World) -> None:
    repository = OperationRepository(world.store)
    record = OperationRecord(
        id=new_uuid7(),
        filter="cohort = main",
        change=TO_CANARY,
        reason="a test",
        created_by="ann",
        created_at=datetime.now(UTC),
        total=0,
    )
    begun = await repository.begin(record, read("cohort = main"), digest=None)
    await repository.step(begun, most=2, now=datetime.now(UTC))
    between = await repository.get(begun.id)

    done = await ended(operations(world), begun)

    assert (between.state, between.done) == ("running", 2)
    assert (done.state, done.done, done.total) == ("done", 6, 6)
    assert [one.cohort async for one in world.devices.each()] == [CANARY] * 6


async def test_a_cancelled_operation_leaves_the_rest_as_it_is(world: World) -> None:
    repository, service = OperationRepository(world.store), operations(world)
    begun = await service.begin(
        read("cohort = main"), TO_CANARY, text="cohort = main", caller="ann", reason="a test", digest=None
    )
    await repository.step(begun, most=2, now=datetime.now(UTC))
    await service.cancel(begun.id, caller="ann")

    after = await ended(service, begun)

    assert (after.state, after.done) == ("cancelled", 2)
    assert sorted([one.cohort async for one in world.devices.each()]) == [CANARY] * 2 + [MAIN] * 4


async def test_what_people_say_of_a_device_outweighs_what_it_says_of_itself(world: World) -> None:
    device = world.fleet.get(DeviceId("eu-000"))
    assert device is not None

    async def say_hello() -> dict[str, str]:
        slot = Slot("a", 0, "1.0.0", b"", "confirmed")
        labels = {"site": "berlin", "rack": "7"}
        hello = Hello(b"bootboot", "acme", "gw100", "0.1", (slot,), "a", b"n" * 16, labels=labels)
        world.presence.hello(device, hello, world.now, region=EU)
        await world.telemetry.store(hellos=[world_hello(device.id, hello)], reports=[], now=datetime.now(UTC))
        return dict((await world.devices.get(device.id)).all_labels)

    await carry_out(world, "id = eu-000", Change(labels={"site": "hamburg", "ring": "1", "old": None}))

    assert device.site == "hamburg"
    assert await say_hello() == {"site": "hamburg", "rack": "7", "ring": "1"}
    assert device.site == "hamburg"
    assert [one.id for one in await world.devices.find(read("labels.site = hamburg"), after="", limit=9)] == [device.id]
    await carry_out(world, "labels.ring = 1", Change(labels={"site": None}))
    assert (await world.devices.get(device.id)).all_labels == {"site": "berlin", "rack": "7", "ring": "1"}
    assert device.site == "berlin"


def world_hello(device: DeviceId, hello: Hello) -> Any:
    from server.db.telemetry import DeviceHello

    return DeviceHello(device, hello)


async def test_devices_are_held_and_released_by_a_filter(world: World) -> None:
    hold = Change.model_validate({"hold": {"reason": "the flood", "for_seconds": 3600}})
    await carry_out(world, "region = us", hold)

    assert {device.id for device in world.fleet if device.held} == {"us-000", "us-001", "us-002"}
    assert (await world.devices.get(DeviceId("us-000"))).held_reason == "the flood"
    assert last_welcome(world, "us-000", US).held
    await carry_out(world, "held = true", Change(release=True))
    assert not any(device.held for device in world.fleet)
    assert not last_welcome(world, "us-000", US).held


async def test_a_label_too_many_is_refused(world: World) -> None:
    await carry_out(world, "id = eu-000", Change(labels={f"l{number}": "x" for number in range(32)}))

    done = await carry_out(world, "region = eu", Change(labels={"one": "more"}))

    assert (done.done, done.refused) == (2, 1)
    assert done.errors == (("eu-000", "people gave it 32 labels already"),)


async def test_presence_is_no_ground_for_a_change_of_many(world: World) -> None:
    with pytest.raises(InvalidInputError, match="online changes while devices are changed"):
        await operations(world).plan(read("NOT online = true"), TO_CANARY)


async def test_a_wave_goes_on_with_those_who_have_come(world: World) -> None:
    """Who joins the cohort of a running campaign is one of its devices, and who leaves it is none."""
    release = await world.add_release()
    campaign = await world.start(release, Plan(waves=(Wave(ratio=1.0, count=None),)), Policy(halt=LAB, watch_s=0), EU)
    await world.live(60)
    await carry_out(world, "id = eu-000", TO_CANARY)
    await carry_out(world, "id = us-000", Change(region="eu"))

    survey = await world.surveyor.survey(await world.campaign(campaign), release, now=world.now)

    assert sum(view.eligible for view in survey.counts.snapshot.regions) == 3
    assert {device.id for device in world.fleet.members(MAIN, EU)} == {"eu-001", "eu-002", "us-000"}
