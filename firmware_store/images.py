"""Images read out of the chunks that a store has of them, from any byte on, without ever holding one whole."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate
from typing import Final, Protocol, Self

from firmware_store.chunks import Chunk, Page, decode_index, decode_page, unpack_chunk
from firmware_store.errors import DigestError
from firmware_store.suit_values import Component

AT_ONCE: Final = 4
"""Chunks that are read side by side and given out as one piece: at most 256 KiB."""


class BlobSource(Protocol):
    """Where verified blobs come from; a ``BlobStore``."""

    async def get(self, digest: bytes) -> bytes: ...


class ImageReader:
    """One image. It holds where each page of its index begins, and nothing of the image."""

    def __init__(self, source: BlobSource, pages: Sequence[Page], starts: Sequence[int]) -> None:
        self._source = source
        self._pages = pages
        self._starts = starts
        self.size = starts[-1]

    @classmethod
    async def open(cls, source: BlobSource, image: Component) -> Self:
        """Read the whole index once, since chunks may be of any size; page by page.

        Raises:
            NotFoundError, DigestError, ManifestError: the index is not in the store as it was signed.
            StoreUnavailableError: no answer.
        """
        pages = decode_index(await source.get(image.fetch.index_digest), image.fetch)
        sizes = [sum(chunk.raw_size for chunk in await _read_page(source, page)) for page in pages]
        starts = tuple(accumulate(sizes, initial=0))
        if starts[-1] != image.image_size:
            raise DigestError(f"the index of component {image.name} is not that of the image that was signed")
        return cls(source, pages, starts)

    async def read(self, first: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from ``first`` up to ``end`` (not included; default: the image's end), each chunk checked.

        Raises:
            NotFoundError, DigestError: a chunk is missing or damaged; what was yielded is good.
            StoreUnavailableError: no answer.
        """
        end = self.size if end is None else min(end, self.size)
        number = bisect_right(self._starts, first) - 1
        while number < len(self._pages) and self._starts[number] < end:
            at = self._starts[number]
            wanted: list[tuple[int, Chunk]] = []
            for chunk in await _read_page(self._source, self._pages[number]):
                if at < end and first < at + chunk.raw_size:
                    wanted.append((at, chunk))
                at += chunk.raw_size
            for some in range(0, len(wanted), AT_ONCE):
                batch = wanted[some : some + AT_ONCE]
                start = batch[0][0]
                data = await self._unpack([chunk for _, chunk in batch])
                yield data[max(0, first - start) : end - start]
            number += 1

    async def _unpack(self, chunks: Sequence[Chunk]) -> bytes:
        wires = await asyncio.gather(*(self._source.get(chunk.wire_digest) for chunk in chunks))
        return await asyncio.to_thread(lambda: b"".join(map(unpack_chunk, chunks, wires)))


async def _read_page(source: BlobSource, page: Page) -> tuple[Chunk, ...]:
    return await asyncio.to_thread(decode_page, await source.get(page.digest), page)
