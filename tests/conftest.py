"""One PostgreSQL and one broker per test run; a database, a region and device ids of its own for each test."""

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest
import pytest_asyncio
import structlog

from server.db.migrate import apply_migrations
from server.domain.identity import DeviceId, Region
from server.embedded import EmbeddedBroker, EmbeddedPostgres
from tests.s3_peer import S3Peer, running_s3

hypothesis.settings.register_profile("tidegate", deadline=None)  # a busy machine is not a failure
hypothesis.settings.register_profile("landing", deadline=None, derandomize=True)  # the same examples every time
hypothesis.settings.load_profile(os.environ.get("TIDEGATE_HYPOTHESIS_PROFILE", "tidegate"))

_numbers = itertools.count(1)

MEMORY = Path("/dev/shm")
MEMORY_LEAST = 8 << 30


def _keep_files_in_memory() -> None:
    """Databases that live for a test need no disk: a fifth of the suite's processor time is the disk's otherwise."""
    if "TMPDIR" in os.environ or not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return
    is_for_programs = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    if is_for_programs and shutil.disk_usage(MEMORY).free >= MEMORY_LEAST:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # it is asked for anew


_keep_files_in_memory()


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def services_dir() -> Iterator[Path]:
    """A short path that PostgreSQL's account may enter when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(services_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    """The cluster, with a database ``template`` that is migrated and connected to by nobody."""
    async with EmbeddedPostgres(services_dir, durable=False) as running:
        await execute(running.database_url, "CREATE DATABASE template")
        await apply_migrations(with_database(running.database_url, "template"))
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    """A connection that makes and drops databases."""
    connection = await asyncpg.connect(postgres.database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(loop_scope="session")
async def database(postgres: EmbeddedPostgres, cluster: asyncpg.Connection) -> AsyncIterator[str]:
    """The URL of a fresh database with the current schema."""
    name = f"test_{next(_numbers)}"
    await cluster.execute(f"CREATE DATABASE {name} TEMPLATE template STRATEGY FILE_COPY")
    yield with_database(postgres.database_url, name)
    await cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture(loop_scope="session")
async def empty_database(postgres: EmbeddedPostgres, cluster: asyncpg.Connection) -> AsyncIterator[str]:
    """The URL of a database without anything in it."""
    name = f"test_{next(_numbers)}"
    await cluster.execute(f"CREATE DATABASE {name}")
    yield with_database(postgres.database_url, name)
    await cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def broker(services_dir: Path) -> AsyncIterator[EmbeddedBroker]:
    """Shared by all tests: keep to ``region`` and ``new_device_id``, and retain nothing outside of them."""
    async with EmbeddedBroker(services_dir) as running:
        yield running


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Peer]:
    """S3 of this machine, for those that ask for it."""
    with running_s3() as peer:
        yield peer


@pytest.fixture
def region() -> Region:
    """A region that no other test uses."""
    return Region(f"region-{next(_numbers)}-{os.getpid()}")


@pytest.fixture
def new_device_id() -> Callable[[], DeviceId]:
    """Give an id that no other device of the run has."""
    return lambda: DeviceId(f"device-{next(_numbers)}-{os.getpid()}")


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(autouse=True)
def _logs_are_left_alone() -> Iterator[None]:
    """A command that sets up logging belongs into a process of its own: here it would break every later test's logs."""
    yield
    assert not structlog.get_config()["cache_logger_on_first_use"]
