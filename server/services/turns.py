"""Long loops over the fleet, in slices between which others get their turn on the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, ParamSpec, TypeVar

from server.services.columns import Rows

SLICE: Final = 64
"""Less than a millisecond of counting devices: a request has its turn a dozen times before it is answered."""

ROWS: Final = 1024
"""About a seventh of a millisecond of counting by arrays."""

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


def slices(items: Iterable[T]) -> Iterator[Sequence[T]]:
    """Cut what is there now into slices; what comes or goes between two of them changes nothing."""
    everything = list(items)
    for start in range(0, len(everything), SLICE):
        yield everything[start : start + SLICE]


async def each_rows(rows: Rows) -> AsyncIterator[Rows]:
    """Cut rows of the fleet's columns into slices; others have their turn after each full one."""
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        yield some
        if len(some) == ROWS:
            await asyncio.sleep(0)


async def beside(devices: int, calculate: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calculate with arrays of so many devices: of a large fleet in a thread, while others have their turn."""
    if devices < ROWS:
        return calculate(*args, **kwargs)
    return await asyncio.to_thread(calculate, *args, **kwargs)


async def others_turn(slice_done: Collection[object]) -> None:
    """Let others go on after a full slice: what fits into one is done at once."""
    if len(slice_done) == SLICE:
        await asyncio.sleep(0)
