"""Making a delta in a process of its own: it takes memory by the size of the images, and a core for seconds.

Both are gone when it ends, whatever came of it. It gives way to everything else on the machine. What it made it has
applied once: nobody is offered a delta that does not give the target.
"""

import asyncio
import filecmp
import os
import sys
from pathlib import Path
from typing import Final

from firmware_store.deltas import Codec, apply_delta, make_delta
from firmware_store.errors import DeltaError, TidegateError
from server.services.apart import apart, last_words

MAKE_S: Final = 900.0
"""A delta that takes longer is not made."""

NICENESS: Final = 10


async def make_apart(codec: Codec, source: Path, target: Path, out: Path) -> None:
    """Make ``out``, the delta from one image to another; beside it the target is made once more.

    Raises:
        DeltaError: it cannot be made, or takes too long; the text says why.
    """
    files = map(str, (source, target, out))
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    try:
        async with (
            apart(__name__, codec.value, *files, stdin=null, stdout=null, stderr=pipe) as process,
            asyncio.timeout(MAKE_S),
        ):
            _, said = await process.communicate()
    except TimeoutError as exc:
        raise DeltaError(f"a delta by {codec} takes more than {MAKE_S:.0f} seconds") from exc
    if process.returncode != 0:
        raise DeltaError(last_words(said) or f"a delta by {codec} ended with {process.returncode}")


def main(codec: str, source: str, target: str, out: str) -> int:
    """Do it here; 1, and a sentence on standard error, where it cannot be done."""
    os.nice(NICENESS)
    try:
        _make_and_try(Codec(codec), Path(source), Path(target), Path(out))
    except (TidegateError, OSError, MemoryError) as exc:
        sys.stderr.write(f"{str(exc) or 'not enough memory'}\n")
        return 1
    return 0


def _make_and_try(codec: Codec, source: Path, target: Path, out: Path) -> None:
    make_delta(codec, source, target, out)
    again = out.with_suffix(".tried")
    apply_delta(codec, source, out, again, target_bytes=target.stat().st_size)
    if not filecmp.cmp(target, again, shallow=False):
        raise DeltaError(f"a delta by {codec} that does not give the target")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
