"""The demo's processes: the server and the devices, each its own, started and ended by the demo."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from firmware_store.errors import StoreUnavailableError
from firmware_store.root import ROOT_FILE

START_S: Final = 60.0
STOP_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    url: str
    token: str
    process: asyncio.subprocess.Process


@dataclass(frozen=True, slots=True)
class Simulated:
    """Running devices, and the ledger of what really happens on them."""

    ledger: Path
    process: asyncio.subprocess.Process


def end_when_told() -> None:
    """Let SIGTERM cancel the present task, so that no process of ours outlives it."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@asynccontextmanager
async def server(
    data_dir: Path,
    *,
    heartbeat_s: int,
    keep: bool,
    settings: Mapping[str, str] = MappingProxyType({}),
    before: Served | None = None,
) -> AsyncIterator[Served]:
    """Run `tidegate serve` on a free port for the block; with ``keep`` it lives on.

    ``settings`` go by its environment. ``before``: it has run on this data directory already, and comes back where it
    was.

    Raises:
        StoreUnavailableError: it did not come up; the log says why.
    """
    log = data_dir / "server.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment |= settings
    port = 0 if before is None else urlsplit(before.url).port
    arguments = ("serve", "--data-dir", str(data_dir), "--port", str(port), "--heartbeat-s", str(heartbeat_s))
    async with _process(arguments, log, environment, keep=keep, piped=True) as process:
        try:
            async with asyncio.timeout(START_S):
                url = await _line(process, "listening on ")
                shown = "first admin token (shown once): "
                token = await _line(process, shown) if before is None else before.token
        except (TimeoutError, EOFError) as exc:
            raise StoreUnavailableError(f"The server did not start; see {log}:\n{_tail(log)}") from exc
        yield Served(url, token, process)


@asynccontextmanager
async def fleet(
    folder: Path,
    *,
    seed: int,
    factory: Mapping[str, Path],
    fault: str | None = None,
    keep: bool = False,
    devices_file: str = "fleet.jsonl",
    root: Path | None = None,
    options: Sequence[str] = (),
) -> AsyncIterator[Simulated]:
    """Run `tidegate sim fleet` for the block; with ``keep`` it lives on.

    ``folder`` has the fleet file and the server's data directory, and gets the devices' own folders. ``root`` is what
    the devices have pinned, if it is not what the server has.
    """
    pinned = folder / "server" / "keys" / ROOT_FILE if root is None else root
    ledger = folder / "ledger.jsonl"
    arguments = [
        *("sim", "fleet", "--seed", str(seed), *options),
        *(() if fault is None else ("--fault", fault)),
        *("--devices-file", str(folder / devices_file), "--dir", str(folder / "devices")),
        *("--root", str(pinned), "--ledger", str(ledger)),
    ]
    for component, path in factory.items():
        arguments += ["--factory", f"{component}={path}"]
    async with _process(arguments, folder / "devices.log", dict(os.environ), keep=keep, piped=False) as process:
        yield Simulated(ledger, process)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return the events written so far; a last line still being written is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


@asynccontextmanager
async def _process(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str], *, keep: bool, piped: bool
) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if piped else sink,
            stderr=sink,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the demo, which then ends them in order
        )
    try:
        yield process
    except BaseException:
        await _end(process)
        raise
    if not keep:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process, prefix: str) -> str:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        text = line.decode().strip()
        if text.startswith(prefix):
            return text.removeprefix(prefix)
    raise EOFError


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
