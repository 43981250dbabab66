"""The migration runner on a real PostgreSQL."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from firmware_store.errors import ConfigurationError, SchemaError, StoreUnavailableError
from server.db import migrate
from server.db.migrate import apply_migrations, check_schema, read_migrations
from server.db.pool import open_pool

Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_create_lamp.sql").write_text("CREATE TABLE lamp (id int PRIMARY KEY);")
    (tmp_path / "0002_add_colour.sql").write_text(
        "ALTER TABLE lamp ADD colour text;\nINSERT INTO lamp VALUES (1, 'red');"
    )
    return tmp_path


async def fetch_value(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_an_empty_database_gets_every_migration_in_order(empty_database: str, folder: Path) -> None:
    applied = await apply_migrations(empty_database, folder)

    assert [str(migration) for migration in applied] == ["0001_create_lamp", "0002_add_colour"]
    assert await fetch_value(empty_database, "SELECT colour FROM lamp") == "red"
    await check_schema(empty_database, folder)


async def test_a_second_run_applies_nothing(empty_database: str, folder: Path) -> None:
    await apply_migrations(empty_database, folder)

    assert await apply_migrations(empty_database, folder) == []


async def test_a_new_migration_is_applied_to_an_older_database(empty_database: str, folder: Path) -> None:
    await apply_migrations(empty_database, folder)
    (folder / "0003_drop_lamp.sql").write_text("DROP TABLE lamp;")

    with pytest.raises(SchemaError, match="lacks 0003_drop_lamp: run `tidegate db migrate`"):
        await check_schema(empty_database, folder)
    assert [str(migration) for migration in await apply_migrations(empty_database, folder)] == ["0003_drop_lamp"]


async def test_servers_that_start_together_apply_each_migration_once(empty_database: str, folder: Path) -> None:
    runs = await asyncio.gather(*(apply_migrations(empty_database, folder) for _ in range(5)))

    assert sorted(len(applied) for applied in runs) == [0, 0, 0, 0, 2]


async def test_a_failing_migration_leaves_no_trace_and_keeps_those_before_it(empty_database: str, folder: Path) -> None:
    (folder / "0003_break_lamp.sql").write_text("CREATE TABLE half (id int); SELECT 1 / 0;")

    with pytest.raises(SchemaError, match="0003_break_lamp failed and was undone: division by zero"):
        await apply_migrations(empty_database, folder)
    assert await fetch_value(empty_database, "SELECT to_regclass('half')") is None
    assert await fetch_value(empty_database, "SELECT max(version) FROM schema_migration") == 2


async def test_an_empty_database_does_not_pass_the_check(empty_database: str, folder: Path) -> None:
    with pytest.raises(SchemaError, match="lacks 0001_create_lamp, 0002_add_colour"):
        await check_schema(empty_database, folder)


async def test_a_file_changed_after_it_was_applied_is_refused(empty_database: str, folder: Path) -> None:
    await apply_migrations(empty_database, folder)
    (folder / "0001_create_lamp.sql").write_text("CREATE TABLE lamp (id bigint PRIMARY KEY);")

    for act in (check_schema, apply_migrations):
        with pytest.raises(SchemaError, match="0001_create_lamp is not the one that was applied"):
            await act(empty_database, folder)


async def test_a_database_of_a_newer_release_is_refused(empty_database: str, folder: Path) -> None:
    await apply_migrations(empty_database, folder)
    (folder / "0002_add_colour.sql").unlink()

    for act in (check_schema, apply_migrations):
        with pytest.raises(SchemaError, match="by a newer release, to 0002_add_colour; this one knows 1"):
            await act(empty_database, folder)


async def test_a_hole_in_the_history_is_refused(empty_database: str, folder: Path) -> None:
    await apply_migrations(empty_database, folder)
    await fetch_value(empty_database, "DELETE FROM schema_migration WHERE version = 1")

    with pytest.raises(SchemaError, match="0001_create_lamp was never applied"):
        await apply_migrations(empty_database, folder)


async def test_a_table_in_use_stops_a_migration_instead_of_the_service(
    empty_database: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await apply_migrations(empty_database, folder)
    (folder / "0003_drop_lamp.sql").write_text("DROP TABLE lamp;")
    monkeypatch.setattr(migrate, "LIMITS", "SET LOCAL lock_timeout = '50ms'")
    reader = await asyncpg.connect(empty_database)
    async with reader.transaction():
        await reader.fetch("SELECT * FROM lamp")

        with pytest.raises(StoreUnavailableError, match="found a table in use"):
            await apply_migrations(empty_database, folder)
    assert [str(migration) for migration in await apply_migrations(empty_database, folder)] == ["0003_drop_lamp"]
    await reader.close()


async def test_a_migrator_that_never_ends_is_not_waited_for_for_ever(
    empty_database: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "WAIT_FOR_OTHERS_S", 0.1)
    other = await asyncpg.connect(empty_database)
    await other.fetchval(migrate.TRY_LOCK, migrate.LOCK_KEY)

    with pytest.raises(StoreUnavailableError, match="still migrating"):
        await apply_migrations(empty_database, folder)
    await other.close()


@pytest.mark.parametrize("name", ["1_create_lamp.sql", "0003_Create.sql", "0003_create.sql", "0004_create_gap.sql"])
def test_a_badly_named_or_numbered_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("SELECT 1;")

    with pytest.raises(SchemaError):
        read_migrations(folder)


def test_a_number_there_twice_is_refused(folder: Path) -> None:
    (folder / "0002_add_size.sql").write_text("SELECT 1;")

    with pytest.raises(SchemaError, match="without gaps"):
        read_migrations(folder)


async def test_the_releases_own_migrations_pass_the_check(database: str) -> None:
    await check_schema(database)

    assert await fetch_value(database, "SELECT count(*) FROM schema_migration") == len(read_migrations())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda url: url.replace("/test_", "/absent_"), ConfigurationError),
        (lambda url: url.replace("postgresql://", "mysql://"), ConfigurationError),
        (lambda url: url.replace("tidegate@", "stranger@"), ConfigurationError),
        (lambda _: "postgresql://u:hunter2@127.0.0.1:1/x", StoreUnavailableError),
    ],
)
async def test_an_unusable_url_says_who_must_act(
    database: str, change: Callable[[str], str], error: type[Exception]
) -> None:
    for act in (open_pool, check_schema, apply_migrations):
        with pytest.raises(error) as caught:
            await act(change(database))

        assert "hunter2" not in str(caught.value)


async def test_a_pool_gives_connections_with_limits(database: str) -> None:
    async with await open_pool(database) as pool:
        assert await pool.fetchval("SHOW statement_timeout") == "25s"
        assert await pool.fetchval("SHOW timezone") == "UTC"


async def test_a_wave_that_was_open_before_plans_were_lines_keeps_its_pace(empty_database: str, tmp_path: Path) -> None:
    files = sorted(Path(__file__).parents[2].glob("migrations/*.sql"))
    for file in files[:10]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    await apply_migrations(empty_database, tmp_path)
    plan = '{"waves": [{"ratio": 0.1, "ramp_s": 0}, {"ratio": 0.5, "ramp_s": 7200}]}'
    connection = await asyncpg.connect(empty_database)
    try:
        await connection.execute("SET session_replication_role = replica")  # no bundle, and nobody's lease
        await connection.execute(
            "INSERT INTO campaign"
            " (id, name, cohort, bundle_id, state, plan, wave, policy, reason, created_by, created_at)"
            " SELECT gen_random_uuid(), 'old', 'main', gen_random_uuid(), 'running', $1, 1, '{}', '', 'ann', now()",
            plan,
        )
        await connection.execute(
            "INSERT INTO campaign_region (campaign_id, region, position, cohort, t0, l0, t1, l1, target)"
            " SELECT id, 'eu', 0, 'main', 1000, 400, 1060, 500, 900 FROM campaign"
            " UNION ALL SELECT id, 'us', 1, 'main', 1000, 900, 1060, 900, 900 FROM campaign"
        )
    finally:
        await connection.close()
    for file in files[10:]:
        (tmp_path / file.name).write_bytes(file.read_bytes())

    await apply_migrations(empty_database, tmp_path)

    lines = "SELECT array_agg(ARRAY[plan_t1 - plan_t0, plan_l0, target] ORDER BY region) FROM campaign_region"
    assert await fetch_value(empty_database, lines) == [[7200, 500, 900], [0, 900, 900]]
    begun = "SELECT extract(epoch FROM now()) - plan_t0 < 60 FROM campaign_region WHERE region = 'eu'"
    assert await fetch_value(empty_database, begun) is True
