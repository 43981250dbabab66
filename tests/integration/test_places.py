"""Regions and cohorts: how many devices there are where, and what they run."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from server.cli import places
from server.db.database import Database
from server.db.devices import DeviceRepository, NewDevice
from server.db.places import Kind, Place, PlaceRepository
from server.domain.identity import Cohort, DeviceId, Region
from server.domain.scope import Scope
from tests.servers import Api, ServerProcess, unique

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EU, US = Region("eu"), Region("us")
MAIN, LAB = Cohort("main"), Cohort("lab")


async def test_devices_are_counted_with_what_they_run(store: Database) -> None:
    new = [
        NewDevice(DeviceId(f"gw-{number}"), EU if number < 4 else US, MAIN if number % 2 else LAB)
        for number in range(6)
    ]
    await DeviceRepository(store).add(new, now=NOW)
    async with store.transaction() as connection:
        await connection.execute("UPDATE device SET running_version = '1.1.0', last_seen = now() WHERE id < 'gw-3'")
        await connection.execute("UPDATE device SET running_version = '1.0.0', last_seen = now() WHERE id = 'gw-3'")
        await connection.execute("UPDATE device SET held = true WHERE id = 'gw-5'")
    repository = PlaceRepository(store)

    assert await repository.count(Kind.REGION) == [
        Place("eu", devices=4, held=0, never_seen=0, versions={"1.1.0": 3, "1.0.0": 1}),
        Place("us", devices=2, held=1, never_seen=2, versions={}),
    ]
    in_lab = await repository.count(Kind.REGION, scope=Scope(cohorts=frozenset({LAB})))
    assert [(place.name, place.devices) for place in in_lab] == [("eu", 2), ("us", 1)]
    in_eu = await repository.count(Kind.COHORT, scope=Scope(regions=frozenset({EU})))
    assert [(place.name, place.devices) for place in in_eu] == [("lab", 2), ("main", 2)]


async def test_the_command_line_lists_them(
    admin: Api, server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    region, cohort = unique("r"), unique("c")
    await admin.add_device(unique("gw"), region, cohort)
    for command, name in ((places.list_regions, region), (places.list_cohorts, cohort)):
        await asyncio.to_thread(command, token=server.token, server=server.url, output="json")
        (found,) = [row for row in json.loads(capsys.readouterr().out) if row["name"] == name]
        assert found == {"name": name, "devices": 1, "held": 0, "never_seen": 1, "versions": {}}
        await asyncio.to_thread(command, token=server.token, server=server.url)
        assert name in capsys.readouterr().out
