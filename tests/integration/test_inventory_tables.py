"""The inventory as a table, there and back; and the devices that do not run what they should."""

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from firmware_store.errors import ForbiddenError, InvalidInputError
from server.db.bundles import BundleRepository
from server.db.database import Database
from server.domain.filter import Conjunction
from server.domain.identity import DeviceId, Region
from server.domain.plan import Plan, Policy, Wave
from server.domain.scope import EVERYTHING, Scope
from server.services.device_table import DeviceTable
from server.services.drift import Drift
from tests.records import EU, LAB, US
from tests.service_world import World

ALL = Conjunction(())


@pytest.fixture
def world(store: Database, tmp_path: Path) -> World:
    return World(store, tmp_path)


@pytest.fixture
def table(world: World) -> DeviceTable:
    return DeviceTable(repository=world.devices, fleet=world.fleet)


async def pieces(text: str, *, size: int = 7) -> AsyncIterator[bytes]:
    data = text.encode()
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def written(table: DeviceTable, scope: Scope = EVERYTHING) -> str:
    return b"".join([piece async for piece in table.write(ALL, scope=scope)]).decode()


async def test_what_is_exported_is_imported_elsewhere(world: World, table: DeviceTable) -> None:
    rows = 'gw-001,eu,main,"{""site"": ""h\u00e4mburg"", ""f"": ""=1+1""}"\n\ngw-002,us,lab,\n'
    count = await table.read(pieces(f"\ufeffid,region,cohort,labels\r\n{rows}"))
    before = await written(table)
    async with world.store.transaction() as connection:
        await connection.execute("DELETE FROM device")

    again = await table.read(pieces(before, size=100))

    assert (count, again) == (2, 2)
    assert await written(table) == before
    device = await world.devices.get(DeviceId("gw-001"))
    assert (device.region, device.cohort, dict(device.operator_labels)) == (
        "eu",
        "main",
        {"site": "hämburg", "f": "=1+1"},
    )
    assert world.fleet.get(DeviceId("gw-002")) is not None


async def test_no_cell_of_an_export_is_a_formula(world: World, table: DeviceTable) -> None:
    await table.read(pieces("id,region,cohort\ngw-001,eu,main\n"))
    async with world.store.transaction() as connection:
        await connection.execute("UPDATE device SET hardware = '=cmd|x', agent_version = '@x', vendor = '-1+1'")

    (row,) = list(csv.DictReader(io.StringIO(await written(table))))

    assert (row["hardware"], row["agent_version"], row["vendor"]) == ("'=cmd|x", "'@x", "'-1+1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,region,cohort\ngw-001,eu,main\nGW,eu,main\n", "line 3: 'GW'"),
        ("id,region,cohort\ngw-001,eu,main\ngw-002,eu\n", "line 3: it has not as many cells"),
        ("id,region,cohort\ngw-001,eu,main\n\ngw-001,us,main\n", "line 4: gw-001 is in line 2 already"),
        ("id,region,cohort\ngw-001,eu,main\nknown,eu,main\n", "line 3: known is there already"),
        ("id,region,cohort,labels\ngw-001,eu,main,x\n", "line 2: labels are JSON"),
        ('id,region,cohort,labels\ngw-001,eu,main,"{""a"": 5}"\n', "line 2: labels are JSON"),
        ('id,region,cohort\n"gw-001,eu,main\n', "line 2: "),
        ("id,region,colour\ngw-001,eu,main\n", "line 1: there is no column 'colour'"),
        ("id,region\ngw-001,eu\n", "line 1: the column cohort is missing"),
        ("id,region,cohort\n", "no devices"),
        ("", "no devices"),
    ],
)
async def test_of_a_table_with_a_bad_row_nothing_is_added(
    world: World, table: DeviceTable, text: str, said: str
) -> None:
    await table.read(pieces("id,region,cohort\nknown,eu,main\n"))

    with pytest.raises(InvalidInputError) as refused:
        await table.read(pieces(text))

    assert said in str(refused.value)
    assert [one.id async for one in world.devices.each()] == ["known"]
    assert len(world.fleet) == 1


async def test_a_table_is_read_and_written_within_limits(table: DeviceTable) -> None:
    await table.read(pieces("id,region,cohort\ngw-001,eu,main\ngw-002,us,main\n"))
    scope = Scope(regions=frozenset({Region("eu")}))

    with pytest.raises(ForbiddenError, match="Line 3"):
        await table.read(pieces("id,region,cohort\ngw-003,eu,main\ngw-004,us,main\n"), scope=scope)

    assert [line.split(",")[0] for line in (await written(table, scope)).splitlines()] == ["id", "gw-001"]


async def test_who_does_not_run_what_it_was_brought_drifts(world: World) -> None:
    """Of the devices that the level has passed, in the region that the campaign has opened."""
    await world.populate(4, EU, US)
    release = await world.add_release()
    drift = Drift(
        campaigns=world.repository,
        bundles=BundleRepository(world.store),
        devices=world.devices,
        fleet=world.fleet,
        clock=lambda: world.now,
    )
    assert await drift.count() == []
    wave = Wave(ratio=1.0, count=None, regions=(EU,), ramp_s=0)
    campaign = await world.start(release, Plan(waves=(wave,)), Policy(halt=LAB, watch_s=0), EU, US)
    await world.live(60)
    reached = sorted(device.id for device in world.due(campaign, EU))
    assert reached

    before, (listed, end) = await drift.count(), await drift.page(None, after="", limit=10)
    first, _ = await drift.page(None, after="", limit=1)
    await world.connect(reached[0], DeviceId("us-000"), digest=release.manifest_digest)
    after, (left, _) = await drift.count(), await drift.page(None, after="", limit=10)

    counted = [(part.expected.region.region, part.devices, part.drifting) for part in (*before, *after)]
    assert counted == [(EU, len(reached), len(reached)), (EU, len(reached), len(reached) - 1)]
    assert ([one.record.id for one in listed], end) == (reached, None)
    assert [one.record.id for one in first] == reached[:1]
    assert [one.record.id for one in left] == reached[1:]
    assert {one.expected.version for one in listed} == {release.version}
    assert await drift.count(scope=Scope(regions=frozenset({US}))) == []
