"""Chunks and their index: nothing is decompressed, and nothing is accepted, that the manifest does not lead to."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import zstandard

from firmware_store.chunks import (
    CHUNKS_PER_PAGE,
    Chunk,
    ImageIndex,
    Page,
    chunk_image,
    decode_index,
    decode_page,
    unpack_chunk,
    unpack_verified,
)
from firmware_store.codec import Encodable, encode
from firmware_store.errors import ConflictError, DigestError, ManifestError
from firmware_store.suit_values import CHUNK_BYTES, CHUNK_SIZES, ChunkProfile, Fetch

NOISE = random.Random(7).randbytes(3 * CHUNK_BYTES)
TEXT = b"the tide comes in, the tide goes out. " * 2000


def chunked(
    image: bytes, piece: int = 10_000, profile: ChunkProfile = ChunkProfile.FIXED
) -> tuple[ImageIndex, dict[bytes, bytes]]:
    pieces = chunk_image((image[at : at + piece] for at in range(0, len(image), piece)), profile)
    blobs = {chunk.wire_digest: wire for chunk, wire in pieces}
    return pieces.index(), blobs


def listed(index: ImageIndex) -> list[Chunk]:
    pages = decode_index(index.root, index.fetch)
    return [chunk for page, data in zip(pages, index.pages, strict=True) for chunk in decode_page(data, page)]


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
@pytest.mark.parametrize("source", [NOISE, TEXT], ids=["noise", "text"])
@pytest.mark.parametrize("profile", ChunkProfile)
def test_an_image_comes_back_from_its_chunks(profile: ChunkProfile, source: bytes, size: int) -> None:
    image = source[:size]

    index, blobs = chunked(image, profile=profile)

    assert image == b"".join(unpack_chunk(chunk, blobs[chunk.wire_digest]) for chunk in listed(index))
    assert (index.image_digest, index.image_size) == (sha256(image).digest(), size)
    assert CHUNK_SIZES[profile].allow(index.fetch.chunk_count, size)
    assert index.fetch.profile is profile


def test_a_page_of_the_longest_chunks_fits_a_blob() -> None:
    index, _ = chunked(bytes(821 * 65536), 1 << 20, ChunkProfile.CDC)

    assert [page.chunk_count for page in decode_index(index.root, index.fetch)] == [820, 1]
    assert {chunk.raw_size for chunk in listed(index)} == {65536}
    assert max(map(len, index.pages)) <= 65536


def test_an_image_has_no_more_chunks_than_an_index_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_store.chunks.MAX_PAGES", 1)

    assert len(chunked(bytes(CHUNKS_PER_PAGE * 4096), profile=ChunkProfile.FIXED_4K)[0].pages) == 1
    with pytest.raises(ManifestError, match="more chunks"):
        chunked(bytes(CHUNKS_PER_PAGE * 4096 + 1), profile=ChunkProfile.FIXED_4K)


@pytest.mark.parametrize("piece", [1, 4096, CHUNK_BYTES, 100_000])
def test_the_index_does_not_depend_on_how_the_image_arrives(piece: int) -> None:
    assert chunked(TEXT) == chunked(TEXT, piece)


def test_chunks_travel_compressed_only_where_that_is_smaller() -> None:
    noisy, plain = listed(chunked(NOISE)[0]), listed(chunked(TEXT)[0])

    assert all(chunk.wire_size == chunk.raw_size and chunk.wire_digest == chunk.raw_digest for chunk in noisy)
    assert all(chunk.wire_size < chunk.raw_size / 10 for chunk in plain[:-1])


def test_equal_chunks_are_one_blob() -> None:
    assert len(chunked(bytes(10 * CHUNK_BYTES))[1]) == 1


def test_an_index_has_as_many_pages_as_it_needs() -> None:
    index, _ = chunked(bytes((CHUNKS_PER_PAGE + 1) * CHUNK_BYTES + 1), CHUNK_BYTES)

    pages = decode_index(index.root, index.fetch)

    assert [(page.first_chunk, page.chunk_count, page.is_last) for page in pages] == [(0, 864, False), (864, 2, True)]
    assert max(map(len, index.pages)) <= 65536
    assert [chunk.raw_size for chunk in listed(index)[-2:]] == [CHUNK_BYTES, 1]


def test_an_image_has_at_least_one_byte() -> None:
    with pytest.raises(ManifestError):
        list(chunk_image([]))


def test_an_image_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_store.chunks.MAX_IMAGE_BYTES", 2 * CHUNK_BYTES)

    with pytest.raises(ManifestError, match="at most"):
        list(chunk_image([bytes(2 * CHUNK_BYTES + 1)]))


def test_the_index_is_not_known_before_the_last_chunk() -> None:
    image = chunk_image([NOISE])
    next(iter(image))

    with pytest.raises(ConflictError):
        image.index()


INDEX, BLOBS = chunked(TEXT)
PAGE = decode_index(INDEX.root, INDEX.fetch)[0]
CHUNKS = decode_page(INDEX.pages[0], PAGE)
FIRST = CHUNKS[0]
WIRE = BLOBS[FIRST.wire_digest]


def damaged(data: bytes) -> Iterator[bytes]:
    yield b""
    yield data[:-1]
    yield data + b"\x00"
    yield bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("number", range(4), ids=["empty", "truncated", "one byte too many", "one flipped bit"])
def test_other_bytes_than_the_ones_that_are_named_are_refused(number: int) -> None:
    with pytest.raises(DigestError):
        decode_index(list(damaged(INDEX.root))[number], INDEX.fetch)
    with pytest.raises(DigestError):
        decode_page(list(damaged(INDEX.pages[0]))[number], PAGE)
    with pytest.raises(DigestError):
        unpack_chunk(FIRST, list(damaged(WIRE))[number])


def test_a_chunk_is_not_accepted_in_the_place_of_another() -> None:
    with pytest.raises(DigestError):
        unpack_chunk(CHUNKS[-1], WIRE)


def signed_index(rows: Encodable, chunk_count: int) -> tuple[bytes, Fetch]:
    data = encode(rows)
    return data, Fetch(sha256(data).digest(), len(data), chunk_count)


D = bytes(32)
ROW: list[Any] = [D, 100, 864]


@pytest.mark.parametrize(
    ("rows", "chunk_count"),
    [
        ([ROW], 863),
        ([ROW, ROW], 864),
        ([], 0),
        ([[D, 100, 865]], 865),
        ([[D, 100, 0], ROW], 864),
        ([[D, 0, 864]], 864),
        ([[D, 65537, 864]], 864),
        ([[D[1:], 100, 864]], 864),
        ([[D, 100]], 864),
        ({1: ROW}, 864),
        ([ROW, None], 864),
        ([[D, 1, 1]] * 1300, 1300),
    ],
    ids=[
        "fewer chunks than listed",
        "more chunks than listed",
        "no page",
        "a page with too many chunks",
        "a page without chunks",
        "a page without bytes",
        "a page that is too large",
        "a short digest",
        "a row with two members",
        "a map",
        "null as a row",
        "more pages than an image can have",
    ],
)
def test_a_signed_index_that_does_not_add_up_is_refused(rows: Encodable, chunk_count: int) -> None:
    with pytest.raises(ManifestError):
        decode_index(*signed_index(rows, chunk_count))


def signed_page(
    rows: list[Any],
    *,
    chunk_count: int | None = None,
    is_last: bool = True,
    profile: ChunkProfile = ChunkProfile.FIXED,
) -> tuple[bytes, Page]:
    data = encode(rows)
    count = len(rows) if chunk_count is None else chunk_count
    return data, Page(sha256(data).digest(), len(data), count, 0, is_last, profile)


E = b"e" * 32
WHOLE = [D, 100, E, CHUNK_BYTES]
SHORT = [D, 100, E, CHUNK_BYTES - 1]
LEAST, MOST, TINY = [D, 100, E, 4096], [D, 100, E, 65536], [D, 1, E, 2]


def test_the_builder_of_signed_pages_can_make_good_ones() -> None:
    assert len(decode_page(*signed_page([WHOLE, SHORT]))) == 2
    assert len(decode_page(*signed_page([MOST, WHOLE, LEAST, TINY], profile=ChunkProfile.CDC))) == 4
    assert len(decode_page(*signed_page([LEAST, LEAST, TINY], profile=ChunkProfile.FIXED_4K))) == 3


@pytest.mark.parametrize(
    "page",
    [
        signed_page([WHOLE], chunk_count=2),
        signed_page([WHOLE, WHOLE], chunk_count=1),
        signed_page([SHORT, WHOLE]),
        signed_page([WHOLE, SHORT], is_last=False),
        signed_page([[D, 100, E, CHUNK_BYTES + 1]]),
        signed_page([[D, CHUNK_BYTES + 1, E, CHUNK_BYTES]]),
        signed_page([[D, 100, E, 0]]),
        signed_page([[D, 0, E, 100]]),
        signed_page([[D, 101, E, 100]]),
        signed_page([[D, 100, E, 100]]),
        signed_page([[D, 99, D, 100]]),
        signed_page([[D, 100, E]]),
        signed_page([WHOLE, 7]),
        signed_page([LEAST, [D, 100, E, 4095], LEAST], profile=ChunkProfile.CDC),
        signed_page([LEAST, TINY], profile=ChunkProfile.CDC, is_last=False),
        signed_page([[D, 100, E, 65537]], profile=ChunkProfile.CDC),
        signed_page([WHOLE], profile=ChunkProfile.FIXED_4K),
    ],
    ids=[
        "fewer chunks than the root says",
        "more chunks than the root says",
        "a short chunk in the middle",
        "a short chunk in a page in the middle",
        "a raw chunk that is too large",
        "a wire chunk that is too large",
        "a chunk without raw bytes",
        "a chunk without wire bytes",
        "a chunk that grows on the wire",
        "a raw chunk under another name",
        "a compressed chunk under its own name",
        "a row with three members",
        "an integer as a row",
        "a chunk below the least that content is cut into",
        "a short chunk in a page in the middle, cut by content",
        "a chunk above the most that content is cut into",
        "a chunk of 16 KiB among those of 4 KiB",
    ],
)
def test_a_signed_page_that_does_not_add_up_is_refused(page: tuple[bytes, Page]) -> None:
    with pytest.raises(ManifestError):
        decode_page(*page)


def named(wire: bytes, raw_size: int, raw: bytes = b"") -> Chunk:
    return Chunk(sha256(wire).digest(), len(wire), sha256(raw).digest(), raw_size)


def compress(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


BOMBS: dict[str, Callable[[], bytes]] = {
    "promises more than is signed": lambda: compress(bytes(100_000_000)),
    "promises nothing": lambda: compress(bytes(CHUNK_BYTES), write_content_size=False),
    "promises less than it holds": lambda: compress(bytes(CHUNK_BYTES - 1)),
    "two frames": lambda: compress(bytes(CHUNK_BYTES)) + compress(bytes(CHUNK_BYTES)),
    "a frame and a byte": lambda: compress(bytes(CHUNK_BYTES)) + b"\x00",
    "a frame that ends early": lambda: compress(TEXT[:CHUNK_BYTES])[:-5],
    "no frame at all": lambda: b"\xff" * 100,
    "a frame of other bytes": lambda: compress(b"\x01" * CHUNK_BYTES),
}


@pytest.mark.parametrize("build", BOMBS.values(), ids=BOMBS.keys())
def test_a_signed_chunk_cannot_grow_beyond_what_is_signed(build: Callable[[], bytes]) -> None:
    wire = build()

    with pytest.raises(DigestError):
        unpack_chunk(named(wire, CHUNK_BYTES, bytes(CHUNK_BYTES)), wire)


def test_what_comes_out_of_a_verified_chunk_is_compared_all_the_same() -> None:
    wire = compress(TEXT[:CHUNK_BYTES])

    assert unpack_verified(named(wire, CHUNK_BYTES, TEXT[:CHUNK_BYTES]), wire) == TEXT[:CHUNK_BYTES]
    with pytest.raises(DigestError):
        unpack_verified(named(wire, CHUNK_BYTES, bytes(CHUNK_BYTES)), wire)


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    honest = compress(bytes(300))
    size_at = honest.index((300 - 256).to_bytes(2, "little"))
    lying = honest[:size_at] + (356 - 256).to_bytes(2, "little") + honest[size_at + 2 :]
    promised = zstandard.get_frame_parameters(lying).content_size

    with pytest.raises(DigestError):
        unpack_chunk(replace(named(lying, promised), raw_digest=sha256(bytes(promised)).digest()), lying)
