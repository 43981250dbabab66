"""A database filled from a backup in one transaction: all of it is there afterwards, or nothing has changed."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import asyncpg

from firmware_store.errors import ConflictError, CorruptBackupError, SchemaError
from server.db.database import Connection, with_last_works
from server.db.dump import PATIENCE, QUIET
from server.db.lease import ORCHESTRATOR
from server.db.migrate import (
    CREATE_TABLE,
    LOCK_KEY,
    RECORD,
    TABLE_EXISTS,
    TRY_LOCK,
    Migration,
)
from server.db.pool import CONNECT_TIMEOUT_S, explain_refusals
from server.db.snapshot_tables import (
    DROPS,
    LEFT_OUT,
    SET_SEQUENCE,
    TABLES,
    TRIGGERS,
    TableShape,
    quoted,
    read_tables,
)

JUMP: Final = 1_000_000
"""Numbers that a sequence leaves out: some after the backup's last one are known outside, and mean other rows there."""

LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '10s'"

LEASE: Final = "SELECT holder, until > clock_timestamp() AS holds FROM lease WHERE name = $1 FOR UPDATE"

# Above whatever a server of before may still have in mind: generations count one by one.
NEW_GENERATION: Final = "UPDATE lease SET generation = extract(epoch FROM clock_timestamp())::bigint WHERE name = $1"


class Loading:
    """A database within the transaction that fills it; ``connection`` is for what else belongs into it."""

    def __init__(self, raw: asyncpg.Connection) -> None:
        self._raw = raw

    @property
    def connection(self) -> Connection:
        # What repositories do in a transaction, they do on either.
        return cast("Connection", self._raw)

    async def clear(self, *, replace: bool) -> None:
        """Drop what is there.

        Raises:
            ConflictError: there are rows, and they are not to be replaced; or a server works with them.
            SchemaError: there are tables, and they are not Tidegate's.
        """
        await self._raw.execute(LOCK_TIMEOUT)
        if await self._raw.fetchval(TABLE_EXISTS):
            lease = await self._raw.fetchrow(LEASE, ORCHESTRATOR)
            if lease is not None and lease["holds"]:
                raise ConflictError(
                    f"The server {lease['holder']} works with this database: stop it. (After kill -9, wait 15 s.)"
                )
            if not replace and (name := await self._first_with_rows()) is not None:
                raise ConflictError(f"The database is not empty (see {name}): --replace drops everything in it.")
        elif await self._raw.fetch(TABLES):
            raise SchemaError("This database has tables that are not Tidegate's; nothing was changed.")
        for row in await self._raw.fetch(DROPS):
            await self._raw.execute(row["statement"])

    async def migrate(self, migrations: Sequence[Migration]) -> None:
        """Apply migrations, those that the backup's database had or those that came later."""
        await self._raw.execute(CREATE_TABLE)
        for migration in migrations:
            await self._raw.execute(migration.sql)
            await self._raw.execute(RECORD, migration.version, migration.name, migration.checksum)

    async def fill(self, tables: Sequence[TableShape], rows: Mapping[str, AsyncIterator[bytes]]) -> dict[str, int]:
        """Load tables in their order, without what triggers would make of it; return how many rows each one has.

        ``rows``: the text of ``COPY``, by table.

        Raises:
            CorruptBackupError: other tables than the schema has, or rows that it does not take.
        """
        known = {shape.name: shape for shape in await read_tables(self._raw)}
        if {shape.name: set(shape.columns) for shape in tables} != {
            name: set(shape.columns) for name, shape in known.items()
        }:
            raise CorruptBackupError("The backup's tables are not those of its schema.")
        triggers = await self._raw.fetch(TRIGGERS)
        for trigger in triggers:
            await self._alter(trigger, "DISABLE")
        counts = {}
        try:
            for shape in reversed(tables):  # a migration may have put something there
                await self._raw.execute(f"DELETE FROM {quoted(shape.name)}")
            for shape in tables:
                done = await self._raw.copy_to_table(
                    shape.name, source=rows[shape.name], columns=shape.columns, format="text"
                )
                counts[shape.name] = int(done.removeprefix("COPY "))
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as exc:
            raise CorruptBackupError(f"The backup has rows that the schema refuses: {exc}.") from exc
        for trigger in triggers:
            await self._alter(trigger, "ENABLE ALWAYS" if trigger["is_always"] else "ENABLE")
        return counts

    async def advance(self, sequences: Mapping[str, int]) -> None:
        """Let sequences go on well after where they were."""
        for name, last in sequences.items():
            try:
                await self._raw.fetchval(SET_SEQUENCE, name, last + JUMP)
            except (asyncpg.UndefinedTableError, asyncpg.NumericValueOutOfRangeError) as exc:
                raise CorruptBackupError(f"The sequence {name} cannot go on after {last}: {exc}.") from exc

    async def renew_lease(self) -> None:
        """Let no server that worked with the database before take this one for it."""
        await self._raw.execute(NEW_GENERATION, ORCHESTRATOR)

    async def _first_with_rows(self) -> str | None:
        for row in await self._raw.fetch(TABLES):
            statement = f"SELECT EXISTS (SELECT FROM {quoted(row['name'])})"
            if row["name"] not in LEFT_OUT and await self._raw.fetchval(statement):
                return str(row["name"])
        return None

    async def _alter(self, trigger: Any, how: str) -> None:
        table, name = quoted(trigger["table_name"]), quoted(trigger["name"])
        await self._raw.execute(f"ALTER TABLE {table} {how} TRIGGER {name}")


@asynccontextmanager
async def loading(url: str) -> AsyncIterator[Loading]:
    """Fill a database in the block, in one transaction; raise in it, and nothing has changed.

    Raises:
        ConflictError: somebody migrates it, or uses a table of it.
        StoreUnavailableError, ConfigurationError: it does not answer, or refuses us.
    """
    with explain_refusals():
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            if not await connection.fetchval(TRY_LOCK, LOCK_KEY):
                raise ConflictError("Another process is migrating this database.")
            async with connection.transaction():
                await connection.execute(PATIENCE)
                await connection.execute(QUIET)
                target = Loading(connection)
                async with with_last_works(target.connection):
                    yield target
        except asyncpg.LockNotAvailableError as exc:
            raise ConflictError("Somebody else uses this database: stop what works with it.") from exc
        finally:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connection.close()
