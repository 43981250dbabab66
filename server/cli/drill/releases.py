"""The drill's releases: small images, signed by whoever the drill says, and the forgeries a thief makes of them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from firmware_store.bundle import build_bundle, bundle_pieces, read_envelope, receive_bundle, replace_envelope
from firmware_store.codec import Tag, decode, encode
from firmware_store.cose import sign1
from firmware_store.errors import CodecError
from firmware_store.keys import SigningKey
from firmware_store.root import Root
from firmware_store.suit import open_envelope, parse_version, sign_envelope
from server.protocol.orders import Envelope

VENDOR: Final = "drill.tidegate.dev"
HARDWARE: Final = "gw100-rev-b"
OTHER_HARDWARE: Final = "gw200-rev-a"
SIZES: Final = {"app": 48 << 10, "rootfs": 96 << 10}
"""Bytes of each component: a few chunks, so that there is something to swap."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release, good or forged: what a directive names, and the blobs that a broker would be asked for."""

    version: str
    sequence_number: int
    manifest_digest: bytes
    envelope: bytes
    blobs: Mapping[bytes, bytes]
    images: frozenset[bytes] = frozenset()
    """SHA-256 of each image."""
    bundle: Path | None = None

    @property
    def named(self) -> Envelope:
        return Envelope(sha256(self.envelope).digest(), len(self.envelope))

    @property
    def chunks(self) -> list[bytes]:
        """The blobs that are pieces of an image: the largest ones."""
        return sorted(self.blobs, key=lambda digest: (len(self.blobs[digest]), digest))[-8:]


class Shelf:
    """Keeps in memory the blobs of a bundle that was verified."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}

    async def put(self, digest: bytes, data: bytes) -> bool:
        self.blobs[digest] = data
        return True


def write_images(folder: Path, version: str) -> dict[str, Path]:
    """Write the images of a version: the same bytes at every run, others for every version."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for name, size in SIZES.items():
        images[name] = folder / f"{name}-{version}.img"
        images[name].write_bytes(random.Random(f"{name} {version}").randbytes(size))
    return images


async def make_release(
    folder: Path, version: str, sequence: int, *, root: Root, signers: Sequence[SigningKey], hardware: str = HARDWARE
) -> Release:
    """Build a bundle and sign it as two people would; its blobs are read back through every check there is."""
    path = folder / f"{version}.tgb"
    images = write_images(folder, version)
    build_bundle(
        path,
        images=images,
        vendor=VENDOR,
        models=[hardware],
        version=parse_version(version),
        sequence_number=sequence,
        description=f"drill release {version}",
    )
    envelope = read_envelope(path)
    for signer in signers:
        envelope = sign_envelope(envelope, signer)
    replace_envelope(path, envelope)
    shelf = Shelf()
    received = await receive_bundle(bundle_pieces(path), root=root, store=shelf, max_bytes=1 << 24)
    digests = frozenset(sha256(image.read_bytes()).digest() for image in images.values())
    return with_envelope(
        Release(version, sequence, received.verified.digest, b"", shelf.blobs, digests, path), envelope
    )


def signed_by(release: Release, signers: Sequence[SigningKey]) -> Release:
    """The same manifest with other signatures: also twice by one key, which no honest tool would add."""
    match decode(release.envelope):
        case Tag(107, dict(members)):
            signed = open_envelope(release.envelope).signed
            blocks = [sign1(signer, signed, typ=None) for signer in signers]
            return with_envelope(release, encode(Tag(107, {**members, 2: encode([signed, *blocks])})))
    raise CodecError("not an envelope")


def with_envelope(release: Release, envelope: bytes) -> Release:
    """Put another envelope to the blobs."""
    blobs = {**release.blobs, sha256(envelope).digest(): envelope}
    return replace(release, envelope=envelope, blobs=blobs)


def with_chunks_of(release: Release, other: Release) -> Release:
    """Under the digests of one release's chunks, the chunks of another: what a poisoned mirror would serve."""
    swapped = dict(zip(release.chunks, (other.blobs[digest] for digest in other.chunks), strict=True))
    return replace(release, blobs={**release.blobs, **swapped})


def with_chunks_exchanged(release: Release) -> Release:
    """Two genuine chunks of one release in each other's place."""
    one, other = release.chunks[-2:]
    return replace(release, blobs={**release.blobs, one: release.blobs[other], other: release.blobs[one]})
