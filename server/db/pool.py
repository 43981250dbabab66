"""A pool of connections, with the limits that keep one stuck statement from holding up a server."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg

from firmware_store.errors import ConfigurationError, StoreUnavailableError

CONNECT_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 10.0
COMMAND_TIMEOUT_S: Final = 30.0
"""After this the driver gives up and cancels the statement."""

BROKEN_OFF: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver says of a connection that has ended; the second where the end came while nobody was waiting."""

SESSION_SETTINGS: Final = {
    "application_name": "tidegate",
    "timezone": "UTC",
    "jit": "off",  # the statements are short: to compile them costs more than it saves
    # PostgreSQL gives up a little earlier than the driver, so that the reason is its own
    "statement_timeout": "25s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}


async def open_pool(
    url: str, *, min_size: int = 1, max_size: int = 8, generation: int | None = None
) -> "asyncpg.Pool[asyncpg.Record]":
    """Connect ``min_size`` times; up to ``max_size`` connections are opened as they are needed.

    The caller closes the pool. To take a connection out of it goes through ``server.db.database``, which bounds the
    wait; a method of the pool itself would wait for ever.

    ``generation``: of the lease under which all that these connections change is changed.

    Raises:
        ConfigurationError: the URL is no PostgreSQL URL, or the database refuses us.
        StoreUnavailableError: no answer in time.
    """
    fence = {} if generation is None else {"tidegate.generation": str(generation)}
    with explain_refusals():
        return await asyncpg.create_pool(
            url,
            min_size=min_size,
            max_size=max_size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings=SESSION_SETTINGS | fence,
        )


async def close_pool(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Close it in order, or at once where the database does not answer."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await pool.close()
    except TimeoutError:
        pool.terminate()


@contextmanager
def explain_refusals() -> Iterator[None]:
    """Say what to do about a connection that did not come about, or was lost; no driver error leaves the block."""
    try:
        yield
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as exc:
        raise ConfigurationError(f"The database refuses us: {exc}. Look at TIDEGATE_DATABASE_URL.") from exc
    except (asyncpg.ClientConfigurationError, socket.gaierror) as exc:
        raise ConfigurationError(f"TIDEGATE_DATABASE_URL leads nowhere: {exc}.") from exc
    except (OSError, TimeoutError, asyncpg.PostgresError, *BROKEN_OFF) as exc:
        raise StoreUnavailableError(f"The database does not answer: {exc}.") from exc
