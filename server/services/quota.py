"""How much the blob store may hold."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from firmware_store.blobs import BlobStore
from firmware_store.errors import StoreFullError

log = structlog.get_logger(__name__)

RECOUNT_AFTER_S: Final = 60.0
"""A store that seems full is counted again, for others may have cleared it; but not for each upload."""


class Quota:
    """Puts blobs into a store as long as there is room; without a quota there always is.

    What is there is counted when the first blob comes, which takes a listing of the store, and kept up from then on.
    """

    def __init__(
        self, store: BlobStore, most_bytes: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._most = most_bytes
        self._clock = clock
        self._used = 0
        self._under_way = 0
        self._put_since_count = 0
        self._counted_at: float | None = None
        self._counting = asyncio.Lock()

    async def put(self, digest: bytes, data: bytes) -> bool:
        """Do what ``BlobStore.put`` does.

        Raises:
            StoreFullError: the blob is not there, and there is no room for it.
            DigestError, StoreUnavailableError: see ``BlobStore.put``.
        """
        if self._most is None:
            return await self._store.put(digest, data)
        if not await self._has_room(len(data)) and await self._store.size(digest) is None:
            raise StoreFullError(f"The blob store has its {self._most} bytes: see `tidegate store gc`, or its quota.")
        self._used += len(data)  # before it is written, so that uploads side by side cannot share the last room
        self._under_way += len(data)
        created = False
        try:
            created = await self._store.put(digest, data)
        finally:
            self._under_way -= len(data)
            if created:
                self._put_since_count += len(data)
            else:
                self._used -= len(data)
        return created

    def note_cleared(self, size: int) -> None:
        """So many bytes were removed."""
        self._used -= size

    async def _has_room(self, size: int) -> bool:
        assert self._most is not None
        if self._counted_at is None or (
            self._used + size > self._most and self._clock() - self._counted_at >= RECOUNT_AFTER_S
        ):
            await self._count()
        return self._used + size <= self._most

    async def _count(self) -> None:
        before = self._counted_at
        async with self._counting:
            if self._counted_at is not before:
                return  # somebody has just done it
            # The listing has some of what is put meanwhile, and nobody knows which: all of it counts beside, for now.
            self._put_since_count = 0
            listed = sum([blob.size async for blob in self._store.stored()])
            self._used = listed + self._put_since_count + self._under_way
            self._counted_at = self._clock()
            log.info("blob_store_counted", used_bytes=self._used, quota_bytes=self._most)
