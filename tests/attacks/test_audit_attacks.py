"""What the owner of the database can do to the audit, and how it is found out: one test for each way."""

import json
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from firmware_store.documents import Kind
from firmware_store.errors import ConfigurationError, InvalidInputError, TrustError
from firmware_store.root import RoleName
from server.db.audit import AuditRepository, Entry
from server.db.database import Database
from server.db.outbox import OutboxRepository
from server.db.pool import open_pool
from server.domain.audit import Head, Row, chained
from server.domain.audit_file import check_file, line_of
from server.domain.restore_note import RESTORE, RestoreNote, restore_map
from server.services.audit import Audit, Verification
from server.services.keyring import Keyring
from tests.records import START, add_bundle, add_campaign, after
from tests.service_world import World
from tests.trust_fleet import TrustFleet

ROWS = 12
BACKUP_AT = datetime(2026, 1, 1, tzinfo=UTC)
HEAD_AT_THE_END = "UPDATE audit_head SET (seq, digest) = (SELECT seq, digest FROM audit ORDER BY seq DESC LIMIT 1)"
HEAD_AT_NOTHING = "UPDATE audit_head SET seq = 0, digest = decode(repeat('00', 32), 'hex')"


class Ledger:
    """An audit of ``ROWS`` rows whose head was signed, and somebody with every right in the database."""

    def __init__(self, url: str, store: Database, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self.now = START.timestamp()
        self.world = World(store, folder / "blobs")
        self.repository = AuditRepository(store)
        self.audit = self.reopened()

    def reopened(self) -> Audit:
        """As after a restart: nothing is known but what is stored."""
        return Audit(
            repository=self.repository,
            authority=self.world.authority,
            roots=lambda: {1: self.world.keys.pinned},
            folder=self._folder / "audit",
            tell=OutboxRepository(self.world.store).put,
            clock=lambda: self.now,
        )

    async def fill(self, *, first: int = 1, count: int = ROWS) -> None:
        for number in range(first, first + count):
            await self.repository.add(Entry("test.add", f"thing {number}", after(number), who="ann"))
            await self.audit.checkpoint()

    async def own(self, *statements: str) -> None:
        """Change the table with a superuser's rights: no trigger fires."""
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute("SET session_replication_role = replica")
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def rows(self) -> list[Row]:
        return [row async for batch in self.repository.batches() for row in batch]

    async def forge(self, rows: Sequence[Row]) -> None:
        """Put other rows in the place of all, as if the server had written them so."""
        await self.own("DELETE FROM audit", HEAD_AT_NOTHING)
        for row in rows:
            await self.repository.add(Entry(row.what, row.named, row.at, who=row.who))

    async def restore(self, rows: int) -> bytes:
        """Let a backup with so many rows come back an hour later; returns the note that was signed for it."""
        self.now += 3600
        await self.own(f"DELETE FROM audit WHERE seq > {rows}", HEAD_AT_THE_END)
        head = await self.repository.head()
        note = RestoreNote(self.world.keys.root.fleet, head, int(BACKUP_AT.timestamp()), int(self.now))
        pen = Keyring.open(self.world.keys.folder).pen(Kind.RESTORE_NOTE, RoleName.SESSION, self.world.keys.root)
        signed = pen.seal(restore_map(note))
        await self.repository.add(Entry(RESTORE, "", after(3600), after={"note": signed.hex()}))
        self.now += 1
        self.audit = self.reopened()
        return signed

    async def verify(self) -> Verification:
        return [report async for report in self.reopened().verify()][-1]

    async def exported(self) -> list[str]:
        return [line for piece in [one async for one in self.audit.export()] for line in piece.decode().splitlines()]


@pytest.fixture
async def ledger(database: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    pool = await open_pool(database)
    made = Ledger(database, Database(pool), tmp_path)
    await made.fill()
    yield made
    await pool.close()


async def test_what_nobody_touched_is_good(ledger: Ledger) -> None:
    report = await ledger.verify()

    assert (report.first_bad, report.seen, report.newest_checkpoint) == (None, ROWS, ROWS)


@pytest.mark.parametrize(
    ("statements", "first_bad"),
    [
        (("UPDATE audit SET who = 'bob' WHERE seq = 5",), 5),
        (("UPDATE audit SET after = '{}' WHERE seq = 1",), 1),
        (("UPDATE audit SET at = at + interval '1 microsecond' WHERE seq = 12",), 12),
        (("DELETE FROM audit WHERE seq = 7",), 7),
        (("DELETE FROM audit WHERE seq = 1",), 1),
        (("DELETE FROM audit WHERE seq = 7", "UPDATE audit SET seq = seq - 1 WHERE seq > 7"), 7),
        (
            (
                "UPDATE audit SET seq = 1000 WHERE seq = 3",
                "UPDATE audit SET seq = 3 WHERE seq = 4",
                "UPDATE audit SET seq = 4 WHERE seq = 1000",
            ),
            3,
        ),
        (("DELETE FROM audit WHERE seq > 9",), 10),
        (("DELETE FROM audit WHERE seq > 9", HEAD_AT_THE_END), 10),
        (("TRUNCATE audit", HEAD_AT_NOTHING), 1),
    ],
    ids=[
        "an edit",
        "an edit of the first",
        "an edit of the last by a microsecond",
        "a deletion",
        "a deletion of the first",
        "a deletion that closes the gap",
        "two rows that change places",
        "the end is cut off",
        "the end is cut off with the head",
        "everything is cut off",
    ],
)
async def test_the_first_bad_row_is_named(ledger: Ledger, statements: tuple[str, ...], first_bad: int) -> None:
    await ledger.own(*statements)

    assert (await ledger.verify()).first_bad == first_bad


async def test_a_row_that_was_put_in_is_named(ledger: Ledger) -> None:
    rows = await ledger.rows()
    await ledger.own("DELETE FROM audit WHERE seq > 6", HEAD_AT_THE_END)
    await ledger.repository.add(Entry("test.add", "a thing that never was", after(6), who="bob"))
    for row in rows[6:]:
        await ledger.repository.add(Entry(row.what, row.named, row.at, who=row.who))

    report = await ledger.verify()

    assert report.first_bad is not None
    assert report.first_bad <= 7


async def test_a_chain_that_was_written_anew_does_not_fit_what_was_signed(ledger: Ledger) -> None:
    """Every row of it follows from the one before: only the signed head tells."""
    rows = await ledger.rows()
    await ledger.forge([*rows[:4], *rows[5:], rows[4]])

    report = await ledger.verify()

    assert report.first_bad is not None
    assert report.first_bad <= 5
    assert "written anew" in report.why


async def test_the_end_that_was_cut_off_is_missed_though_more_has_come_since(ledger: Ledger) -> None:
    await ledger.own("DELETE FROM audit WHERE seq > 9", HEAD_AT_THE_END)
    await ledger.fill(first=100, count=8)

    report = await ledger.verify()

    assert report.first_bad is not None
    assert report.first_bad <= 12


async def test_evidence_that_was_changed_is_named_with_its_row(ledger: Ledger, database: str) -> None:
    campaign = await add_campaign(ledger.world.store, await add_bundle(ledger.world.store))
    await ledger.world.campaigns.cancel(campaign.id, caller="ann", reason="no more")
    cancelled = (await ledger.rows())[-1]
    assert cancelled.what == "campaign.cancel"

    await ledger.own("UPDATE decision SET evidence = '{\"silent\": 0}'")

    report = await ledger.verify()
    assert (report.first_bad, report.why) == (cancelled.seq, "its decision does not say any more what it said then")


async def test_a_checkpoint_of_somebody_else_is_not_taken(ledger: Ledger, tmp_path: Path) -> None:
    other = TrustFleet.make(tmp_path / "other-keys")
    ledger.world.keys = other

    with pytest.raises(ConfigurationError, match="is not good"):
        await ledger.verify()


# --- restores, which make rows disappear and say so ---


async def test_what_a_restore_has_given_up_is_said_and_is_no_fault(ledger: Ledger) -> None:
    await ledger.restore(9)
    await ledger.fill(first=100, count=2)

    report = await ledger.verify()

    assert (report.first_bad, report.newest_checkpoint) == (None, 12)
    assert report.restores == [
        "Row 10: restored from a backup of 2026-01-01 00:00:00 UTC; what was written after row 9 until then is lost"
    ]
    assert check_file(await ledger.exported()).fault is None


async def test_what_was_cut_off_after_a_restore_is_named(ledger: Ledger) -> None:
    await ledger.restore(9)
    await ledger.fill(first=100, count=4)
    await ledger.own("DELETE FROM audit WHERE seq > 12", HEAD_AT_THE_END)

    assert (await ledger.verify()).first_bad == 13


async def test_a_restore_that_nobody_signed_for_hides_no_cut(ledger: Ledger) -> None:
    await ledger.own("DELETE FROM audit WHERE seq > 9", HEAD_AT_THE_END)
    await ledger.repository.add(Entry(RESTORE, "", after(60), after={"backup_at": "2026-01-01T00:00:00+00:00"}))
    await ledger.fill(first=100, count=8)

    report = await ledger.verify()

    assert report.first_bad is not None
    assert report.first_bad <= 10
    assert report.restores == []


async def test_an_unsigned_restore_is_named_though_no_checkpoint_is_left(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.own("DELETE FROM audit WHERE seq > 9", HEAD_AT_THE_END)
    await ledger.repository.add(Entry(RESTORE, "", after(60), after={"note": "00"}))
    shutil.rmtree(tmp_path / "audit")

    report = await ledger.verify()

    assert (report.first_bad, report.why) == (10, "it tells of a restore, and no session key has signed for that")


async def test_the_note_of_another_restore_hides_no_cut(ledger: Ledger) -> None:
    note = await ledger.restore(9)
    await ledger.fill(first=100, count=8)

    await ledger.own("DELETE FROM audit WHERE seq > 14", HEAD_AT_THE_END)
    await ledger.repository.add(Entry(RESTORE, "", after(600), after={"note": note.hex()}))

    report = await ledger.verify()
    assert report.first_bad == 15


async def test_cutting_everything_after_a_restore_off_again_is_named(ledger: Ledger) -> None:
    """The note fits there, but not what was signed since."""
    await ledger.restore(9)
    await ledger.fill(first=100, count=8)

    await ledger.own("DELETE FROM audit WHERE seq > 10", HEAD_AT_THE_END)

    assert (await ledger.verify()).first_bad == 11


# --- exported files ---


async def test_an_exported_file_is_good(ledger: Ledger) -> None:
    checked = check_file(await ledger.exported())

    assert (checked.rows, checked.fault, checked.pinned) == (ROWS, None, ledger.world.keys.pinned)


Change = Callable[[list[dict[str, Any]]], None]


def edit(rows: list[dict[str, Any]]) -> None:
    rows[4]["reason"] = "another"


def delete(rows: list[dict[str, Any]]) -> None:
    del rows[4]


def reorder(rows: list[dict[str, Any]]) -> None:
    rows[4], rows[5] = rows[5], rows[4]


def cut_off(rows: list[dict[str, Any]]) -> None:
    del rows[4:]


@pytest.mark.parametrize("change", [edit, delete, reorder, cut_off])
async def test_the_first_bad_row_of_a_file_is_named(ledger: Ledger, change: Change) -> None:
    first, *lines, last = await ledger.exported()
    rows = [json.loads(line) for line in lines]
    change(rows)

    checked = check_file([first, *map(json.dumps, rows), last])

    assert checked.fault is not None
    assert checked.fault.seq == 5


async def test_a_file_whose_chain_was_written_anew_does_not_fit_its_checkpoint(ledger: Ledger) -> None:
    first, *_, last = await ledger.exported()
    head, rows = Head(), []
    for row in (await ledger.rows())[:-1] * 2:
        rows.append(chained(head, row))
        head = rows[-1].head

    checked = check_file([first, *map(line_of, rows[:ROWS]), last])

    assert checked.fault is not None


@pytest.mark.parametrize("left", [0, 1, 6])
async def test_a_file_without_its_end_is_no_audit(ledger: Ledger, left: int) -> None:
    with pytest.raises(InvalidInputError):
        check_file((await ledger.exported())[:left])


async def test_a_file_signed_by_another_fleet_is_not_believed(ledger: Ledger, tmp_path: Path) -> None:
    *lines, last = await ledger.exported()
    other = TrustFleet.make(tmp_path / "other-keys")
    members = json.loads(last)
    members["roots"] = [b64encode(other.pinned).decode()]

    with pytest.raises(TrustError):
        check_file([*lines, json.dumps(members)])


async def test_an_altered_audit_is_not_signed_for(ledger: Ledger) -> None:
    await ledger.own("UPDATE audit SET who = 'bob' WHERE seq = 5")

    with pytest.raises(TrustError, match="row 5"):
        await ledger.exported()
