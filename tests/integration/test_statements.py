"""Every SQL constant fits the migrated schema, and the hot ones use the index that is there for them."""

import importlib
import json
import pkgutil
import re
from types import ModuleType
from typing import Any

import pytest

import server.db
from firmware_store.errors import InvalidInputError
from server.db import (
    bundles,
    campaigns,
    devices,
    directives,
    executions,
    fleet_executions,
    published,
    telemetry,
    tokens,
)
from server.db.database import Database
from tests.records import EU, add_bundle, add_campaign, add_devices

VERB = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|WITH|SET)\b")
DEVICES, CAMPAIGNS = 20_000, 4


def statements() -> dict[str, str]:
    modules = [importlib.import_module(f"server.db.{found.name}") for found in pkgutil.iter_modules(server.db.__path__)]
    return {
        f"{module.__name__.removeprefix('server.db.')}.{name}": text
        for module in modules
        for name, text in vars(module).items()
        if name.isupper() and isinstance(text, str) and VERB.match(text) and ";" not in text
    }


STATEMENTS = statements()


def test_the_constants_are_found() -> None:
    assert len(STATEMENTS) > 30
    assert {"telemetry.READ", "campaigns.SAVE", "directives.LOCK", "tokens.ADD_FIRST"} <= STATEMENTS.keys()


async def test_every_statement_fits_the_schema(store: Database) -> None:
    refused = {}
    for name, text in STATEMENTS.items():
        try:
            async with store.transaction() as connection:
                await connection.prepare(text)
        except Exception as exc:
            refused[name] = str(exc)

    assert refused == {}


@pytest.fixture
async def crowded(store: Database) -> Database:
    """20,000 devices that have been through four campaigns, most of them judged."""
    await add_devices(store, 1)
    bundle = await add_bundle(store)
    named = [(await add_campaign(store, bundle)).id for _ in range(CAMPAIGNS)]
    async with store.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO device (id, region, cohort, member_since, created_at)
            SELECT 'bulk-' || n, 'r' || n % 20, 'main', now(), now() FROM generate_series(1, $1::integer) AS n
            """,
            DEVICES,
        )
        await connection.execute(
            """
            INSERT INTO execution (campaign_id, device_id, region, state, attempt, sequence, reason, detail, slot,
                                   done_bytes, total_bytes, started_at, rebooting_at, judged_at, updated_at)
            SELECT campaign, id, region, 'confirmed', 1, 1, 0, '', 'b', 0, 0, now(), now(),
                   CASE WHEN id LIKE '%00' THEN NULL ELSE now() END, now()
              FROM device, unnest($1::uuid[]) AS campaign WHERE id LIKE 'bulk-%'
            """,
            named,
        )
        await connection.execute(  # so many that to read all of an index is no way to find one
            """
            INSERT INTO campaign (id, name, cohort, bundle_id, state, plan, policy, reason, created_by, created_at)
            SELECT gen_random_uuid(), name, cohort, bundle_id, state, plan, policy, reason, created_by, created_at
              FROM campaign, generate_series(1, 500)
            """
        )
        await connection.execute(
            """
            INSERT INTO directive (audience, region, cohort, epoch, counter, issued_at, expires_at, action, body,
                                   published_counter)
            SELECT 'r' || n, 'r' || n, 'main', 0, 5, now(), now(), 0, '', CASE WHEN n % 500 = 0 THEN 0 ELSE 5 END
              FROM generate_series(1, 5000) AS n
            """
        )
        await connection.execute(
            """
            INSERT INTO bundle_blob (bundle_id, digest, size_bytes)
            SELECT bundle.id, sha256(convert_to('blob ' || n, 'UTF8')), 1 FROM bundle, generate_series(1, 5000) AS n
            """
        )
        await connection.execute(
            """
            INSERT INTO published_blob (broker, digest, size_bytes, state, at)
            SELECT 'default', sha256(n::text::bytea), 16384, CASE WHEN n % 50 = 0 THEN 'wanted' ELSE 'published' END,
                   now() - n * interval '1 second'
              FROM generate_series(1, 30000) AS n
            """
        )
        await connection.execute("ANALYZE")
    return store


WITH_DELTAS = ("campaign_delta_by_images", "campaign_pkey", "delta_blob_pkey", "delta_pkey")

HOT: list[tuple[ModuleType, str, set[str]]] = [
    (bundles, "DIGESTS", {"bundle_blob_pkey", *WITH_DELTAS}),
    (bundles, "HOLDING", {"bundle_blob_by_digest", *WITH_DELTAS}),
    (telemetry, "READ", {"campaign_pkey", "execution_pkey"}),
    (telemetry, "ADVANCE", {"execution_pkey"}),
    (telemetry, "NOTE_HELLOS", {"device_pkey"}),
    (devices, "GET", {"device_pkey", "device_claim_of_device"}),
    (devices, "PAGE", {"device_pkey", "device_claim_of_device"}),
    (devices, "NOTE_SEEN", {"device_pkey"}),
    (devices, "COUNT_IN", {"device_by_audience"}),
    (executions, "UNJUDGED", {"execution_unjudged", "device_pkey"}),
    (executions, "JUDGE", {"execution_pkey"}),
    (executions, "MARK_SILENT", {"execution_pkey"}),
    (executions, "PAGE", {"execution_pkey"}),
    (fleet_executions, "PAGE", {"campaign_pkey", "execution_pkey"}),
    (campaigns, "DECISIONS", {"decision_of_campaign"}),
    (directives, "LOCK", {"directive_pkey"}),
    (directives, "UNPUBLISHED", {"directive_unpublished"}),
    (published, "WANTED", {"published_blob_by_state"}),
    (published, "WITHDRAWING", {"published_blob_by_state"}),
    (published, "NEWEST", {"published_blob_by_state"}),
    (published, "ANY_FROM", {"published_blob_pkey"}),
    (tokens, "GET", {"token_pkey"}),
]


async def test_hot_statements_use_their_indexes(crowded: Database) -> None:
    """The plan is the generic one, which is what a prepared statement settles on."""
    used = {}
    async with crowded.transaction() as connection:
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        # Small tables are read whole, whatever indexes they have; here it is asked which index fits.
        await connection.execute("SET LOCAL enable_seqscan = off")
        for module, name, _ in HOT:
            text = getattr(module, name)
            parameters = (await connection.prepare(text)).get_parameters()
            await connection.execute(f"PREPARE hot AS {text}")
            call = f"hot({', '.join(['NULL'] * len(parameters))})"
            plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {call.removesuffix('()')}"))
            used[f"{module.__name__}.{name}"] = indexes(plan)
            await connection.execute("DEALLOCATE hot")

    assert used == {f"{module.__name__}.{name}": expected for module, name, expected in HOT}


async def test_halted_releases_are_found_without_reading_every_campaign(store: Database) -> None:
    """Asked for each directive that is signed; there are thousands of campaigns, of which few were ever halted."""
    template = await add_campaign(store, await add_bundle(store))
    async with store.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO campaign (id, name, cohort, bundle_id, state, plan, policy, reason, created_by, created_at,
                                  halted_at)
            SELECT gen_random_uuid(), name, cohort, bundle_id, 'finished', plan, policy, reason, created_by, created_at,
                   CASE WHEN n % 250 = 0 THEN now() END
              FROM campaign, generate_series(1, 5000) AS n WHERE id = $1
            """,
            template.id,
        )
        await connection.execute(
            """
            INSERT INTO campaign_region (campaign_id, region, position, cohort)
            SELECT id, 'r' || n, n, cohort FROM campaign, generate_series(1, 4) AS n
            """
        )
        await connection.execute("ANALYZE")
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE halted AS {directives.HALTED}")
        plan = json.loads(
            await connection.fetchval(
                "EXPLAIN (FORMAT JSON) EXECUTE halted('main', 'r1', now() - interval '1 day', 16)"
            )
        )

    assert "campaign_halted" in indexes(plan)


def indexes(plan: Any) -> set[str]:
    if isinstance(plan, list):
        return set().union(*map(indexes, plan))
    if isinstance(plan, dict):
        own = {plan["Index Name"]} if "Index Name" in plan else set()
        return own.union(*map(indexes, plan.values()))
    return set()


async def test_a_write_of_one_report_touches_one_row(crowded: Database) -> None:
    """By EXPLAIN ANALYZE: the upsert decides by its key, and the judged thousands are not looked at."""
    async with crowded.transaction() as connection:
        campaign = await connection.fetchval("SELECT id FROM campaign LIMIT 1")
        plan = json.loads(
            await connection.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {telemetry.WRITE}",
                *(campaign, ["gw-0001"], [EU], ["downloading"], [1], [1], [0], [""], ["b"], [0], [0]),
                *(await connection.fetchval("SELECT now()"), [None]),
            )
        )

    root = plan[0]["Plan"]
    assert root["Conflict Arbiter Indexes"] == ["execution_pkey"]
    assert root["Tuples Inserted"] == 1
    assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] < 100


@pytest.mark.parametrize("arguments", [{"after": "\0", "limit": 1}, {"after": "", "limit": 1 << 80}], ids=str)
async def test_a_value_that_no_column_can_hold_is_the_callers_mistake(store: Database, arguments: Any) -> None:
    """And no sign of a database that is away, which would be tried again for ever."""
    with pytest.raises(InvalidInputError):
        await devices.DeviceRepository(store).page(**arguments)
