"""A server that a test may kill, halt and wake as it likes: each has its own."""

import shutil
from collections.abc import Iterator

import pytest

from tests.servers import ServerProcess, open_folder


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    process = ServerProcess(open_folder(), heartbeat_s="1")
    process.start()
    yield process
    if process.is_alive:
        process.stop()
    shutil.rmtree(process.folder)
