"""Blobs on their way to the broker and off it, many at once; what fails for one stops no other.

To clear a retained message is not enough: after kill -9 a broker may bring cleared ones back (Mosquitto those since it
last wrote its store, nats-server 2.15.1 in some runs; overwritten ones stay overwritten). So what is withdrawn is
overwritten by a tombstone of one byte, which devices know, and then cleared.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from hashlib import sha256
from typing import Final

import structlog

from firmware_store.blobs import BlobStore
from firmware_store.errors import ForbiddenError, TidegateError
from server.protocol.topics import Topics
from server.services.wire import Wire

log = structlog.get_logger(__name__)

AT_ONCE: Final = 32
"""On their way at once: at most 2 MiB of blobs, and half of what a link has under way."""

LOOKS: Final = 3
"""What is not found is looked for again: QoS 0 may lose some, and a broker may still be loading what it retains."""

TOMBSTONE: Final = b"\0"


class BlobWire:
    """By digest; what it returns was acknowledged by the broker."""

    def __init__(self, *, store: BlobStore, wire: Wire, topics: Topics) -> None:
        self._store = store
        self._wire = wire
        self._topics = topics

    @property
    def up_since(self) -> float | None:
        """Unix seconds since when the session is up, or None while it is down."""
        return self._wire.up_since

    async def publish(self, digests: Collection[bytes]) -> list[bytes]:
        """Retain these blobs; return those that are there now."""
        return await _each(digests, self._publish)

    async def withdraw(self, digests: Collection[bytes]) -> list[bytes]:
        """Retain these blobs no more; return those that are gone."""
        return await _each(digests, self._withdraw)

    async def missing(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """Return which of these the broker does not retain; none, where it lets us read none of them.

        Raises:
            BrokerUnavailableError: nobody knows.
        """
        missing = frozenset(digests)
        for _ in range(LOOKS):
            topics = {self._topics.blob(digest): digest for digest in missing}
            try:
                found = await self._wire.read_retained(topics.keys())
            except ForbiddenError as exc:
                log.warning("blobs_not_compared", reason=str(exc))
                return frozenset()
            missing -= {topics[topic] for topic, blob in found.items() if sha256(blob).digest() == topics[topic]}
        return missing

    async def _publish(self, digest: bytes) -> None:
        await self._wire.publish_retained(self._topics.blob(digest), await self._store.get(digest))

    async def _withdraw(self, digest: bytes) -> None:
        topic = self._topics.blob(digest)
        await self._wire.publish_retained(topic, TOMBSTONE)
        await self._wire.publish_retained(topic, b"")


async def _each(digests: Collection[bytes], work: Callable[[bytes], Awaitable[None]]) -> list[bytes]:
    window = asyncio.Semaphore(AT_ONCE)

    async def one(digest: bytes) -> TidegateError | None:
        async with window:
            try:
                await work(digest)
            except TidegateError as exc:
                return exc
            return None

    errors = await asyncio.gather(*map(one, digests))
    outcomes = list(zip(digests, errors, strict=True))
    failed = [(digest, error) for digest, error in outcomes if error is not None]
    if failed:
        digest, error = failed[0]
        log.warning("blobs_left_as_they_are", blobs=len(failed), first=digest.hex(), reason=str(error))
    return [digest for digest, error in outcomes if error is None]
