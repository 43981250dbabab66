"""The release that a device is examined with, in memory: its envelope, and the blobs that it leads to."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from firmware_store.bundle import bundle_pieces, receive_bundle
from firmware_store.root import Root
from server.protocol.orders import Envelope

BUNDLE_MOST_BYTES: Final = 64 << 20
"""It is held in memory, and retained by the broker."""


@dataclass(frozen=True, slots=True)
class Release:
    """``blobs``: by their SHA-256, the envelope among them."""

    envelope: bytes = field(repr=False)
    manifest_digest: bytes
    sequence_number: int
    blobs: dict[bytes, bytes] = field(repr=False)

    @property
    def named(self) -> Envelope:
        """Return what an offer says of it."""
        return Envelope(hashlib.sha256(self.envelope).digest(), len(self.envelope))


class _Memory:
    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}

    async def put(self, digest: bytes, data: bytes) -> bool:
        is_new = digest not in self.blobs
        self.blobs[digest] = data
        return is_new


async def read_release(path: Path, root: Root) -> Release:
    """Read a bundle file, every byte of it verified.

    Raises:
        ConfigurationError: it cannot be read.
        CodecError, TooLargeError, TrustError: it is no bundle of this fleet, or too large.
    """
    memory = _Memory()
    received = await receive_bundle(bundle_pieces(path), root=root, store=memory, max_bytes=BUNDLE_MOST_BYTES)
    manifest = received.verified.manifest
    blobs = {**memory.blobs, hashlib.sha256(received.envelope).digest(): received.envelope}
    return Release(received.envelope, manifest.digest, manifest.sequence_number, blobs)
