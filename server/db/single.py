"""One server at a time on one database: a session lock that PostgreSQL frees by itself when its holder dies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from firmware_store.errors import ConfigurationError
from server.db.pool import CONNECT_TIMEOUT_S, explain_refusals

_KEY: Final = 0x7469_6465_7365_7276  # "tideserv"; another than the migrations' lock, which a running server leaves free

TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1)"


@asynccontextmanager
async def only_server(url: str) -> AsyncIterator[None]:
    """Hold the lock for the block. Two evaluators on one database would halt, and sign, against each other.

    Raises:
        ConfigurationError: another server has it.
        StoreUnavailableError: no answer.
    """
    with explain_refusals():
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
    try:
        with explain_refusals():
            is_ours = await connection.fetchval(TRY_LOCK, _KEY, timeout=CONNECT_TIMEOUT_S)
        if not is_ours:
            raise ConfigurationError("Another Tidegate server is running on this database; stop it first.")
        yield
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
