"""The group commit: nothing is acknowledged before it is stored, and nothing a device says can stop it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from server.db.campaign_records import CampaignRecord
from server.db.database import Database
from server.db.devices import NewDevice
from server.db.telemetry import DeviceHello, DeviceReport, Stored
from server.domain.execution import State
from server.domain.identity import DeviceId
from server.protocol.messages import Hello, Slot, decode_ack
from tests.records import EU, MAIN, add_bundle, add_campaign, device_name, report
from tests.service_world import HARDWARE, VENDOR, World

WAIT_S = 20


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> AsyncIterator[World]:
    """The group commit runs; three devices are known."""
    world = World(store, tmp_path)
    await world.inventory.add([new_device(number) for number in (1, 2, 3)])
    running = asyncio.create_task(world.reports.run())
    yield world
    assert not running.done(), running
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def new_device(number: int) -> NewDevice:
    return NewDevice(device_name(number), EU, MAIN)


@pytest.fixture
async def campaign(store: Database) -> CampaignRecord:
    return await add_campaign(store, await add_bundle(store))


def hello(number: int, **members: object) -> DeviceHello:
    slot = Slot("a", 0, "1.0.0", b"", "confirmed")
    return DeviceHello(
        device_name(number), replace(Hello(b"b" * 8, VENDOR, HARDWARE, "1", (slot,), "a", b"n" * 16), **members)
    )


async def submit(world: World, *items: DeviceHello | DeviceReport) -> None:
    """Hand everything over at once, and return when all of it is done with."""
    done = [asyncio.Event() for _ in items]
    for item, event in zip(items, done, strict=True):
        world.reports.submit(item, event.set)
    async with asyncio.timeout(WAIT_S):
        for event in done:
            await event.wait()


def acks(world: World, device: DeviceId) -> list[int]:
    return [decode_ack(body) for topic, body in world.shelf.published if topic == world.topics.ack(EU, device)]


async def test_a_device_is_told_the_highest_number_that_was_stored(world: World, campaign: CampaignRecord) -> None:
    await submit(
        world,
        report(campaign.id, 2, State.INSTALLING),
        report(campaign.id, 1, State.DOWNLOADING),
        report(campaign.id, 7, State.DOWNLOADING, device=device_name(2)),
    )

    assert acks(world, device_name(1)) == [2]
    assert acks(world, device_name(2)) == [7]


async def test_a_repeated_report_is_acknowledged_again(world: World, campaign: CampaignRecord) -> None:
    for _ in range(2):
        await submit(world, report(campaign.id, 1, State.DOWNLOADING))

    assert acks(world, device_name(1)) == [1, 1]
    assert world.metric("tidegate_reports_total", outcome="changed") == 1
    assert world.metric("tidegate_reports_total", outcome="ignored") == 1


async def test_a_report_of_an_unknown_campaign_is_counted_and_not_sent_again(
    world: World, campaign: CampaignRecord
) -> None:
    await submit(world, report(campaign.bundle_id, 4, State.CONFIRMED))

    assert world.metric("tidegate_reports_total", outcome="unknown_campaign") == 1
    assert acks(world, device_name(1)) == [4]


async def test_who_waits_for_news_is_told_which_campaigns_moved(world: World, campaign: CampaignRecord) -> None:
    news: list[Stored] = []
    world.reports.on_stored = news.append

    await submit(world, report(campaign.id, 1, State.DOWNLOADING))
    await submit(world, report(campaign.id, 1, State.DOWNLOADING))

    assert [stored.campaigns for stored in news] == [frozenset({campaign.id})]


async def test_nothing_is_acknowledged_while_the_database_is_away(
    world: World, campaign: CampaignRecord, database: str
) -> None:
    other = await asyncpg.connect(database)
    done = asyncio.Event()
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE execution IN ACCESS EXCLUSIVE MODE")
            world.reports.submit(report(campaign.id, 1, State.DOWNLOADING), done.set)
            await until_blocked(other)
            await end_the_blocked(other)
            await until_blocked(other)

            assert not done.is_set()
            assert acks(world, device_name(1)) == []
    finally:
        await other.close()
    async with asyncio.timeout(WAIT_S):
        await done.wait()

    assert acks(world, device_name(1)) == [1]


async def until_blocked(other: "asyncpg.Connection[asyncpg.Record]") -> None:
    async with asyncio.timeout(WAIT_S):
        while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)


async def end_the_blocked(other: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Cut the connection of whoever waits, as a failover would, and return when it is gone."""
    victim = await other.fetchval("SELECT pid FROM pg_locks WHERE NOT granted")
    await other.execute("SELECT pg_terminate_backend($1)", victim)
    async with asyncio.timeout(WAIT_S):
        while await other.fetchval("SELECT count(*) FROM pg_locks WHERE pid = $1", victim):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "poison",
    [hello(2, labels={"site": "quay\0"}), hello(2, labels={"\0": ""}), hello(2, agent_version="1\0")],
    ids=["in a label", "in a label's name", "in a text"],
)
async def test_what_the_database_refuses_stops_nobody_else(
    world: World, campaign: CampaignRecord, poison: DeviceHello
) -> None:
    """PostgreSQL takes no NUL in a text. Left unacknowledged, the hello would come back at every restart."""
    await submit(world, hello(1), report(campaign.id, 1, State.DOWNLOADING), poison, hello(3))

    assert world.metric("tidegate_messages_dropped_total", reason="refused_by_store") == 1
    assert acks(world, device_name(1)) == [1]
    known = {record.id: record.vendor async for record in world.devices.each()}
    assert known == {device_name(1): VENDOR, device_name(2): None, device_name(3): VENDOR}


async def test_thousands_that_wait_are_stored_in_few_transactions(world: World, campaign: CampaignRecord) -> None:
    await submit(world, *(report(campaign.id, number, State.DOWNLOADING) for number in range(1, 9001)))

    assert world.metric("tidegate_commit_batch_size_count") <= 4
    assert acks(world, device_name(1))[-1] == 9000
