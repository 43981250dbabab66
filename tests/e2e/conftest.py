"""A server that a test may kill, halt and wake as it likes: each has its own."""

import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from server.embedded import EmbeddedBroker
from tests.servers import ServerProcess, open_folder, own_server, stop_shared_server
from tests.stage import Stage


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with own_server() as process:
        yield process


@pytest.fixture
async def stage(database: str) -> AsyncIterator[Stage]:
    folder = open_folder()
    async with EmbeddedBroker(folder / "broker") as broker:
        stage = Stage(folder, database, broker)
        yield stage
        for node in stage.nodes:
            if node.is_alive:
                node.wake()
                node.kill()
    shutil.rmtree(folder)


def pytest_sessionfinish() -> None:
    stop_shared_server()
