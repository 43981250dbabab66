"""A pool on the test's own database; a server that all tests share, and its administrator."""

from collections.abc import AsyncIterator

import pytest

from server.db.database import Database
from server.db.pool import open_pool
from tests.servers import Api, ServerProcess, shared_server, stop_shared_server


@pytest.fixture
async def store(database: str) -> AsyncIterator[Database]:
    pool = await open_pool(database, min_size=2)
    yield Database(pool)
    await pool.close()


@pytest.fixture(scope="session")
def server() -> ServerProcess:
    return shared_server()


@pytest.fixture
async def admin(server: ServerProcess) -> AsyncIterator[Api]:
    api = Api(server.url, server.token)
    yield api
    await api.close()


def pytest_sessionfinish() -> None:
    stop_shared_server()
