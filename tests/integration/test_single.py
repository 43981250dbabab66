"""One server on one database: a second one is turned away, and a dead one is in nobody's way."""

import asyncio

import asyncpg
import pytest

from firmware_store.errors import ConfigurationError, StoreUnavailableError
from server.db.single import only_server


async def test_a_second_server_is_turned_away(database: str) -> None:
    async with only_server(database):
        with pytest.raises(ConfigurationError, match="stop it first"):
            await enter(database)


async def enter(url: str) -> None:
    async with only_server(url):
        pass


async def test_the_next_server_may_start_when_the_first_has_stopped(database: str) -> None:
    for _ in range(2):
        await enter(database)


async def test_the_next_server_may_start_when_the_first_has_died(database: str) -> None:
    """PostgreSQL frees the lock of a session that is cut, however it was cut."""
    async with only_server(database):
        other = await asyncpg.connect(database)
        try:
            await other.execute(
                """
                SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
                 WHERE l.locktype = 'advisory' AND d.datname = current_database()
                """
            )
        finally:
            await other.close()

        async with asyncio.timeout(10):
            while not await may_enter(database):
                await asyncio.sleep(0.01)


async def may_enter(url: str) -> bool:
    try:
        await enter(url)
    except ConfigurationError:
        return False
    return True


async def test_a_database_that_is_not_there_is_said_to_be_away() -> None:
    with pytest.raises(StoreUnavailableError):
        await enter("postgresql://nobody@127.0.0.1:1/nothing")
