"""Bring a database to this release's schema, forward only.

A migration is a file ``NNNN_verb_object.sql`` of the package ``migrations``, numbered without gaps. Each runs in one
transaction with its row in ``schema_migration``, so after a crash it either happened or did not. Several servers may
start at once: one migrates, the others wait for it by asking for the advisory lock again and again. Waiting *inside*
``pg_advisory_lock`` would hold a snapshot, and CREATE INDEX CONCURRENTLY of the migrating session waits for those.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

import asyncpg
import structlog

from firmware_store.errors import SchemaError, StoreUnavailableError
from server.db.pool import CONNECT_TIMEOUT_S, explain_refusals

WAIT_FOR_OTHERS_S: Final = 300.0
POLL_S: Final = 0.1

# A migration that cannot have its lock soon gives up, for all who come after it would queue behind it.
LIMITS: Final = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '10min'"

LOCK_KEY: Final = 0x7469_6465_6761_7465  # "tidegate" in ASCII
TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1)"

CREATE_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS schema_migration (
        version     integer     PRIMARY KEY,
        name        text        NOT NULL,
        checksum    bytea       NOT NULL,
        applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        CONSTRAINT schema_migration_checksum_is_sha256 CHECK (octet_length(checksum) = 32)
    )
"""
TABLE_EXISTS: Final = "SELECT to_regclass('schema_migration') IS NOT NULL"
READ_APPLIED: Final = "SELECT version, name, checksum FROM schema_migration ORDER BY version"
RECORD: Final = "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)"

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9]+(?:_[a-z0-9]+)+)\.sql")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Migration:
    """``checksum`` is the SHA-256 of the file's bytes."""

    version: int
    name: str
    checksum: bytes
    sql: str

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


def read_migrations(folder: Traversable | None = None) -> tuple[Migration, ...]:
    """Return the migrations of ``folder`` (default: this release's) in order.

    Raises:
        SchemaError: a file with another kind of name, or a number that is missing or there twice.
    """
    found = []
    for file in (folder or resources.files("migrations")).iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(file.name)
        if match is None:
            raise SchemaError(f"{file.name} is not named like 0001_create_core.sql.")
        data = file.read_bytes()
        found.append(Migration(int(match[1]), match[2], hashlib.sha256(data).digest(), data.decode("utf-8")))
    found.sort(key=lambda migration: migration.version)
    numbers = [migration.version for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise SchemaError(f"The migrations' numbers do not run from 1 without gaps: {numbers}.")
    return tuple(found)


async def apply_migrations(url: str, folder: Traversable | None = None) -> list[Migration]:
    """Apply what is missing and return it; on an up-to-date database that is nothing.

    Raises:
        SchemaError: the database's history is not ours, or a migration failed; those before it stay applied.
        StoreUnavailableError: no answer, or a lock was not to be had in time; ask again.
    """
    known = read_migrations(folder)
    applied = []
    async with _connect(url) as connection:
        await _take_lock(connection)  # falls with the connection
        await connection.execute(CREATE_TABLE)
        for migration in _find_missing(known, await _read_applied(connection)):
            await _apply(connection, migration)
            log.info("migration_applied", migration=str(migration))
            applied.append(migration)
    return applied


async def check_schema(url: str, folder: Traversable | None = None) -> None:
    """Return if the database has exactly this release's schema.

    Raises:
        SchemaError: it is empty, older, newer, or was made by other migrations than ours.
        StoreUnavailableError: no answer.
    """
    known = read_migrations(folder)
    async with _connect(url) as connection:
        stored = await _read_applied(connection) if await connection.fetchval(TABLE_EXISTS) else {}
    missing = _find_missing(known, stored)
    if missing:
        names = ", ".join(map(str, missing))
        raise SchemaError(f"The database lacks {names}: run `tidegate db migrate`.")


def _find_missing(known: Sequence[Migration], stored: Mapping[int, tuple[str, bytes]]) -> Sequence[Migration]:
    """Return what is to be applied, or say why these two histories do not fit."""
    newest = max(stored, default=0)
    if newest > len(known):
        name, _ = stored[newest]
        raise SchemaError(
            f"The database has been migrated by a newer release, to {newest:04}_{name}; this one knows {len(known)} "
            "migrations. Run that release, or restore a backup."
        )
    for migration in known[:newest]:
        if migration.version not in stored:
            raise SchemaError(f"Migration {migration} was never applied, though later ones were.")
        if stored[migration.version] != (migration.name, migration.checksum):
            raise SchemaError(
                f"Migration {migration} is not the one that was applied: its file has been changed since."
            )
    return known[newest:]


async def _read_applied(connection: asyncpg.Connection) -> dict[int, tuple[str, bytes]]:
    return {row["version"]: (row["name"], row["checksum"]) for row in await connection.fetch(READ_APPLIED)}


async def _take_lock(connection: asyncpg.Connection) -> None:
    try:
        async with asyncio.timeout(WAIT_FOR_OTHERS_S):
            while not await connection.fetchval(TRY_LOCK, LOCK_KEY):  # noqa: ASYNC110 - no event of ours
                await asyncio.sleep(POLL_S)
    except TimeoutError as exc:
        raise StoreUnavailableError("Another process is still migrating the database.") from exc


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(LIMITS)
            await connection.execute(migration.sql)
            await connection.execute(RECORD, migration.version, migration.name, migration.checksum)
    except asyncpg.LockNotAvailableError as exc:
        raise StoreUnavailableError(f"Migration {migration} found a table in use and was undone: ask again.") from exc
    except (asyncpg.OperatorInterventionError, asyncpg.PostgresConnectionError):
        raise
    except asyncpg.PostgresError as exc:
        raise SchemaError(f"Migration {migration} failed and was undone: {exc}.") from exc


@asynccontextmanager
async def _connect(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Open one connection of our own: an advisory lock belongs to a session."""
    with explain_refusals():
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            yield connection
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)
