"""What the hashing of a release costs, whoever does it: every digest that must be computed, once, and nothing else.

    python -m bench.blob_hashing --image FILE --bundle FILE --root FILE [--times 5]

The SHA-256 of each blob on the wire; where a chunk was compressed, its decompression and the SHA-256 of what comes out
of it; and the SHA-256 of the whole image, which a device reads back. Hashing the same bytes twice is not necessary: it
counts as the fetcher's own time. Prints one JSON line: processor seconds for one device, ``chunks`` and ``image``.
"""

import argparse
import asyncio
import json
import time
from hashlib import sha256
from pathlib import Path

from zstandard import ZstdDecompressor

from bench.blob_release import BlobRelease, read_release


def hash_blobs(release: BlobRelease) -> float:
    compressed = [chunk for chunk in release.chunks if chunk.wire_size < chunk.raw_size]
    began = time.process_time()
    for blob in release.blobs.values():
        sha256(blob).digest()
    for chunk in compressed:
        raw = ZstdDecompressor().decompress(release.blobs[chunk.wire_digest], max_output_size=chunk.raw_size)
        sha256(raw).digest()
    return time.process_time() - began


def hash_image(image: bytes) -> float:
    began = time.process_time()
    sha256(image).digest()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    release = asyncio.run(read_release(options.image, options.bundle, options.root.read_bytes()))
    image = options.image.read_bytes()
    times = range(options.times)
    chunks = sum(hash_blobs(release) for _ in times) / options.times
    whole = sum(hash_image(image) for _ in times) / options.times
    print(json.dumps({"chunks": chunks, "image": whole}))


if __name__ == "__main__":
    main()
