"""Bundles: taken in only when every byte is signed for."""

import asyncio
import hashlib
from collections.abc import AsyncIterable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from firmware_store.blobs import BlobStore
from firmware_store.bundle import receive_bundle
from firmware_store.errors import ConflictError, InvalidInputError, TooLargeError
from firmware_store.suit import format_version
from server.db.bundles import BundleRecord, BundleRepository
from server.domain.filter import Expression
from server.domain.identity import BundleId
from server.services.authority import Authority
from server.services.identifiers import new_uuid7
from server.services.quota import Quota

log = structlog.get_logger(__name__)

BUNDLE_MOST_BYTES: Final = 4 << 30
ASKED_AT_ONCE: Final = 32

RECEIVE_MOST: Final = timedelta(hours=3)
"""An upload that takes longer is broken off. The next try leaves out what has come, and until a bundle is complete
nothing refers to its blobs: those that garbage collection took meanwhile would be missing for ever."""


class Bundles:
    """Uploads."""

    def __init__(
        self,
        *,
        repository: BundleRepository,
        store: BlobStore,
        authority: Authority,
        most_bytes: int = BUNDLE_MOST_BYTES,
        quota: Quota | None = None,
        receive_most: timedelta = RECEIVE_MOST,
    ) -> None:
        self._most_bytes = most_bytes
        self._receive_most = receive_most
        self._sink = Quota(store, None) if quota is None else quota
        self._repository = repository
        self._store = store
        self._authority = authority
        self.on_change: Callable[[], None] | None = None
        """Hears of each bundle that has come."""

    async def receive(self, stream: AsyncIterable[bytes], *, caller: str) -> BundleRecord:
        """Take in an upload; nothing of it is visible until all of it has been verified.

        Raises:
            TrustError: it is not what enough release keys have signed, or was revoked, or is below a floor.
            InvalidInputError: it is no bundle, or ends early, or does not end, or not in RECEIVE_MOST.
            StoreFullError: there is no room for it; what has come of it is there for the next try.
            ConflictError: it is here already, or a blob that was left out is not.
        """
        try:
            async with asyncio.timeout(self._receive_most.total_seconds()):
                return await self._receive(stream, caller=caller)
        except TimeoutError as exc:
            limit = f"{self._receive_most.total_seconds() / 3600:g} hours"
            raise InvalidInputError(
                f"An upload that takes more than {limit} is broken off; what has come of it is there for the next try."
            ) from exc

    async def _receive(self, stream: AsyncIterable[bytes], *, caller: str) -> BundleRecord:
        trust = self._authority.trust
        received = await receive_bundle(
            stream,
            root=trust.root,
            status=trust.status,
            store=self._sink,
            max_bytes=self._most_bytes,
            known=self._store,
        )
        manifest = self._authority.trust.check_release(received.envelope).manifest
        envelope_digest = hashlib.sha256(received.envelope).digest()
        await self._sink.put(envelope_digest, received.envelope)
        if await self._repository.by_digest(manifest.digest) is not None:
            # What was lost or damaged of it is whole again all the same.
            raise ConflictError("This bundle is already here: the same manifest was uploaded before.")
        blobs = {**received.blobs, envelope_digest: len(received.envelope)}
        record = BundleRecord(
            id=BundleId(new_uuid7()),
            manifest_digest=manifest.digest,
            envelope_digest=envelope_digest,
            envelope_bytes=len(received.envelope),
            sequence_number=manifest.sequence_number,
            version=format_version(manifest.version),
            vendor_id=manifest.vendor_id,
            class_ids=manifest.class_ids,
            components={component.name: component.image_size for component in manifest.components},
            size_bytes=sum(blobs.values()),
            signers=tuple(sorted(received.verified.kids)),
            created_by=caller,
            created_at=datetime.now(UTC),
        )
        await self._repository.add(record, blobs)
        if self.on_change is not None:
            self.on_change()
        log.info("bundle_received", version=record.version, digest=record.manifest_digest.hex(), blobs=len(blobs))
        return record

    async def missing(self, digests: Sequence[bytes]) -> list[bytes]:
        """Return those of which the store has nothing, in their order; whether the others are whole, an upload finds.

        Raises:
            StoreUnavailableError: no answer.
        """
        window = asyncio.Semaphore(ASKED_AT_ONCE)

        async def is_missing(digest: bytes) -> bool:
            async with window:
                return await self._store.size(digest) is None

        found = await asyncio.gather(*map(is_missing, digests))
        return [digest for digest, is_it in zip(digests, found, strict=True) if is_it]

    def check_size(self, size: int) -> None:
        """Refuse an upload by the size that it announces. Raises: TooLargeError."""
        if size > self._most_bytes:
            raise TooLargeError(
                f"A bundle may have {self._most_bytes} bytes at most here (TIDEGATE_UPLOAD_MOST_BYTES).",
                limit_bytes=self._most_bytes,
            )

    async def get(self, bundle: BundleId) -> BundleRecord:
        """Raises: NotFoundError."""
        return await self._repository.get(bundle)

    async def newest(
        self, limit: int, only: Expression | None = None, *, before: BundleId | None = None
    ) -> list[BundleRecord]:
        return await self._repository.newest(limit, only, before=before)
