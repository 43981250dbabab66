"""Whether the blob store can be written and read, for whoever asks how ready the server is.

Anybody may ask, and often: the store is looked at every few seconds at most, and by one look at a time, however long
that one takes (a folder on a network may hang for minutes, and each look at it holds a thread).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from firmware_store.blobs import BlobStore
from firmware_store.errors import StoreUnavailableError

EVERY_S: Final = 10.0
"""An answer is good for so long."""

PATIENCE_S: Final = 5.0
"""Whoever asks is not kept longer: a store that takes more time than this is not well."""


class StoreState(NamedTuple):
    """``text`` says how the store is, in words."""

    is_well: bool
    text: str


class StoreWatch:
    """Ask ``state``."""

    def __init__(self, store: BlobStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._look: asyncio.Task[StoreState] | None = None
        self._began = float("-inf")

    async def state(self, *, patience_s: float = PATIENCE_S) -> StoreState:
        """Return how the store is, or was a few seconds ago."""
        look, now = self._look, self._clock()
        if look is None or (look.done() and now - self._began >= EVERY_S):
            look = self._look = asyncio.create_task(self._probe(), name="look at the blob store")
            self._began = now
        await asyncio.wait({look}, timeout=patience_s)
        if not look.done():
            return StoreState(False, f"{self._store} has not answered for {self._clock() - self._began:.0f} s")
        return look.result()

    async def _probe(self) -> StoreState:
        try:
            await self._store.probe()
        except StoreUnavailableError as exc:
            return StoreState(False, str(exc))
        return StoreState(True, "can be written and read")
