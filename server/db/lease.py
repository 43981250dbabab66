"""The lease: of several servers on one database, the one that decides. Its clock is the database's alone.

A node keeps one connection of its own for it, whose session lock says that the node runs once. So a node that was
killed may go on at once under the lease it still holds, and a second process of it may not.

What keeps a node that has lost the lease from changing anything is in the database: see ``0006_add_lease.sql``.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from firmware_store.errors import ConfigurationError, StoreUnavailableError
from server.db.pool import CONNECT_TIMEOUT_S, explain_refusals

LEASE_LIFE: Final = timedelta(seconds=15)
ANSWER_S: Final = 4.0
"""How long a statement on the lease may take: a renewal that is later than this is tried again."""

FORMER_S: Final = 2.0
"""For so long PostgreSQL may take to see that this node's process before was killed."""
POLL_S: Final = 0.1

ORCHESTRATOR: Final = "orchestrator"
"""The one lease there is, which the triggers check."""

# A node whose machine has died must not keep its own session lock from its next start for the two hours that TCP takes.
SESSION_SETTINGS: Final = {
    "application_name": "tidegate lease",
    "statement_timeout": "4s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
}

TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1)"

ACQUIRE: Final = """
    UPDATE lease SET holder = $2, generation = generation + 1, until = clock_timestamp() + $3::interval
     WHERE name = $1 AND (holder = $2 OR until <= clock_timestamp())
    RETURNING generation
"""

FIND: Final = "SELECT holder, until, until > clock_timestamp() AS holds FROM lease WHERE name = $1"

# Also after its end, as long as nobody has taken it.
RENEW: Final = """
    UPDATE lease SET until = clock_timestamp() + $3::interval WHERE name = $1 AND generation = $2 RETURNING generation
"""

RELEASE: Final = "UPDATE lease SET until = clock_timestamp() WHERE name = $1 AND generation = $2"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lease, and until when if it does not renew it."""

    node: str
    until: datetime


class LeaseSession:
    """A node's connection for the lease, for one caller at a time; it comes again after a loss.

    ``other``: the other node that held the lease when this one last tried to acquire it.
    """

    def __init__(self, url: str, node: str, *, life: timedelta = LEASE_LIFE) -> None:
        self._url = url
        self._life = life
        self._connection: asyncpg.Connection | None = None
        self._runs_once = False
        self.node = node
        self.other: Holder | None = None

    async def acquire(self) -> int | None:
        """Take the lease if it is free or this node's own; return its generation, or None while another holds it.

        Raises:
            StoreUnavailableError: no answer, or a transaction of the holder before is not over; ask again.
        """
        if await self._find_other() is not None:
            return None
        if not self._runs_once:
            raise StoreUnavailableError("This node's session before has not ended yet.")
        row = await self._ask(ACQUIRE, ORCHESTRATOR, self.node, self._life)
        return None if row is None else int(row["generation"])

    async def renew(self, generation: int) -> bool:
        """Hold the lease for another life from now; False if a later generation has it.

        Raises:
            StoreUnavailableError: no answer; whether it was renewed is not known.
        """
        return await self._ask(RENEW, ORCHESTRATOR, generation, self._life) is not None

    async def release(self, generation: int) -> None:
        """Let others take the lease at once. Raises: StoreUnavailableError: it ends by itself."""
        await self._ask(RELEASE, ORCHESTRATOR, generation)

    async def connect(self) -> None:
        """Raises: ConfigurationError: another process of this node is running. StoreUnavailableError: no answer."""
        until = time.monotonic() + FORMER_S
        await self._find_other()
        while not self._runs_once and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
            await self._find_other()
        if not self._runs_once:
            await self.close()
            raise ConfigurationError("A Tidegate server with this data directory is running already; stop it first.")

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with explain_refusals():
                await connection.close(timeout=CONNECT_TIMEOUT_S)

    async def _find_other(self) -> Holder | None:
        row = await self._ask(FIND, ORCHESTRATOR)
        if row is None or not row["holds"] or row["holder"] == self.node:
            self.other = None
        else:
            self.other = Holder(row["holder"], row["until"])
        return self.other

    async def _ask(self, statement: str, *values: object) -> Any:
        """Return the row, or None. After any failure the next statement has a connection of its own."""
        try:
            with explain_refusals():
                connection = await self._connected()
                return await connection.fetchrow(statement, *values)
        except BaseException:
            self._drop()
            raise

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._runs_once = False
            self._connection = await asyncpg.connect(
                self._url, timeout=ANSWER_S, command_timeout=ANSWER_S, server_settings=SESSION_SETTINGS
            )
        if not self._runs_once:
            self._runs_once = await self._connection.fetchval(TRY_LOCK, _lock_key(self.node))
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


@asynccontextmanager
async def lease_session(url: str, node: str) -> AsyncIterator[LeaseSession]:
    """Connect for the block.

    Raises:
        ConfigurationError: another process of this node is running.
        StoreUnavailableError: no answer.
    """
    session = LeaseSession(url, node)
    await session.connect()
    try:
        yield session
    finally:
        await session.close()


def _lock_key(node: str) -> int:
    digest = hashlib.sha256(b"tidegate node " + node.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
