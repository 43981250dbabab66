"""Images read out of chunks: any part of them is that part, and nothing is given out that was not signed."""

import random
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_store import chunks
from firmware_store.chunks import chunk_image, decode_index
from firmware_store.errors import DigestError, NotFoundError
from firmware_store.images import ImageReader
from firmware_store.suit_values import CHUNK_BYTES, Component

# Two pages of index, the second with a short last chunk; most of it compresses well.
IMAGE = random.Random(11).randbytes(3 * CHUNK_BYTES) + bytes(chunks.CHUNKS_PER_PAGE * CHUNK_BYTES) + b"the end" * 999


class Shelf:
    """Blobs in memory, and which of them were asked for."""

    def __init__(self, image: bytes) -> None:
        cut = chunk_image(image[at : at + 100_000] for at in range(0, len(image), 100_000))
        self.blobs = {chunk.wire_digest: wire for chunk, wire in cut}
        index = cut.index()
        self.pages = [sha256(page).digest() for page in index.pages]
        self.blobs |= {sha256(blob).digest(): blob for blob in (index.root, *index.pages)}
        self.component = Component("app", index.image_digest, index.image_size, index.fetch)
        self.asked: list[bytes] = []

    async def get(self, digest: bytes) -> bytes:
        self.asked.append(digest)
        if digest not in self.blobs:
            raise NotFoundError("gone")
        return self.blobs[digest]


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf(IMAGE)


async def read(reader: ImageReader, first: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in reader.read(first, end)])


async def test_the_whole_is_the_image(shelf: Shelf) -> None:
    reader = await ImageReader.open(shelf, shelf.component)

    assert reader.size == len(IMAGE)
    assert await read(reader) == IMAGE


EDGES = st.sampled_from([0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES, chunks.CHUNKS_PER_PAGE * CHUNK_BYTES, len(IMAGE)])


@settings(max_examples=40)
@given(places=st.tuples(EDGES, st.integers(-2, 2), st.integers(0, 5 * CHUNK_BYTES) | EDGES))
async def test_any_part_is_that_part(shelf: Shelf, places: tuple[int, int, int]) -> None:
    edge, shift, size = places
    first = max(0, edge + shift)
    reader = await ImageReader.open(shelf, shelf.component)

    assert await read(reader, first, first + size) == IMAGE[first : first + size]


async def test_a_part_near_the_end_reads_no_chunk_before_it(shelf: Shelf) -> None:
    reader = await ImageReader.open(shelf, shelf.component)
    shelf.asked.clear()

    await read(reader, len(IMAGE) - 10)

    assert shelf.asked[0] == shelf.pages[1]
    assert len(shelf.asked) == 2


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "damaged"])
async def test_what_is_not_as_it_was_signed_is_not_given_out(lost: bool) -> None:
    shelf = Shelf(IMAGE[: 3 * CHUNK_BYTES])
    reader = await ImageReader.open(shelf, shelf.component)
    page = decode_index(shelf.blobs[shelf.component.fetch.index_digest], shelf.component.fetch)[0]
    last = chunks.decode_page(shelf.blobs[page.digest], page)[-1].wire_digest
    if lost:
        del shelf.blobs[last]
    else:
        shelf.blobs[last] = bytes(len(shelf.blobs[last]))

    assert await read(reader, 0, CHUNK_BYTES) == IMAGE[:CHUNK_BYTES]
    with pytest.raises(NotFoundError if lost else DigestError):
        await read(reader, 2 * CHUNK_BYTES)


async def test_an_index_of_another_size_is_not_the_one_that_was_signed(shelf: Shelf) -> None:
    wrong = Component("app", shelf.component.image_digest, len(IMAGE) + 1, shelf.component.fetch)

    with pytest.raises(DigestError, match="not that of the image"):
        await ImageReader.open(shelf, wrong)
