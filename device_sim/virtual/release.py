"""A release as a virtual fleet fetches it: really signed and really cut, and small whatever its size is said to be.

How long a download takes is computed from the size that the scenario gives, so the bytes themselves need not be many.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from device_sim.virtual.authority import Authority
from firmware_store.chunks import chunk_image
from firmware_store.codec import encode
from firmware_store.suit import Component, build_envelope, build_manifest, class_id, parse_version, vendor_id
from server.domain.identity import HardwareClass
from server.protocol.orders import Envelope

COMPONENT: Final = "app"
VENDOR: Final = "tidegate.example"
IMAGE_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class VirtualRelease:
    """``size_bytes``: what a device's line has to carry. ``chunks``: the digests of the blobs that stand for that."""

    version: str
    size_bytes: int
    sequence_number: int
    manifest_digest: bytes
    envelope: Envelope
    blobs: dict[bytes, bytes]
    chunks: frozenset[bytes]


def make_release(
    authority: Authority,
    *,
    version: str,
    size_bytes: int,
    sequence_number: int,
    hardware: tuple[str, ...],
    strangers: bool = False,
    wrong_digest: bool = False,
) -> VirtualRelease:
    """Return a release for these hardware classes; ``strangers`` have signed it, or its image is ``wrong_digest``."""
    chunked = chunk_image([_picture(version)])
    blobs = {piece.wire_digest: wire for piece, wire in chunked}
    chunks = frozenset(blobs)
    index = chunked.index()
    blobs |= {sha256(blob).digest(): blob for blob in (index.root, *index.pages)}
    image_digest = sha256(b"another image").digest() if wrong_digest else index.image_digest
    vendor = vendor_id(VENDOR)
    manifest = build_manifest(
        sequence_number=sequence_number,
        version=parse_version(version),
        vendor_id=vendor,
        class_ids=[class_id(vendor, HardwareClass(name)) for name in hardware],
        components=[Component(COMPONENT, image_digest, index.image_size, index.fetch)],
    )
    envelope = authority.sign_release(build_envelope(manifest), strangers=strangers)
    digest = sha256(envelope).digest()
    blobs[digest] = envelope
    return VirtualRelease(
        version=version,
        size_bytes=size_bytes,
        sequence_number=sequence_number,
        manifest_digest=sha256(encode(manifest)).digest(),
        envelope=Envelope(digest, len(envelope)),
        blobs=blobs,
        chunks=chunks,
    )


def _picture(version: str) -> bytes:
    """Bytes that are another image for each version."""
    return sha256(version.encode()).digest() * (IMAGE_BYTES // 32)
