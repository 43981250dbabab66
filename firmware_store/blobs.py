"""Blobs: each is named by the SHA-256 of its bytes, written once, and checked whenever it is read.

They lie in a folder or in a bucket of S3. What ``put`` has returned for survives a power cut, and a blob has its name
only once all of it is there. One that was damaged all the same is refused by ``get``, and replaced by the next ``put``.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple, Self

import obstore
from obstore.exceptions import BaseError

from firmware_store.blob_places import Bucket, Folder, Method, Place, answered
from firmware_store.errors import DigestError, NotFoundError, StoreUnavailableError
from firmware_store.suit_values import DIGEST_BYTES

YOUNG: Final = timedelta(hours=1)
"""A blob that is put again is made young if it is older than this."""

_PROBE: Final = "probe"
_PROBE_DATA: Final = b"tidegate"


class StoredBlob(NamedTuple):
    """What a store has under a name; whether the bytes are good, only reading them says."""

    digest: bytes
    size: int
    written_at: datetime


class BlobStore:
    """All methods may run at once, for the same blob too; the digest decides what the bytes are."""

    @classmethod
    def at(cls, where: Path | str) -> Self:
        """Open a folder, or the bucket that a URL names.

        Raises:
            ConfigurationError: a URL that names no bucket.
            StoreUnavailableError: the folder cannot be created or entered.
        """
        return cls(where if isinstance(where, Path) else Bucket(where))

    def __init__(self, place: Path | Place) -> None:
        """Open a place, or a folder, which is created where it is missing.

        Raises:
            StoreUnavailableError: the folder cannot be created or entered.
        """
        self._place: Place = Folder(place) if isinstance(place, Path) else place
        self._store = self._place.store
        self._clearing = tuple(asyncio.Lock() for _ in range(256))

    def __str__(self) -> str:
        return str(self._place)

    async def put(self, digest: bytes, data: bytes) -> bool:
        """Keep ``data``; True if it was not there before. It is young then, even if it was there: see ``delete_old``.

        Raises:
            DigestError: ``digest`` is not that of ``data``; nothing is written.
            StoreUnavailableError: no answer in time; the blob may be there or not, put it again.
        """
        _check(digest, data)
        path = _path(digest)
        if await self._place.write(path, data):
            return True
        async with self._clearing[digest[0]]:
            if not await self._is_whole(digest):
                await self._place.write(path, data, replace=True)
            elif await self._is_old(digest, datetime.now(UTC) - YOUNG):
                await self._place.refresh(path, data)
        return False

    async def get(self, digest: bytes) -> bytes:
        """Return the bytes.

        Raises:
            NotFoundError: no such blob.
            DigestError: the file is damaged.
            StoreUnavailableError: no answer in time.
        """
        data = await self._read(digest)
        _check(digest, data)
        return data

    async def size(self, digest: bytes) -> int | None:
        """Return the size in bytes, or None where there is no such blob.

        Raises:
            StoreUnavailableError: no answer in time.
        """
        try:
            return (await answered(obstore.head_async(self._store, _path(digest))))["size"]
        except FileNotFoundError:
            return None

    async def delete(self, digest: bytes) -> None:
        """Forget the blob, if it is there.

        Raises:
            StoreUnavailableError: no answer in time; it may be there still.
        """
        try:
            await answered(obstore.delete_async(self._store, _path(digest)))
        except FileNotFoundError:
            return

    async def delete_old(self, digest: bytes, before: datetime) -> bool:
        """Forget the blob if nobody has put it since; False: somebody has, or it is gone.

        Whoever puts a blob again relies on it, so one that waits for its reference is safe for a day at least, if
        ``before`` is a day and an hour ago (see YOUNG).

        Raises:
            StoreUnavailableError: no answer in time; it may be there still.
        """
        async with self._clearing[digest[0]]:
            if not await self._is_old(digest, before):
                return False
            await self.delete(digest)
        return True

    async def stored(self) -> AsyncIterator[StoredBlob]:
        """Yield every blob, in no order; what is no blob is passed over.

        Raises:
            StoreUnavailableError: the place cannot be read.
        """
        await self._place.check()
        try:
            async for batch in obstore.list(self._store):
                for entry in batch:
                    digest = _digest(entry["path"])
                    if digest is not None:
                        yield StoredBlob(digest, entry["size"], entry["last_modified"])
        except (OSError, BaseError) as exc:
            raise StoreUnavailableError("the blob store cannot be listed") from exc

    async def presign(self, digest: bytes, *, method: Method = "GET", valid: timedelta) -> str | None:
        """Return a URL at which anybody has the blob for so long; None where the store has no door of its own.

        Raises:
            StoreUnavailableError: it cannot be signed.
        """
        return await self._place.presign(method, _path(digest), valid=valid)

    async def check(self) -> None:
        """Return if the place is there. Raises: StoreUnavailableError."""
        await self._place.check()

    async def probe(self) -> None:
        """Write a few bytes beside the blobs and read them back: a full disk, or a key that may only read, shows so.

        Raises:
            StoreUnavailableError: they are not there.
        """
        await self._place.check()
        # Where it is there already, whether it could be written is found out all the same, and a bucket that keeps
        # versions does not fill with them.
        await self._place.write(_PROBE, _PROBE_DATA)
        if await self._read_probe() != _PROBE_DATA:
            await self._place.write(_PROBE, _PROBE_DATA, replace=True)
            if await self._read_probe() != _PROBE_DATA:
                raise StoreUnavailableError("the blob store does not give back what was written to it")

    async def sweep(self, before: datetime, *, dry_run: bool = False) -> int:
        """Remove what writes before that time have left half done; return how many there were.

        Raises:
            StoreUnavailableError: the place cannot be read.
        """
        return await self._place.sweep(before, dry_run=dry_run)

    async def _read_probe(self) -> bytes:
        try:
            return await self._place.read(_PROBE)
        except FileNotFoundError:
            return b""

    async def _is_whole(self, digest: bytes) -> bool:
        try:
            await self.get(digest)
        except (DigestError, NotFoundError):
            return False
        return True

    async def _is_old(self, digest: bytes, before: datetime) -> bool:
        try:
            return (await answered(obstore.head_async(self._store, _path(digest))))["last_modified"] < before
        except FileNotFoundError:
            return False

    async def _read(self, digest: bytes) -> bytes:
        try:
            return await self._place.read(_path(digest))
        except FileNotFoundError as exc:
            raise NotFoundError(f"there is no blob {digest.hex()}") from exc


def _check(digest: bytes, data: bytes) -> None:
    if sha256(data).digest() != digest:
        raise DigestError(f"these are not the bytes of blob {digest.hex()}")


def _path(digest: bytes) -> str:
    """Two levels of folders, so that none has to hold more than a few hundred entries per million blobs."""
    name = digest.hex()
    return f"{name[:2]}/{name[2:4]}/{name}"


def _digest(path: str) -> bytes | None:
    try:
        digest = bytes.fromhex(path.rpartition("/")[2])
    except ValueError:
        return None
    return digest if len(digest) == DIGEST_BYTES and path == _path(digest) else None
