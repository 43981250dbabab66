"""A real server that all tests share, and its administrator."""

from collections.abc import AsyncIterator

import pytest

from tests.servers import Api, ServerProcess, shared_server, stop_shared_server


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
