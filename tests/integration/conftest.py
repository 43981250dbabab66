"""A pool on the test's own database."""

from collections.abc import AsyncIterator

import pytest

from server.db.database import Database
from server.db.pool import open_pool


@pytest.fixture
async def store(database: str) -> AsyncIterator[Database]:
    pool = await open_pool(database, min_size=2)
    yield Database(pool)
    await pool.close()
