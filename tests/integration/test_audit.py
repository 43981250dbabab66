"""Every change leaves a row of the audit, in its own transaction; and whoever alters the table is found out."""

import asyncio

import asyncpg
import pytest

from firmware_store.errors import ConflictError
from server.db.audit import ORIGIN, AuditRepository, Entry, Origin, Wanted
from server.db.database import Database
from server.db.devices import DeviceRepository
from server.domain.audit import FIRST_PREVIOUS, Fault, Row, Walk
from tests.records import add_bundle, add_campaign, add_devices, after, device_name


async def rows_of(store: Database) -> list[Row]:
    return [row async for batch in AuditRepository(store).batches() for row in batch]


def first_fault(rows: list[Row]) -> Fault | None:
    walk = Walk({})
    for row in rows:
        walk.take(row)
    return walk.end()


async def test_rows_are_chained_in_the_order_of_their_commits(store: Database) -> None:
    async def add(number: int) -> None:
        await AuditRepository(store).add(Entry("test.add", f"thing {number}", after(number), who="ann"))

    await asyncio.gather(*(add(number) for number in range(20)))

    rows = await rows_of(store)
    assert [row.seq for row in rows] == list(range(1, 21))
    assert rows[0].previous == FIRST_PREVIOUS
    assert first_fault(rows) is None
    assert await AuditRepository(store).head() == rows[-1].head


async def test_a_change_that_is_rolled_back_leaves_no_row(store: Database) -> None:
    await add_devices(store, 2)

    with pytest.raises(ConflictError):
        await add_devices(store, 3)

    assert [row.named for row in await rows_of(store)] == [device_name(1), device_name(2)]


async def test_a_row_says_who_asked_by_which_request_and_what_it_was_before(store: Database) -> None:
    await add_devices(store, 1)
    token = ORIGIN.set(Origin("ann", "t1", "0123"))
    await DeviceRepository(store).hold(device_name(1), until=None, reason="on the bench", by="ann", now=after(1))
    ORIGIN.reset(token)

    row = (await AuditRepository(store).page(Wanted(what="device.hold"), before=1 << 62, limit=10))[0]

    assert (row.who, row.token, row.request_id, row.reason) == ("ann", "t1", "0123", "on the bench")
    assert row.before == '{"held":false,"reason":"","until":null}'
    assert row.after == '{"held":true,"reason":"on the bench","until":null}'


async def test_rows_are_found_by_who_what_object_and_time(store: Database) -> None:
    audit = AuditRepository(store)
    for number, (who, what) in enumerate([("ann", "a.b"), ("bob", "a.b"), ("ann", "a.c")]):
        await audit.add(Entry(what, f"thing {number}", after(number), who=who))

    async def found(wanted: Wanted, *, before: int = 100, limit: int = 100) -> list[int]:
        return [row.seq for row in await audit.page(wanted, before=before, limit=limit)]

    assert await found(Wanted()) == [3, 2, 1]
    assert await found(Wanted(), before=3, limit=1) == [2]
    assert await found(Wanted(who="ann")) == [3, 1]
    assert await found(Wanted(what="a.b")) == [2, 1]
    assert await found(Wanted(named="thing 2")) == [3]
    assert await found(Wanted(since=after(1), until=after(2))) == [2]


async def test_the_table_refuses_to_be_changed(store: Database) -> None:
    await add_devices(store, 1)

    for statement in ("UPDATE audit SET who = 'bob'", "DELETE FROM audit", "TRUNCATE audit"):
        with pytest.raises(asyncpg.PostgresError, match="only ever added to"):
            async with store.transaction() as connection:
                await connection.execute(statement)

    assert len(await rows_of(store)) == 1


async def test_a_campaigns_draft_and_its_release_are_written_down(store: Database) -> None:
    campaign = await add_campaign(store, await add_bundle(store))

    rows = await rows_of(store)

    assert [(row.what, row.who) for row in rows] == [("bundle.add", "somebody"), ("campaign.create", "somebody")]
    assert rows[1].named == f"cmp_{campaign.id.hex}"
    assert '"name":"spring"' in (rows[1].after or "")
