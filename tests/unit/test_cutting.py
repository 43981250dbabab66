"""Where images are cut: by what is there and not by where it lies, and the same way in every release of ours."""

import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_store.cutting import cut
from firmware_store.suit_values import CHUNK_SIZES, ChunkProfile

NOISE = random.Random(21).randbytes(2_000_000)


def chunks_of(image: bytes, profile: ChunkProfile = ChunkProfile.CDC, *, piece: int = 1 << 18) -> list[bytes]:
    return list(cut((image[at : at + piece] for at in range(0, len(image), piece)), profile))


def test_the_cuts_are_those_of_every_release_before() -> None:
    """Other cuts would be no error anywhere: devices and the store would only never find a chunk again."""
    image = b"".join(sha256(number.to_bytes(4, "big")).digest() for number in range(10_000))

    sizes = [len(chunk) for chunk in chunks_of(image)]

    assert sizes == [33667, 9646, 37677, 27047, 37272, 21527, 26754, 23327, 18588, 21619, 23787, 6235, 18587, 14267]


@given(
    seed=st.integers(0, 1 << 32),
    size=st.integers(0, 300_000),
    repeated=st.binary(min_size=1, max_size=20),
    repeats=st.integers(0, 20_000),
    profile=st.sampled_from(ChunkProfile),
)
def test_chunks_add_up_and_keep_to_their_sizes(
    seed: int, size: int, repeated: bytes, repeats: int, profile: ChunkProfile
) -> None:
    image = random.Random(seed).randbytes(size) + repeated * repeats

    chunks = chunks_of(image, profile)

    assert b"".join(chunks) == image
    least, most = CHUNK_SIZES[profile]
    assert all(least <= len(chunk) <= most for chunk in chunks[:-1])
    assert all(1 <= len(chunk) <= most for chunk in chunks[-1:])


@pytest.mark.parametrize("piece", [1000, 4096, 65537, 10_000_000])
def test_the_cuts_do_not_depend_on_how_the_image_arrives(piece: int) -> None:
    assert chunks_of(NOISE, piece=piece) == chunks_of(NOISE)


def test_chunks_have_16_kib_or_a_little_more() -> None:
    assert 14_000 < len(NOISE) / len(chunks_of(NOISE)) < 24_000


@given(at=st.integers(0, len(NOISE)), inserted=st.binary(min_size=1, max_size=5000), removed=st.integers(0, 5000))
def test_a_change_costs_the_chunks_around_it_alone(at: int, inserted: bytes, removed: int) -> None:
    before = chunks_of(NOISE)

    after = chunks_of(NOISE[:at] + inserted + NOISE[at + removed :])

    new = sum(len(chunk) for chunk in set(after) - set(before))
    assert new <= len(inserted) + 8 * 65536
    assert len(set(before) & set(after)) >= 0.8 * len(before)


def test_an_insertion_in_front_makes_every_chunk_another_one_where_cuts_are_even() -> None:
    before, after = chunks_of(NOISE, ChunkProfile.FIXED), chunks_of(b"x" + NOISE, ChunkProfile.FIXED)

    assert not set(before) & set(after)
