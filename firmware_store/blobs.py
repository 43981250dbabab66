"""Blobs on disk: each is named by the SHA-256 of its bytes, written once, and checked whenever it is read.

A folder through obstore's LocalStore; a bucket behind the same interface can take its place. What ``put`` has returned
for survives a power cut. One that came in between leaves at worst a damaged file under a good name: ``get`` refuses it,
and the next ``put`` of the same blob replaces it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from firmware_store.errors import DigestError, NotFoundError, StoreUnavailableError
from firmware_store.private_files import sync_directory
from firmware_store.suit_values import DIGEST_BYTES

ANSWER_TIMEOUT_S: Final = 30.0

_T = TypeVar("_T")


class BlobStore:
    """All methods may run at once, for the same blob too; the digest decides what the bytes are."""

    def __init__(self, directory: Path) -> None:
        """Open the folder, and create it where it is missing.

        Raises:
            StoreUnavailableError: it cannot be created or entered.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._store = LocalStore(prefix=directory)
        except (OSError, BaseError) as exc:
            raise StoreUnavailableError(f"cannot open the blob store in {directory}") from exc
        self._directory = directory

    async def put(self, digest: bytes, data: bytes) -> bool:
        """Keep ``data``; True if it was not there before.

        Raises:
            DigestError: ``digest`` is not that of ``data``; nothing is written.
            StoreUnavailableError: no answer in time; the blob may be there or not, put it again.
        """
        _check(digest, data)
        path = _path(digest)
        try:
            await _answer(obstore.put_async(self._store, path, data, mode="create"))
            created = True
        except AlreadyExistsError:
            if await self._is_whole(digest):
                return False
            await _answer(obstore.put_async(self._store, path, data, mode="overwrite"))
            created = False
        await asyncio.to_thread(self._sync, path)
        return created

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
            return (await _answer(obstore.head_async(self._store, _path(digest))))["size"]
        except FileNotFoundError:
            return None

    async def delete(self, digest: bytes) -> None:
        """Forget the blob, if it is there.

        Raises:
            StoreUnavailableError: no answer in time; it may be there still.
        """
        try:
            await _answer(obstore.delete_async(self._store, _path(digest)))
        except FileNotFoundError:
            return

    async def digests(self) -> AsyncIterator[bytes]:
        """Yield the digest of every blob, in no order; files that are no blobs are passed over.

        Raises:
            StoreUnavailableError: the folder cannot be read.
        """
        if not await asyncio.to_thread(self._directory.is_dir):
            raise StoreUnavailableError("the folder of the blob store is gone")  # LocalStore would list nothing
        try:
            async for batch in obstore.list(self._store):
                for entry in batch:
                    digest = _digest(entry["path"])
                    if digest is not None:
                        yield digest
        except (OSError, BaseError) as exc:
            raise StoreUnavailableError("the blob store cannot be listed") from exc

    async def _is_whole(self, digest: bytes) -> bool:
        try:
            await self.get(digest)
        except (DigestError, NotFoundError):
            return False
        return True

    async def _read(self, digest: bytes) -> bytes:
        try:
            found = await _answer(obstore.get_async(self._store, _path(digest)))
            return bytes(await _answer(found.bytes_async()))
        except FileNotFoundError as exc:
            raise NotFoundError(f"there is no blob {digest.hex()}") from exc

    def _sync(self, path: str) -> None:
        """LocalStore renames without fsync: a name could survive a power cut that its bytes did not."""
        file = self._directory / path
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            for folder in (file.parent, file.parent.parent, self._directory):
                sync_directory(folder)
        except OSError as exc:
            raise StoreUnavailableError("a blob was written, but may not survive a power cut") from exc


async def _answer(request: Awaitable[_T]) -> _T:
    """Bound the wait and name the failure; absence and existence are answers, not failures."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await request
    except (FileNotFoundError, AlreadyExistsError):
        raise
    except (OSError, BaseError) as exc:
        raise StoreUnavailableError("the blob store does not answer") from exc


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
