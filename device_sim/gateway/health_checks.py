"""Health checks as executables in a folder: all of them are run, in the order of their names, until one says no."""

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Final

from device_sim.agent.health import UnhealthyError
from server.protocol.messages import MAX_DETAIL_CHARACTERS

NAME: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
"""As ``run-parts`` takes them (debianutils, run-parts(8)): no editor's backups, and nothing of a package manager's."""
OUTPUT_MOST_BYTES: Final = 65_536


def find_checks(folder: Path) -> list[Path]:
    """Return the executables of a folder, sorted. Raises: OSError."""
    return sorted(
        path for path in folder.iterdir() if NAME.match(path.name) and path.is_file() and os.access(path, os.X_OK)
    )


class HealthChecks:
    """``await check()`` where the agent asks whether the running release works."""

    def __init__(self, folder: Path | None, *, timeout_s: float) -> None:
        self._folder = folder
        self._timeout_s = timeout_s

    @property
    def longest_s(self) -> float:
        """How long all of them may take together; a folder that cannot be read is ``check``'s to complain about."""
        try:
            count = 0 if self._folder is None else len(find_checks(self._folder))
        except OSError:
            count = 0
        return self._timeout_s * max(1, count) + 10

    async def check(self) -> bool:
        """Return True once all have exited with 0.

        Raises:
            UnhealthyError: one did not; its name and the end of its output are the message.
        """
        if self._folder is None:
            return True
        try:
            checks = find_checks(self._folder)
        except OSError as exc:
            raise UnhealthyError(f"cannot read {self._folder}: {exc.strerror}") from exc
        for path in checks:
            await self._run(path)
        return True

    async def _run(self, path: Path) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                str(path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as exc:
            raise UnhealthyError(f"{path.name}: {exc.strerror}") from exc
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                output = await _last_of(process.stdout)
                code = await process.wait()
        except TimeoutError as exc:
            raise UnhealthyError(f"{path.name}: not done after {self._timeout_s:g} s") from exc
        finally:
            _end(process)
            await process.wait()
        if code != 0:
            said = " ".join(output.decode(errors="replace").split())
            begins = f"{path.name}: exit code {code}"
            room = MAX_DETAIL_CHARACTERS - len(begins) - 2
            raise UnhealthyError(f"{begins}: {said[-room:]}" if said else begins)


async def _last_of(stream: asyncio.StreamReader) -> bytes:
    output = b""
    while piece := await stream.read(OUTPUT_MOST_BYTES):
        output = (output + piece)[-OUTPUT_MOST_BYTES:]
    return output


def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of it and of its children, which are a session of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
