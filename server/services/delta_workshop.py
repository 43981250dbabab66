"""Where a delta is made: its images out of the store, the delta in another process, its pieces back into the store.

A delta is cut as an image is, so that each of its pieces is authenticated by what the directive says of its index. It
is worth it when all of that is at least a tenth smaller than the chunks which a device lacks that runs the source, with
the index that tells it so.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from firmware_store.blobs import BlobStore
from firmware_store.bundle import BlobSink
from firmware_store.bundle_file import PIECE_BYTES
from firmware_store.chunks import Chunk, chunk_image, decode_index, decode_page
from firmware_store.deltas import Codec
from firmware_store.errors import StoreUnavailableError
from firmware_store.images import ImageReader
from firmware_store.suit import Component, Fetch

WORTH_IT: Final = 0.9
"""Of what a device fetches without the delta: a larger one is not worth the room it takes, and the second way."""

_PUT_AT_ONCE: Final = 32

MakeDelta = Callable[[Codec, Path, Path, Path], Awaitable[None]]
"""Writes the delta from the first file to the second one to the third."""


class Finished(NamedTuple):
    """A delta that is in the store, or none where ``fetch`` is None: it was not worth it.

    ``blobs``: digest -> size in bytes, of all its pieces. ``otherwise_bytes``: what a device fetches without it.
    """

    fetch: Fetch | None
    blobs: Mapping[bytes, int]
    otherwise_bytes: int

    @property
    def wire_bytes(self) -> int:
        """All that a device fetches of it."""
        return sum(self.blobs.values())


class Workshop:
    """``folder``: for what is needed on the way; all of it is gone after each delta, and before the first.

    Images come from ``store``, deltas go to ``sink``, which is the same place and minds its quota.
    """

    def __init__(self, *, store: BlobStore, sink: BlobSink, folder: Path, make: MakeDelta) -> None:
        self._store = store
        self._sink = sink
        self._folder = folder
        self._make = make

    async def clear(self) -> None:
        """Remove what an earlier process has left behind."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def make(self, codec: Codec, source: Component, target: Component) -> Finished:
        """Make the delta between two images, if it is worth it, and put it into the store.

        Raises:
            NotFoundError, DigestError, ManifestError: an image is not in the store as it was signed.
            DeltaError: it cannot be made.
            StoreUnavailableError: the store does not answer, or there is no room for the images on the disk.
            StoreFullError: there is no room for the delta in the store.
        """
        otherwise_bytes = await self._otherwise_bytes(source, target)
        async with self._bench() as bench:
            before, after, delta = bench / "source", bench / "target", bench / "delta"
            await self._write(source, before)
            await self._write(target, after)
            await self._make(codec, before, after, delta)
            fetch, blobs = await asyncio.to_thread(_measure, delta)
            if sum(blobs.values()) > WORTH_IT * otherwise_bytes:
                return Finished(None, blobs, otherwise_bytes)
            await self._keep(delta)
        return Finished(fetch, blobs, otherwise_bytes)

    async def _otherwise_bytes(self, source: Component, target: Component) -> int:
        """Return what a device that runs the source fetches of the target: the index, and the chunks it lacks."""
        have = {chunk.raw_digest async for _, chunks in self._pages(source) for chunk in chunks}
        total = target.fetch.index_size
        async for size, chunks in self._pages(target):
            total += size
            for chunk in chunks:
                if chunk.raw_digest not in have:
                    have.add(chunk.raw_digest)
                    total += chunk.wire_size
        return total

    async def _pages(self, image: Component) -> AsyncIterator[tuple[int, tuple[Chunk, ...]]]:
        """Yield the size of each page of an image's index, and its chunks."""
        for page in decode_index(await self._store.get(image.fetch.index_digest), image.fetch):
            data = await self._store.get(page.digest)
            yield page.size, await asyncio.to_thread(decode_page, data, page)

    @asynccontextmanager
    async def _bench(self) -> AsyncIterator[Path]:
        try:
            await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)
            bench = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._folder))
            try:
                yield bench
            finally:
                await asyncio.to_thread(shutil.rmtree, bench, ignore_errors=True)
        except OSError as exc:
            raise StoreUnavailableError(f"no delta can be made in {self._folder}: {exc.strerror}") from exc

    async def _write(self, image: Component, path: Path) -> None:
        reader = await ImageReader.open(self._store, image)
        with await asyncio.to_thread(path.open, "wb") as file:
            async for data in reader.read():
                await asyncio.to_thread(file.write, data)

    async def _keep(self, delta: Path) -> None:
        """Put every piece into the store, a batch at a time."""
        pieces = _cut(delta)
        while batch := await asyncio.to_thread(lambda: list(islice(pieces, _PUT_AT_ONCE))):
            await asyncio.gather(*(self._sink.put(digest, data) for digest, data in batch))


def _measure(delta: Path) -> tuple[Fetch, dict[bytes, int]]:
    """Return how a device fetches a delta, and the digests and sizes of all pieces; they are not held together."""
    with delta.open("rb") as file:
        image = chunk_image(iter(lambda: file.read(PIECE_BYTES), b""))
        blobs = {chunk.wire_digest: chunk.wire_size for chunk, _ in image}
    index = image.index()
    fetch = index.fetch
    pages = {page.digest: page.size for page in decode_index(index.root, fetch)}
    return fetch, {fetch.index_digest: fetch.index_size, **pages, **blobs}


def _cut(delta: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield every piece with its digest."""
    with delta.open("rb") as file:
        image = chunk_image(iter(lambda: file.read(PIECE_BYTES), b""))
        for chunk, wire in image:
            yield chunk.wire_digest, wire
    index = image.index()
    yield index.fetch.index_digest, index.root
    for page, data in zip(decode_index(index.root, index.fetch), index.pages, strict=True):
        yield page.digest, data
