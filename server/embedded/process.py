"""The processes behind the embedded services: locked, started, watched, stopped, and found again after a crash.

A server killed with SIGKILL leaves its PostgreSQL and its broker running. They are not tied to their parent's death
(PR_SET_PDEATHSIG follows the *thread* that forked, and would end them on a thread's whim); instead the next start
finds them. No process id is ever trusted from a file, for ids are used again, soonest of all in a container: what
counts is what the living process shows, namely the program it runs and that it stands in our own folder, which nobody
else may enter.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import psutil
import structlog

from firmware_store.errors import ConfigurationError

POLL_S: Final = 0.02
LOG_LIMIT_BYTES: Final = 8 * 1024 * 1024  # a larger log is put aside at the next start; one old log is kept
LOG_TAIL_LINES: Final = 6

StopPlan = Sequence[tuple[signal.Signals, float]]
"""Signals to try in turn, each with the seconds it is given to work; SIGKILL always comes last."""

_KILL_S: Final = 10.0

_Result = TypeVar("_Result")

log = structlog.get_logger(__name__)


class FolderLock:
    """One server per folder: an flock(2), which the kernel drops with its holder, however that ends.

    Raises:
        ConfigurationError: another living process holds it.
    """

    def __init__(self, folder: Path) -> None:
        # not inheritable (PEP 446): a child that outlives us must not keep the lock
        self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise ConfigurationError(
                f"Another Tidegate (process {holder or 'unknown'}) uses {folder}: stop it, or choose another "
                "TIDEGATE_DATA_DIR."
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


class Child:
    """One process of ours.

    It leads a session of its own, so that Ctrl-C in a terminal reaches only the server, which then stops its children
    in order.
    """

    def __init__(self, popen: subprocess.Popen[bytes], *, log_path: Path, stop_plan: StopPlan) -> None:
        self._popen = popen
        self._log_path = log_path
        self._stop_plan = stop_plan

    @classmethod
    def spawn(
        cls,
        arguments: Sequence[str],
        *,
        cwd: Path,
        log_path: Path,
        stop_plan: StopPlan,
        pass_fds: Sequence[int] = (),
        user: int | None = None,
        group: int | None = None,
        extra_groups: Sequence[int] | None = None,
    ) -> "Child":
        _put_large_log_aside(log_path)
        with os.fdopen(os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as output:
            popen = subprocess.Popen(
                arguments,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
                env=child_environment(),
                user=user,
                group=group,
                extra_groups=extra_groups,
            )
        return cls(popen, log_path=log_path, stop_plan=stop_plan)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    async def wait(self) -> str:
        """Return, once the process has ended, a sentence's worth of why: its exit status and its last words."""
        while not self.has_ended:  # noqa: ASYNC110 - no event tells it, and a waiting thread could not be cancelled
            await asyncio.sleep(POLL_S)
        return f"exit status {self._popen.returncode}: {_last_lines(self._log_path) or 'it said nothing'}"

    def reload(self) -> None:
        """Ask it to read its configuration again; nothing happens when it has ended."""
        self._popen.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """End it, gently at first; returns when it is gone."""
        for number, patience_s in (*self._stop_plan, (signal.SIGKILL, _KILL_S)):
            if self.has_ended:
                return
            self._popen.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._popen.wait, patience_s)


def stop_orphans(programs: Collection[str], folders: Collection[Path], stop_plan: StopPlan) -> None:
    """End each of ``programs`` that stands in one of ``folders``: what a killed server has left behind. Blocking.

    The caller holds the lock, so no living server owns them. They are stopped and not adopted: then there is one way
    in which a service starts, its settings are always this release's, and its end is seen at once.

    Raises:
        ConfigurationError: one of them does not end.
    """
    orphans = [process for process in psutil.process_iter(["name"]) if _stands_in(process, programs, folders)]
    if not orphans:
        return
    log.warning("orphans_found", pids=[process.pid for process in orphans])
    ids = {process.pid for process in orphans}
    for number, patience_s in (*stop_plan, (signal.SIGKILL, _KILL_S)):
        for process in orphans:
            if _is_alive(process) and _parent_id(process) not in ids:  # the others end with their parent
                _send(process, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if not any(map(_is_alive, orphans)):
                return
            time.sleep(POLL_S)
    raise ConfigurationError(f"A process of an earlier run does not end, of {sorted(ids)}: stop it by hand.")


def id_is_taken(pid: int) -> bool:
    """Whether some process has this id, even one that has ended and that nobody has waited for."""
    return bool(psutil.pid_exists(pid))


def child_environment() -> Mapping[str, str]:
    """Nothing of ours: a child gets no PG* variable, no token, no locale of its caller."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """Run a blocking step to its end even when the caller is cancelled, so that what it started can be undone."""
    step = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        await asyncio.wait([step])
        raise


def write_private(path: Path, text: str, *, mode: int = 0o600, gid: int = -1) -> None:
    """Replace a file in one step: after a crash it holds the old text or the new one, and is on the disk."""
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        if gid >= 0:
            os.fchown(fd, -1, gid)
        os.fchmod(fd, mode)
        file.write(text)
        file.flush()
        os.fsync(fd)
    staged.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _stands_in(process: psutil.Process, programs: Collection[str], folders: Collection[Path]) -> bool:
    try:
        if process.name() not in programs:
            return False
        stands_in = Path(process.cwd())
        return any(folder.exists() and folder.samefile(stands_in) for folder in folders)
    except (psutil.Error, OSError):
        return False  # ended meanwhile, or somebody else's


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _parent_id(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.Error:
        return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # psutil compares start times first: an id in new hands is left alone
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied as exc:
        raise ConfigurationError(f"Process {process.pid} of an earlier run belongs to another user: stop it.") from exc


def _put_large_log_aside(path: Path) -> None:
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_name(path.name + ".1"))


def _last_lines(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return " | ".join(lines[-LOG_TAIL_LINES:])
