"""Modules that run in a process of their own: what takes memory or a core for long takes neither from the server."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

_WORDS_MOST: Final = 500


@asynccontextmanager
async def apart(module: str, *arguments: str, **pipes: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ``python -m module arguments`` for the block, which it does not outlive.

    ``pipes``: as `asyncio.create_subprocess_exec` takes them.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        start_new_session=True,  # Ctrl-C in a terminal reaches the server alone, which ends this
        **pipes,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def last_words(said: bytes) -> str:
    """Return the last line of what a process said on standard error."""
    return said.decode(errors="replace").strip().rpartition("\n")[2][-_WORDS_MOST:]
