"""Everything in the database as it was in one moment, table by table, while a server goes on working with it."""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Final

import asyncpg

from firmware_store.errors import StoreUnavailableError
from server.db.bundles import IN_BUNDLES, IN_DELTAS
from server.db.migrate import READ_APPLIED, Migration
from server.db.pool import CONNECT_TIMEOUT_S, explain_refusals
from server.db.snapshot_tables import SEQUENCES, TableShape, quoted, read_tables

# One statement may take as long as a large table does.
PATIENCE: Final = "SET LOCAL statement_timeout = 0"
# Between two statements all blobs may be written.
QUIET: Final = "SET LOCAL idle_in_transaction_session_timeout = 0"
NOW: Final = "SELECT transaction_timestamp()"

REFERRING: Final[Mapping[str, str]] = MappingProxyType({"bundle_blob": IN_BUNDLES, "delta_blob": IN_DELTAS})
"""Statements that find all blobs which must be kept, by the table that they read."""


class Snapshot:
    """A database in one moment, which is ``taken_at``."""

    def __init__(self, connection: asyncpg.Connection, taken_at: datetime) -> None:
        self._connection = connection
        self.taken_at = taken_at

    async def tables(self) -> list[TableShape]:
        """Return what there is to be read, in an order in which it can be loaded."""
        return await read_tables(self._connection)

    async def read(self, table: TableShape, write: Callable[[bytes], Coroutine[None, None, None]]) -> int:
        """Give all rows to ``write``, as ``COPY`` has them in its text format; return how many there are."""
        columns = ", ".join(map(quoted, table.columns))
        done = await self._connection.copy_from_query(
            f"SELECT {columns} FROM {quoted(table.name)}",
            output=write,
            format="text",
        )
        return int(done.removeprefix("COPY "))

    async def migrations(self) -> list[Migration]:
        """Return what has been applied to it, without the statements."""
        rows = await self._connection.fetch(READ_APPLIED)
        return [Migration(row["version"], row["name"], row["checksum"], "") for row in rows]

    async def sequences(self) -> dict[str, int]:
        """Return the last number that each sequence has given."""
        return {row["name"]: row["last_value"] for row in await self._connection.fetch(SEQUENCES)}

    async def referenced(self) -> list[bytes]:
        """Return the digests of all blobs that anything in it refers to, sorted."""
        names = {table.name for table in await self.tables()}
        found: set[bytes] = set()
        for name, statement in REFERRING.items():
            if name in names:  # a release of before may not have it
                found.update(row["digest"] for row in await self._connection.fetch(statement))
        return sorted(found)


@asynccontextmanager
async def taking_snapshot(url: str) -> AsyncIterator[Snapshot]:
    """Hold the database still for the block, as this one connection sees it.

    Raises:
        StoreUnavailableError: no answer, or it broke off.
        ConfigurationError: the database refuses us.
    """
    with explain_refusals():
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(PATIENCE)
                await connection.execute(QUIET)
                taken_at = await connection.fetchval(NOW)
                if not isinstance(taken_at, datetime):
                    raise StoreUnavailableError("The database does not say what time it is.")
                yield Snapshot(connection, taken_at)
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)
