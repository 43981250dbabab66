"""What becomes old is deleted in batches; what goes on, and the audit, stay."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.db.audit import AuditRepository
from server.db.database import Database
from server.db.retention import Kind, RetentionRepository
from server.domain.audit import Walk
from server.services.retention import Retention, ages_of
from tests.records import add_bundle, add_campaign, add_devices
from tests.servers import ROOT

DAY = timedelta(days=1)

FILL = """
    INSERT INTO execution_event (campaign_id, device_id, attempt, sequence, state, reason, at)
    SELECT $1, 'gw-0001', 1, n, 'confirmed', 0, now() - age * interval '1 day'
      FROM unnest($2::integer[]) WITH ORDINALITY AS event (age, n)
"""
DECIDE = """
    INSERT INTO decision (campaign_id, at, kind, actor, sentence, evidence)
    SELECT $1, now() - age * interval '1 day', 'wait', 'orchestrator', 'Nothing.', '{}'
      FROM unnest($2::integer[]) AS age
"""
CLAIM = """
    INSERT INTO device_claim (secret, device_id, created_by, created_at, expires_at, withdrawn_at)
    SELECT sha256(convert_to(d.id, 'UTF8')), d.id, 'ann', now() - interval '9 days', now() - interval '8 days', NULL
      FROM device AS d
"""
OPERATE = """
    INSERT INTO operation (id, state, filter, change, reason, created_by, created_at, ended_at, total)
    SELECT gen_random_uuid(), 'done', '', '{}', '', 'ann', now() - interval '9 days', ended_at, 0
      FROM unnest(ARRAY[now() - interval '8 days', now() - interval '1 day']) AS ended (ended_at)
"""


@pytest.fixture
async def aged(store: Database) -> Database:
    """Rows of two campaigns, one over and one that goes on; one device was admitted, and one was only claimed."""
    await add_devices(store, 2)
    bundle = await add_bundle(store)
    over, going_on = (await add_campaign(store, bundle)).id, (await add_campaign(store, bundle)).id
    async with store.transaction() as connection:
        await connection.execute("UPDATE campaign SET state = 'finished' WHERE id = $1", over)
        await connection.execute("UPDATE campaign SET state = 'paused' WHERE id = $1", going_on)
        for campaign in (over, going_on):
            await connection.execute(FILL, campaign, [100, 100, 100, 8, 6])
            await connection.execute(DECIDE, campaign, [100, 8])
        await connection.execute(CLAIM)
        await connection.execute("UPDATE device SET admitted_at = now() WHERE id = (SELECT min(id) FROM device)")
        await connection.execute(OPERATE)
    return store


async def left(store: Database) -> dict[str, int]:
    async with store.transaction() as connection:
        tables = ("execution_event", "decision", "device_claim", "operation")
        return {name: await connection.fetchval(f"SELECT count(*) FROM {name}") for name in tables}


async def test_only_what_is_old_and_over_is_deleted_however_small_the_batches(aged: Database) -> None:
    before = await left(aged)
    retention = Retention(RetentionRepository(aged), ages_of(days=7, decisions_days=90))
    wanted = {Kind.EVENTS: 4, Kind.CLAIMS: 1, Kind.OPERATIONS: 1, Kind.DECISIONS: 1}
    told: list[tuple[Kind, int, int]] = []

    assert await retention.count() == wanted
    assert await left(aged) == before
    assert await retention.clear(who="ann", tell=lambda *said: told.append(said), batch_rows=2) == wanted
    assert await retention.clear(who="ann") == dict.fromkeys(Kind, 0)

    assert await left(aged) == {"execution_event": 6, "decision": 3, "device_claim": 1, "operation": 1}
    assert [said for said in told if said[0] is Kind.EVENTS] == [(Kind.EVENTS, 2, 4), (Kind.EVENTS, 4, 4)]


async def test_what_was_deleted_is_in_the_audit_which_stays_whole(aged: Database) -> None:
    audit = AuditRepository(aged)
    rows_before = [row.seq for batch in [batch async for batch in audit.batches()] for row in batch]

    await Retention(RetentionRepository(aged), ages_of(days=7, decisions_days=7)).clear(who="ann")
    rows = [row for batch in [batch async for batch in audit.batches()] for row in batch]
    walk = Walk({rows[-1].seq: rows[-1].digest})
    for row in rows:
        walk.take(row)

    assert [row.seq for row in rows[:-1]] == rows_before
    assert (rows[-1].what, rows[-1].who) == ("database.retain", "ann")
    assert '"execution events":4' in str(rows[-1].after).replace('": ', '":')
    assert walk.end() is None
    assert await audit.other_evidence() is None


async def test_what_has_no_age_is_kept_for_ever(aged: Database) -> None:
    before = await left(aged)
    far = datetime.now(UTC).timestamp() + 1000 * DAY.total_seconds()

    deleted = await Retention(RetentionRepository(aged), ages_of(days=0, decisions_days=0), clock=lambda: far).clear(
        who="ann"
    )

    assert (deleted, await left(aged)) == ({}, before)


def test_the_command_line_counts_before_it_deletes(database: str, tmp_path: Path) -> None:
    def retain(*options: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "server", "db", "retain", *options],
            cwd=ROOT,
            env={**os.environ, "TIDEGATE_DATABASE_URL": database, "TIDEGATE_DATA_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.splitlines()

    assert retain("--dry-run")[0] == "would be deleted: 0 execution events"
    assert retain("--days", "0") == ["deleted: 0 decisions"]
