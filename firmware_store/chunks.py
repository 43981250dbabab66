"""Images cut into chunks, and the two-level index that authenticates each chunk before anything decompresses it.

The manifest names the index root by digest; the root lists pages, a page lists chunks. Root, pages and chunks are blobs
of their own, each named by the SHA-256 of its bytes on the wire, so that equal chunks of two releases are one blob.

    root  [[page digest, page size, chunk count], ...]
    page  [[wire digest, wire size, raw digest, raw size], ...]     CHUNKS_PER_PAGE of them, fewer in the last page

The manifest's profile says where an image is cut (``firmware_store.cutting``). On the wire a chunk is one zstd frame
when that is smaller, else it is the raw bytes: ``wire_size < raw_size`` says which.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import zstandard

from firmware_store.codec import Encodable, Value, decode, encode
from firmware_store.cutting import cut
from firmware_store.errors import CodecError, ConflictError, DigestError, ManifestError
from firmware_store.shapes import as_bytes, as_int, as_list
from firmware_store.suit_values import (
    CHUNK_BYTES,
    CHUNK_SIZES,
    DIGEST_BYTES,
    MAX_IMAGE_BYTES,
    MAX_INDEX_BYTES,
    ChunkProfile,
    Fetch,
)

# An entry of a page takes at most 75 bytes: this many of them stay below 64 KiB.
CHUNKS_PER_PAGE: Final = 864
# A size of 64 KiB takes two bytes more, and an entry has two of them: this many of 79 bytes stay below 64 KiB.
_CDC_CHUNKS_PER_PAGE: Final = 820
MAX_PAGES: Final = -(-MAX_IMAGE_BYTES // (CHUNK_BYTES * CHUNKS_PER_PAGE))

_ZSTD_LEVEL: Final = 12


@dataclass(frozen=True, slots=True)
class Chunk:
    """``wire_digest`` names the blob; ``raw_digest`` finds the same bytes in a slot that has them already."""

    wire_digest: bytes
    wire_size: int
    raw_digest: bytes
    raw_size: int


@dataclass(frozen=True, slots=True)
class Page:
    """``first_chunk`` is the number of its first chunk within the image; ``is_last`` allows a short last chunk.

    ``profile`` is the image's, and says how long the chunks may be.
    """

    digest: bytes
    size: int
    chunk_count: int
    first_chunk: int
    is_last: bool
    profile: ChunkProfile = ChunkProfile.FIXED


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """What a release says about one image, and the blobs that say it: the index root and its pages."""

    image_digest: bytes
    image_size: int
    fetch: Fetch
    root: bytes
    pages: tuple[bytes, ...]


class ChunkedImage:
    """Iterate it once for the chunks with their wire bytes, then ask for the index. Holds one chunk at a time."""

    def __init__(self, stream: Iterable[bytes], profile: ChunkProfile) -> None:
        self._profile = profile
        self._page_chunks = _CDC_CHUNKS_PER_PAGE if profile is ChunkProfile.CDC else CHUNKS_PER_PAGE
        self._chunks = self._cut(stream)
        self._chunk_count = 0
        self._size = 0
        self._digest = sha256()
        self._rows: list[Encodable] = []
        self._pages: list[bytes] = []
        self._root: list[Encodable] = []
        self._complete = False

    def __iter__(self) -> Iterator[tuple[Chunk, bytes]]:
        return self._chunks

    def index(self) -> ImageIndex:
        """Return the index of the whole image.

        Raises:
            ConflictError: there are chunks left.
        """
        if not self._complete:
            raise ConflictError("the index is known after the last chunk")
        root = encode(self._root)
        fetch = Fetch(sha256(root).digest(), len(root), self._chunk_count, self._profile)
        return ImageIndex(self._digest.digest(), self._size, fetch, root, tuple(self._pages))

    def _cut(self, stream: Iterable[bytes]) -> Iterator[tuple[Chunk, bytes]]:
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True, write_checksum=False)
        for raw in cut(stream, self._profile):
            self._size += len(raw)
            if self._size > MAX_IMAGE_BYTES:
                raise ManifestError(f"an image has at most {MAX_IMAGE_BYTES} bytes")
            self._digest.update(raw)
            packed = compressor.compress(raw)
            wire = packed if len(packed) < len(raw) else raw
            chunk = Chunk(sha256(wire).digest(), len(wire), sha256(raw).digest(), len(raw))
            self._list(chunk)
            yield chunk, wire
        if not self._size:
            raise ManifestError("an image has at least one byte")
        self._close_page()
        self._complete = True

    def _list(self, chunk: Chunk) -> None:
        if len(self._rows) == self._page_chunks:
            self._close_page()
        self._rows.append([chunk.wire_digest, chunk.wire_size, chunk.raw_digest, chunk.raw_size])
        self._chunk_count += 1

    def _close_page(self) -> None:
        if len(self._pages) == MAX_PAGES:
            raise ManifestError(f"more chunks than an index lists after {self._size} bytes: take larger ones")
        page = encode(self._rows)
        self._pages.append(page)
        self._root.append([sha256(page).digest(), len(page), len(self._rows)])
        self._rows.clear()


def chunk_image(stream: Iterable[bytes], profile: ChunkProfile = ChunkProfile.FIXED) -> ChunkedImage:
    """Cut an image that comes in pieces of any size.

    Raises:
        ManifestError: while iterating, for an image without bytes, with more than MAX_IMAGE_BYTES, or with more chunks
            than MAX_PAGES list.
    """
    return ChunkedImage(stream, profile)


def decode_index(data: bytes, fetch: Fetch) -> tuple[Page, ...]:
    """Return the pages that an index root lists.

    Raises:
        DigestError: not the bytes that ``fetch`` names.
        ManifestError: those bytes, but pages that cannot add up to the image's chunks.
    """
    _check(data, fetch.index_digest, fetch.index_size, "index")
    pages: list[Page] = []
    first = 0
    try:
        rows = as_list(decode(data, max_bytes=MAX_INDEX_BYTES), "index", least=1, most=MAX_PAGES)
        for number, row in enumerate(rows, start=1):
            digest, size, count = as_list(row, "index entry", least=3, most=3)
            page = Page(
                digest=as_bytes(digest, "page digest", size=DIGEST_BYTES),
                size=as_int(size, "page size", least=1, most=MAX_INDEX_BYTES),
                chunk_count=as_int(count, "chunks in a page", least=1, most=CHUNKS_PER_PAGE),
                first_chunk=first,
                is_last=number == len(rows),
                profile=fetch.profile,
            )
            pages.append(page)
            first += page.chunk_count
    except CodecError as exc:
        raise ManifestError(f"an index outside of our profile: {exc}") from exc
    if first != fetch.chunk_count:
        raise ManifestError(f"the index lists {first} chunks where the manifest has {fetch.chunk_count}")
    return tuple(pages)


def decode_page(data: bytes, page: Page) -> tuple[Chunk, ...]:
    """Return the chunks that a page lists, in the order of the image.

    Raises:
        DigestError: not the bytes that the index root names.
        ManifestError: those bytes, but sizes that no image of ours has.
    """
    _check(data, page.digest, page.size, "index page")
    sizes = CHUNK_SIZES[page.profile]
    try:
        rows = as_list(decode(data, max_bytes=MAX_INDEX_BYTES), "index page", least=page.chunk_count)
        chunks = tuple(_read_chunk(row, sizes.most_bytes) for row in rows)
    except CodecError as exc:
        raise ManifestError(f"an index page outside of our profile: {exc}") from exc
    whole = chunks[:-1] if page.is_last else chunks
    if len(chunks) != page.chunk_count or any(chunk.raw_size < sizes.least_bytes for chunk in whole):
        raise ManifestError("an index page whose chunks do not have the sizes of its profile")
    return chunks


def unpack_chunk(chunk: Chunk, wire: bytes) -> bytes:
    """Return the raw bytes of a chunk; nothing is decompressed that the index does not name.

    Raises:
        DigestError: other bytes than those, on the wire or after decompression.
    """
    _check(wire, chunk.wire_digest, chunk.wire_size, "chunk")
    return unpack_verified(chunk, wire)


def unpack_verified(chunk: Chunk, wire: bytes) -> bytes:
    """Return the raw bytes of a chunk whose size and digest on the wire were found to be right before.

    Raises:
        DigestError: other bytes than those that are signed come out of it.
    """
    if chunk.wire_digest == chunk.raw_digest:
        return wire  # it travels as it is, and was hashed
    raw = _decompress(wire, chunk.raw_size)
    _check(raw, chunk.raw_digest, chunk.raw_size, "decompressed chunk")
    return raw


def _check(data: bytes, digest: bytes, size: int, what: str) -> None:
    if len(data) != size:
        raise DigestError(f"{what} {digest.hex()} has {len(data)} bytes where {size} are signed")
    if sha256(data).digest() != digest:
        raise DigestError(f"these are not the bytes of {what} {digest.hex()}")


def _read_chunk(row: Value, most_bytes: int) -> Chunk:
    wire_digest, wire_size, raw_digest, raw_size = as_list(row, "index page entry", least=4, most=4)
    chunk = Chunk(
        wire_digest=as_bytes(wire_digest, "wire digest", size=DIGEST_BYTES),
        wire_size=as_int(wire_size, "wire size", least=1, most=most_bytes),
        raw_digest=as_bytes(raw_digest, "raw digest", size=DIGEST_BYTES),
        raw_size=as_int(raw_size, "raw size", least=1, most=most_bytes),
    )
    is_raw = chunk.wire_size == chunk.raw_size
    if chunk.wire_size > chunk.raw_size or is_raw != (chunk.wire_digest == chunk.raw_digest):
        raise CodecError("a chunk that is neither smaller on the wire nor the same there")
    return chunk


def _decompress(wire: bytes, raw_size: int) -> bytes:
    """Decompress one frame whose header promises ``raw_size`` bytes: the library allocates what the header says."""
    try:
        if zstandard.get_frame_parameters(wire).content_size != raw_size:
            raise DigestError(f"a compressed chunk that does not promise the {raw_size} bytes that are signed")
        return zstandard.ZstdDecompressor().decompress(wire, max_output_size=raw_size, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise DigestError("a chunk that cannot be decompressed") from exc
