"""Bundles without what the receiver has already: the second try of an upload, or a release much like the one before.

    "TGS1" | how many digests, 4 bytes big-endian | the digests, 32 bytes each, sorted, each once
    then the bundle, in which the bytes of these blobs are left out wherever they would come

The receiver reads them from its own store, and verifies them as if they had been sent.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from firmware_store.bundle_file import HEAD_BYTES, PIECE_BYTES, envelope_size, readable
from firmware_store.chunks import decode_index, decode_page
from firmware_store.digest_set import DigestSet
from firmware_store.errors import CodecError
from firmware_store.suit import open_envelope

MAGIC: Final = b"TGS1"
MOST: Final = 1 << 20
"""Digests that may be left out: as many as the largest image has chunks."""


class Listed(NamedTuple):
    """Where a blob is in a bundle file. A chunk that an image has twice is listed twice."""

    digest: bytes
    offset: int
    size: int


def list_blobs(path: Path) -> Iterator[Listed]:
    """Yield the blobs of a bundle in their order; only the indexes are read, and nothing but their digests verified.

    Raises:
        ConfigurationError: the file cannot be read.
        CodecError, TrustError: not a bundle.
    """
    with readable(path) as file:
        at = HEAD_BYTES + envelope_size(file.read(HEAD_BYTES))
        file.seek(HEAD_BYTES)
        manifest, _ = open_envelope(file.read(at - HEAD_BYTES)).read()
        for component in manifest.components:
            for image in component.images().values():
                fetch = image.fetch
                file.seek(at)
                pages = decode_index(file.read(fetch.index_size), fetch)
                yield Listed(fetch.index_digest, at, fetch.index_size)
                at += fetch.index_size
                first_page = at
                for page in pages:
                    yield Listed(page.digest, at, page.size)
                    at += page.size
                page_at = first_page
                for page in pages:
                    file.seek(page_at)
                    for chunk in decode_page(file.read(page.size), page):
                        yield Listed(chunk.wire_digest, at, chunk.wire_size)
                        at += chunk.wire_size
                    page_at += page.size


def sparse_size(path: Path, known: DigestSet) -> int:
    """Return how many bytes ``sparse_pieces`` yields. Raises as ``list_blobs`` does."""
    left_out = sum(blob.size for blob in list_blobs(path) if blob.digest in known)
    return HEAD_BYTES + len(known.data) + path.stat().st_size - left_out


async def sparse_pieces(path: Path, known: DigestSet) -> AsyncIterator[bytes]:
    """Yield a bundle file without the blobs of ``known``, at most MOST. Raises as ``list_blobs`` does."""
    yield MAGIC + len(known).to_bytes(HEAD_BYTES - len(MAGIC), "big") + known.data
    with readable(path) as file:
        begin = 0
        for blob in list_blobs(path):
            if blob.digest in known:
                async for piece in _pieces(file.fileno(), begin, blob.offset):
                    yield piece
                begin = blob.offset + blob.size
        async for piece in _pieces(file.fileno(), begin, os.fstat(file.fileno()).st_size):
            yield piece


def count_left_out(head: bytes) -> int | None:
    """Return how many digests follow the first HEAD_BYTES of a sparse bundle; None: these begin a whole one.

    Raises:
        CodecError: more than MOST.
    """
    if not head.startswith(MAGIC):
        return None
    count = int.from_bytes(head[len(MAGIC) :], "big")
    if count > MOST:
        raise CodecError(f"a sparse bundle leaves out {MOST} blobs at most")
    return count


async def _pieces(descriptor: int, begin: int, end: int) -> AsyncIterator[bytes]:
    while begin < end:
        piece = await asyncio.to_thread(os.pread, descriptor, min(PIECE_BYTES, end - begin), begin)
        if not piece:
            raise CodecError("the bundle ends early")
        yield piece
        begin += len(piece)
