"""The one way to a connection: bounded waits, one transaction a method, and no driver error above this layer."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from firmware_store.errors import InvalidInputError, LeaseLostError, StoreUnavailableError
from server.db.pool import BROKEN_OFF

ACQUIRE_S: Final = 10.0
"""How long a caller waits for a free connection before it is told that the store is unavailable."""

_NOT_NOW: Final = (
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,  # a deadlock with another transaction, of which PostgreSQL has ended this one
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, until it is promoted
)

LEASE_LOST: Final = "TG001"
"""What the triggers of ``0006_add_lease.sql`` raise."""

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

_Work: TypeAlias = Callable[[Connection], Awaitable[None]]

AUDIT_TURN: Final = 1
OUTBOX_TURN: Final = 2
"""Who needs both locks takes them in this order, or two transactions would wait for each other."""

_last_works: dict[Connection, list[tuple[int, _Work]]] = {}
"""What each open transaction does when all else is done."""


def at_last(connection: Connection, work: _Work, *, turn: int) -> None:
    """Do this as the last thing of the transaction that is open on ``connection``, before it commits.

    For what takes a lock that many transactions need: they hold it no longer than their commit takes, and no lock is
    waited for after it.
    """
    _last_works[connection].append((turn, work))


@asynccontextmanager
async def with_last_works(connection: Connection) -> AsyncIterator[None]:
    """Let the block, which is a transaction on ``connection``, use ``at_last``."""
    works = _last_works[connection] = list[tuple[int, _Work]]()
    try:
        yield
    finally:
        del _last_works[connection]
    for _, work in sorted(works, key=lambda entry: entry[0]):
        await work(connection)


class Database:
    """Transactions on a pool."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Open a transaction that commits when the block ends and rolls back when it raises.

        Raises:
            InvalidInputError: a value that no column can hold, such as a text with a NUL.
            StoreUnavailableError: no connection or lock in time, or it was lost. Whether a commit under way took
                effect is then unknown; everything done here is safe to do again.
            LeaseLostError: it changes what only the holder of the lease may change; nothing has changed.
        """
        try:
            async with (
                self._pool.acquire(timeout=ACQUIRE_S) as connection,
                connection.transaction(),
                with_last_works(connection),
            ):
                yield connection
        except (OSError, TimeoutError, asyncpg.PostgresConnectionError, *BROKEN_OFF) as exc:
            raise StoreUnavailableError("The database did not answer in time; try again.") from exc
        except asyncpg.DataError as exc:
            raise InvalidInputError(f"The database cannot hold this: {exc}.") from exc
        except _NOT_NOW as exc:
            raise StoreUnavailableError(f"The database is not accepting work: {exc}.") from exc
        except asyncpg.PostgresError as exc:
            if exc.sqlstate == LEASE_LOST:
                raise LeaseLostError("This node does not hold the lease any more.") from exc
            raise

    async def ping(self) -> None:
        """Ask for one row.

        Raises:
            StoreUnavailableError: none came.
        """
        async with self.transaction() as connection:
            await connection.execute("SELECT 1")
