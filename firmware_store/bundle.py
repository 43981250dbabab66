"""The bundle file, which is also what an upload sends: an envelope and the blobs it leads to, and no names at all.

    "TGB1" | length of the envelope, 4 bytes big-endian | envelope
    then for each component, in the order of the manifest: index root | its pages | its chunks, as they travel
    (for each of its slots, in their order, where a component has an image for each)

There is nothing else to frame: the manifest gives the size of the index root, the root those of its pages, a page those
of its chunks. So every byte is authenticated by what came before it, and whoever reads a bundle holds the pages of one
image (half a percent of it) and a batch of chunks, never the image.
"""

import asyncio
import sys
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from firmware_store.bundle_file import (
    HEAD_BYTES,
    PIECE_BYTES,
    build_bundle,
    envelope_size,
    read_envelope,
    readable,
    replace_envelope,
    write_bundle,
)
from firmware_store.chunks import Chunk, decode_index, decode_page, unpack_chunk
from firmware_store.digest_set import DigestSet
from firmware_store.errors import CodecError, ConflictError, DigestError, NotFoundError, TooLargeError
from firmware_store.images import BlobSource
from firmware_store.root import Root
from firmware_store.sparse import count_left_out
from firmware_store.status import Status
from firmware_store.suit import Component, VerifiedEnvelope, verify_envelope
from firmware_store.suit_values import DIGEST_BYTES

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = [
    "BlobSink",
    "ReceivedBundle",
    "build_bundle",
    "bundle_pieces",
    "read_envelope",
    "receive_bundle",
    "replace_envelope",
    "verify_bundle",
    "write_bundle",
]

_BATCH: Final = 32  # chunks that are verified and stored together: at most 2 MiB


class BlobSink(Protocol):
    """Where verified blobs go: a ``BlobStore``, or nothing but a check."""

    async def put(self, digest: bytes, data: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class ReceivedBundle:
    """A bundle of which every byte was verified; ``blobs`` are all its index roots, pages and chunks with their sizes.

    The envelope is as it was sent, with its description, and is not among the blobs.
    """

    envelope: bytes
    verified: VerifiedEnvelope
    blobs: Mapping[bytes, int]


async def receive_bundle(
    stream: AsyncIterable[bytes],
    *,
    root: Root,
    store: BlobSink,
    max_bytes: int,
    status: Status | None = None,
    known: BlobSource | None = None,
) -> ReceivedBundle:
    """Read a bundle to its end, and store each blob once it is verified. With a ``status``, no revoked one.

    With ``known``, blobs may be left out of the stream (``firmware_store.sparse``); they are read from there.

    No image byte is read before the envelope has its signatures. When this raises, blobs that were verified until then
    are in the store, and nothing refers to them; sending the bundle again goes on from them.

    Raises:
        CodecError: not a bundle, one that ends early, or bytes after its end.
        TooLargeError: more than ``max_bytes``.
        TrustError: the envelope is not to be trusted (see ``verify_envelope``), or a blob is not the one it names.
        ConflictError: a blob was left out that is not known, or not whole.
        StoreUnavailableError: the blobs cannot be stored.
    """
    source = _Source(stream, max_bytes, known)
    envelope = await source.read_envelope()
    verified = verify_envelope(envelope, root, status=status)
    blobs: dict[bytes, int] = {}
    for component in verified.manifest.components:
        for image in component.images().values():
            await _receive_image(source, image, store, blobs)
    await source.expect_end()
    return ReceivedBundle(envelope, verified, blobs)


async def verify_bundle(path: Path, root: Root, *, status: Status | None = None) -> ReceivedBundle:
    """Do all that ``receive_bundle`` does with a file, except storing it.

    Raises:
        ConfigurationError: the file cannot be read.
        CodecError, TrustError: see ``receive_bundle``.
    """
    pieces = bundle_pieces(path)
    return await receive_bundle(pieces, root=root, store=_Nowhere(), max_bytes=sys.maxsize, status=status)


async def bundle_pieces(path: Path) -> AsyncIterator[bytes]:
    """Yield a file piece by piece, for an upload.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    with readable(path) as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


class _Nowhere:
    async def put(self, digest: bytes, data: bytes) -> bool:  # noqa: ARG002 - the check has been made
        return False


class _Source:
    """A stream that is read in exact sizes and never beyond its limit."""

    def __init__(self, stream: AsyncIterable[bytes], max_bytes: int, known: BlobSource | None) -> None:
        self._pieces = aiter(stream)
        self._max_bytes = max_bytes
        self._received = 0
        self._buffer = bytearray()
        self._known = known
        self._left_out = DigestSet(b"")

    async def read_envelope(self) -> bytes:
        head = await self.read(HEAD_BYTES)
        count = None if self._known is None else count_left_out(head)
        if count is not None:
            digests = await self.read(count * DIGEST_BYTES)
            self._left_out = await asyncio.to_thread(DigestSet, digests)
            head = await self.read(HEAD_BYTES)
        return await self.read(envelope_size(head))

    async def read_blob(self, digest: bytes, size: int) -> bytes:
        """Return the bytes where the blob ``digest`` comes in the bundle; what they are is checked by the caller."""
        if self._known is None or digest not in self._left_out:
            return await self.read(size)
        self._count(size)
        try:
            return await self._known.get(digest)
        except (NotFoundError, DigestError) as exc:
            raise ConflictError(
                f"The upload leaves out blob {digest.hex()}, which is not here: send it again."
            ) from exc

    async def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not await self._fill():
                raise CodecError("the bundle ends early")
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def expect_end(self) -> None:
        while not self._buffer and await self._fill():
            pass
        if self._buffer:
            raise CodecError("bytes after the end of the bundle")

    async def _fill(self) -> bool:
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            return False
        self._count(len(piece))
        self._buffer += piece
        return True

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > self._max_bytes:
            raise TooLargeError(f"a bundle may have {self._max_bytes} bytes at most", limit_bytes=self._max_bytes)


async def _receive_image(source: _Source, component: Component, store: BlobSink, blobs: dict[bytes, int]) -> None:
    fetch = component.fetch
    root = await source.read_blob(fetch.index_digest, fetch.index_size)
    pages = decode_index(root, fetch)
    await _store({fetch.index_digest: root}, store, blobs)
    listed: list[bytes] = []
    for page in pages:
        data = await source.read_blob(page.digest, page.size)
        listed.append(data)
        # Decoding checks the page; the chunks are not kept, since they take ten times the memory.
        await asyncio.to_thread(decode_page, data, page)
        await _store({page.digest: data}, store, blobs)
    digest, size = sha256(), 0
    for page, data in zip(pages, listed, strict=True):
        chunks = await asyncio.to_thread(decode_page, data, page)
        size += sum(chunk.raw_size for chunk in chunks)
        for at in range(0, len(chunks), _BATCH):
            batch = chunks[at : at + _BATCH]
            wires = [await source.read_blob(chunk.wire_digest, chunk.wire_size) for chunk in batch]
            await asyncio.to_thread(_unpack_into, digest, batch, wires)
            await _store({chunk.wire_digest: wire for chunk, wire in zip(batch, wires, strict=True)}, store, blobs)
    if (digest.digest(), size) != (component.image_digest, component.image_size):
        raise DigestError(f"the chunks of component {component.name} do not add up to the image that was signed")


def _unpack_into(digest: "_Hash", chunks: Sequence[Chunk], wires: Sequence[bytes]) -> None:
    for chunk, wire in zip(chunks, wires, strict=True):
        digest.update(unpack_chunk(chunk, wire))


async def _store(verified: Mapping[bytes, bytes], store: BlobSink, blobs: dict[bytes, int]) -> None:
    """Put blobs side by side: each put waits for the disk."""
    new = {digest: data for digest, data in verified.items() if digest not in blobs}
    try:
        async with asyncio.TaskGroup() as group:
            for digest, data in new.items():
                group.create_task(store.put(digest, data), name="bundle-put")
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    blobs.update((digest, len(data)) for digest, data in new.items())
