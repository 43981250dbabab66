"""Making a backup: the database in one snapshot, then the blobs that this snapshot refers to.

The server may go on meanwhile: what it adds is not in the snapshot, and blobs that anything refers to are not cleared.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import IO, Final, NamedTuple

import zstandard

from firmware_store.blobs import BlobStore
from firmware_store.errors import DigestError, NotFoundError
from server.db.dump import Snapshot, taking_snapshot
from server.db.snapshot_tables import TableShape
from server.services.backup.archive import MANIFEST, SEAL, Writer, writing
from server.services.backup.manifest import BLOB_INDEX, BLOBS, FORMAT, Blobs, Manifest, Migrated, Table, seal

AT_ONCE: Final = 16
"""Blobs that are read side by side."""

SIZE_BYTES: Final = 8

Tell = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and of how much."""


class Made(NamedTuple):
    """``sha256`` stands for every byte of it: whoever keeps it elsewhere knows whether a backup was altered."""

    manifest: Manifest
    sha256: str


def tell_nobody(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


async def make_backup(
    url: str, store: BlobStore, path: Path, *, with_blobs: bool = True, tell: Tell = tell_nobody
) -> Made:
    """Write a backup to ``path``, a new folder or a new file that ends in ``.zip``.

    Raises:
        ConflictError: there is something at ``path``.
        ConfigurationError: it cannot be written there; or the database refuses us.
        StoreUnavailableError: the database or the store does not answer. What was written is no backup.
    """
    with writing(path) as writer:
        async with taking_snapshot(url) as snapshot:
            tables = await _write_tables(snapshot, writer, tell)
            migrations = await snapshot.migrations()
            sequences = await snapshot.sequences()
            referenced = await snapshot.referenced()
            taken_at = snapshot.taken_at.astimezone(UTC)
        blobs = await _write_blobs(store, referenced, writer, tell, with_blobs=with_blobs)
        manifest = Manifest(
            format=FORMAT,
            taken_at=taken_at,
            migrations=[
                Migrated(version=one.version, name=one.name, checksum=one.checksum.hex()) for one in migrations
            ],
            tables=tables,
            sequences=sequences,
            blobs=blobs,
        )
        data, sha256 = seal(manifest)
        with writer.part(MANIFEST) as file:
            file.write(data)
        with writer.part(SEAL) as file:
            file.write(f"{sha256}\n".encode())
    return Made(manifest, sha256)


async def _write_tables(snapshot: Snapshot, writer: Writer, tell: Tell) -> list[Table]:
    shapes = await snapshot.tables()
    tables = []
    for number, shape in enumerate(shapes):
        tell("tables", number, len(shapes))
        tables.append(await _write_table(snapshot, shape, writer))
    tell("tables", len(shapes), len(shapes))
    return tables


async def _write_table(snapshot: Snapshot, shape: TableShape, writer: Writer) -> Table:
    table = Table(name=shape.name, columns=list(shape.columns), rows=0, size_bytes=0, sha256="0" * 64)
    size = 0
    with writer.part(table.part) as file, _compressing(file) as (write, digest):

        async def take(data: bytes) -> None:
            nonlocal size
            size += len(data)
            await write(data)

        rows = await snapshot.read(shape, take)
    return table.model_copy(update={"rows": rows, "size_bytes": size, "sha256": digest()})


@contextmanager
def _compressing(file: IO[bytes]) -> Iterator[tuple[Callable[[bytes], Coroutine[None, None, None]], Callable[[], str]]]:
    """Give a function that takes what to compress, and one that returns the digest of what came out, at the end."""
    digest = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()

    def put(data: bytes) -> None:
        packed = compressor.compress(data)
        digest.update(packed)
        file.write(packed)

    async def write(data: bytes) -> None:
        await asyncio.to_thread(put, data)

    yield write, digest.hexdigest
    last = compressor.flush()
    digest.update(last)
    file.write(last)


async def _write_blobs(
    store: BlobStore, digests: Sequence[bytes], writer: Writer, tell: Tell, *, with_blobs: bool
) -> Blobs:
    index, missing, size = bytearray(), list[str](), 0

    async def read(digest: bytes) -> bytes | None:
        try:
            return await store.get(digest)
        except (NotFoundError, DigestError):
            return None

    async def find(digest: bytes) -> tuple[int | None, bytes]:
        """Return a blob's size and bytes, or its size alone where they are not wanted; None: it is not there whole."""
        if not with_blobs:
            return await store.size(digest), b""
        data = await read(digest)
        return (None, b"") if data is None else (len(data), data)

    with writer.part(BLOBS) as file:
        for start in range(0, len(digests), AT_ONCE):
            tell("blobs", start, len(digests))
            batch = digests[start : start + AT_ONCE]
            found = await asyncio.gather(*map(find, batch))
            for digest, (blob_size, _) in zip(batch, found, strict=True):
                if blob_size is None:
                    missing.append(digest.hex())
                else:
                    index += digest + blob_size.to_bytes(SIZE_BYTES, "big")
                    size += blob_size
            await asyncio.to_thread(file.write, b"".join(data for _, data in found))
    tell("blobs", len(digests), len(digests))
    with writer.part(BLOB_INDEX) as file:
        file.write(index)
    return Blobs(
        count=len(digests) - len(missing),
        size_bytes=size,
        index_sha256=hashlib.sha256(index).hexdigest(),
        kept=with_blobs,
        missing=missing,
    )
