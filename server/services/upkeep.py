"""Looking after the blob store: is every byte there that must be, and what is there that nobody needs?

Both run in the server, where uploads are: a blob that one of them relies on stays (``BlobStore.delete_old``).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from firmware_store.blobs import YOUNG, BlobStore, StoredBlob
from firmware_store.errors import DigestError, NotFoundError
from server.db.bundles import BundleRepository
from server.services.bundles import RECEIVE_MOST
from server.services.quota import Quota

log = structlog.get_logger(__name__)

AT_ONCE: Final = 8
GRACE_LEAST: Final = YOUNG + RECEIVE_MOST
"""No blob is cleared sooner: an upload or a delta under way, whose blobs nothing refers to yet, takes no longer, and
what it relies on was put, or was young, when it began."""


@dataclass(slots=True)
class Progress:
    """So many blobs of ``total`` have been looked at."""

    total: int
    seen: int = 0


@dataclass(slots=True)
class Verification(Progress):
    """``missing``: a bundle refers to it. ``unneeded``: nothing does, or not yet."""

    read_bytes: int = 0
    unneeded: int = 0
    damaged: list[bytes] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Collection(Progress):
    """What was cleared, or would be; ``left``: files of writes that never ended."""

    cleared: int = 0
    cleared_bytes: int = 0
    left: int = 0


class Upkeep:
    """Each method yields its report again and again while it grows; the last one is complete."""

    def __init__(
        self,
        *,
        repository: BundleRepository,
        store: BlobStore,
        quota: Quota,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._store = store
        self._quota = quota
        self._clock = clock

    async def verify(self) -> AsyncIterator[Verification]:
        """Read every blob back and compare it with its name.

        Raises:
            StoreUnavailableError: the store or the database does not answer.
        """
        # What is referred to is read first: a bundle that comes meanwhile is not missed.
        referenced = await self._repository.referenced()
        blobs = [blob async for blob in self._store.stored()]
        there = {blob.digest for blob in blobs}
        report = Verification(total=len(blobs), unneeded=len(there - referenced), missing=sorted(referenced - there))
        yield report
        for start in range(0, len(blobs), AT_ONCE):
            batch = blobs[start : start + AT_ONCE]
            for blob, good in zip(batch, await asyncio.gather(*map(self._is_good, batch)), strict=True):
                report.seen += 1
                report.read_bytes += blob.size
                if not good:
                    report.damaged.append(blob.digest)
            yield report
        log.info("blob_store_verified", blobs=report.seen, damaged=len(report.damaged), missing=len(report.missing))

    async def collect(self, *, grace: timedelta, dry_run: bool) -> AsyncIterator[Collection]:
        """Clear the blobs that nothing refers to and nobody has put for ``grace``, at least GRACE_LEAST.

        Raises:
            StoreUnavailableError: the store or the database does not answer; what was cleared is.
        """
        before = datetime.fromtimestamp(self._clock(), UTC) - max(grace, GRACE_LEAST)
        blobs = [blob async for blob in self._store.stored()]
        referenced = await self._repository.referenced()
        report = Collection(total=len(blobs))
        yield report
        for start in range(0, len(blobs), AT_ONCE):
            batch = blobs[start : start + AT_ONCE]
            old = [blob for blob in batch if blob.digest not in referenced and blob.written_at < before]
            cleared = old if dry_run else [blob for blob in old if await self._clear(blob, before)]
            report.seen += len(batch)
            report.cleared += len(cleared)
            report.cleared_bytes += sum(blob.size for blob in cleared)
            yield report
        report.left = await self._store.sweep(before, dry_run=dry_run)
        yield report
        log.info("blob_store_cleared", blobs=report.cleared, bytes=report.cleared_bytes, dry_run=dry_run)

    async def _clear(self, blob: StoredBlob, before: datetime) -> bool:
        cleared = await self._store.delete_old(blob.digest, before)
        if cleared:
            self._quota.note_cleared(blob.size)
        return cleared

    async def _is_good(self, blob: StoredBlob) -> bool:
        try:
            await self._store.get(blob.digest)
        except DigestError:
            return False
        except NotFoundError:
            log.info("blob_cleared_meanwhile", blob=blob.digest.hex())
        return True
