"""A release of one image, and the blobs that it travels as."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from firmware_store.bundle import build_bundle, bundle_pieces, read_envelope, receive_bundle, replace_envelope
from firmware_store.chunks import Chunk, decode_index, decode_page
from firmware_store.keys import load_key
from firmware_store.root import open_root
from firmware_store.suit import VerifiedEnvelope, parse_version, sign_envelope

VENDOR: Final = "bench.tidegate.dev"
HARDWARE: Final = "bench-1"


class Memory:
    """A blob store that is a dictionary."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}

    async def put(self, digest: bytes, data: bytes) -> bool:
        is_new = digest not in self.blobs
        self.blobs[digest] = data
        return is_new


@dataclass(frozen=True, slots=True)
class BlobRelease:
    """``blobs`` by digest: envelope, index, pages and chunks, which are all that a device fetches."""

    bundle: Path
    image: Path
    envelope: bytes
    verified: VerifiedEnvelope
    blobs: dict[bytes, bytes]
    chunks: tuple[Chunk, ...]

    @property
    def wire_bytes(self) -> int:
        return sum(map(len, self.blobs.values()))


def build_release(image: Path, *, keys: Path, output: Path, sequence: int) -> None:
    """Build a bundle of one image, and sign it with both release keys."""
    build_bundle(
        output,
        images={"app": image},
        vendor=VENDOR,
        models=[HARDWARE],
        version=parse_version(f"1.{sequence}.0"),
        sequence_number=sequence,
        description="bench",
    )
    envelope = read_envelope(output)
    for name in ("release-1.pem", "release-2.pem"):
        envelope = sign_envelope(envelope, load_key(keys / name, None))
    replace_envelope(output, envelope)


async def read_release(image: Path, bundle: Path, root: bytes) -> BlobRelease:
    """Take a bundle apart, as a server does."""
    store = Memory()
    received = await receive_bundle(
        bundle_pieces(bundle), root=open_root(root, now=None), store=store, max_bytes=1 << 32
    )
    (component,) = received.verified.manifest.components
    pages = decode_index(store.blobs[component.fetch.index_digest], component.fetch)
    chunks = tuple(chunk for page in pages for chunk in decode_page(store.blobs[page.digest], page))
    blobs = {**store.blobs, sha256(received.envelope).digest(): received.envelope}
    return BlobRelease(bundle, image, received.envelope, received.verified, blobs, chunks)
