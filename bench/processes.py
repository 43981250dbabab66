"""A bench's processes: each pays for itself, says ``ready`` on a line when it is, and prints its result on another."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.target import VARIABLE, Target


@asynccontextmanager
async def running(
    module: str, *arguments: str, target: Target, within_s: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module that talks to this broker, and wait for its end; whatever fails, it does not outlive the block.

    Raises:
        TimeoutError: block and process have not ended in time.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        env={**os.environ, VARIABLE: target.url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within_s):
            yield process
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ready(process: asyncio.subprocess.Process) -> None:
    """Wait until the process says so. Raises: SystemExit."""
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise SystemExit("a bench process did not start")


async def printed(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return the line that the process prints as it is through. Raises: SystemExit."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise SystemExit("a bench process failed")
    result: dict[str, Any] = json.loads(line)
    return result
