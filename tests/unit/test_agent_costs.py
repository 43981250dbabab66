"""The cheapest way to an image, as far as it can be known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.agent.costs import Option, Way, cheapest, index_bytes_least
from firmware_store.chunks import chunk_image
from server.protocol.sources import DeltaOffer
from tests.agent_world import picture


def delta(wire_bytes: int) -> DeltaOffer:
    return DeltaOffer(0, "zstd", bytes(32), bytes(32), wire_bytes, bytes(32), 39, 1)


@pytest.mark.parametrize(
    ("missing", "index", "deltas", "whole", "way"),
    [
        (0, 0, [], None, Way.CHUNKS),
        (0, 900, [800], None, Way.DELTA),
        (0, 900, [1000], None, Way.CHUNKS),
        (200, 900, [1000], None, Way.DELTA),
        (100, 900, [1000], None, Way.CHUNKS),
        (100, 900, [1500, 950], 2000, Way.DELTA),
        (90, 120, [], 100, Way.WHOLE),
        (90, 10, [], 100, Way.CHUNKS),
        (None, 0, [], 100, Way.WHOLE),
        (None, 0, [90], 100, Way.DELTA),
    ],
)
def test_the_cheapest_way_is_taken(
    missing: int | None, index: int, deltas: list[int], whole: int | None, way: Way
) -> None:
    chosen = cheapest(missing_bytes=missing, index_bytes=index, deltas=map(delta, deltas), whole_bytes=whole)

    assert chosen is not None
    assert chosen.way is way


def test_an_index_beside_a_delta_is_read_only_where_it_is_a_small_part_of_it() -> None:
    def way(index: int, wire_bytes: int, *, is_begun: bool = False) -> Way | None:
        chosen = cheapest(missing_bytes=0, index_bytes=index, deltas=[delta(wire_bytes)], is_begun=is_begun)
        return chosen and chosen.way

    assert way(400, 10_000) is Way.CHUNKS
    assert way(401, 10_000) is Way.DELTA
    assert way(401, 10_000, is_begun=True) is Way.CHUNKS


def test_the_smallest_of_several_deltas_is_taken() -> None:
    chosen = cheapest(missing_bytes=5000, index_bytes=0, deltas=map(delta, [300, 100, 200]))

    assert chosen == Option(100, Way.DELTA, delta(100))


def test_where_nothing_is_left_there_is_no_way() -> None:
    assert cheapest(missing_bytes=None, index_bytes=0) is None


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20), st.integers(0, 9000), st.integers(100, 30_000))
def test_chunks_once_given_up_would_never_have_been_cheaper(missing: list[int], index: int, wire_bytes: int) -> None:
    """What is missing is found bit by bit: whoever leaves early does not leave wrongly."""
    known = [sum(missing[:count]) for count in range(len(missing) + 1)]
    ways = [cheapest(missing_bytes=bytes_, index_bytes=index, deltas=[delta(wire_bytes)]) for bytes_ in known]
    left = [chosen is not None and chosen.way is Way.DELTA for chosen in ways]

    assert left == sorted(left)


@pytest.mark.parametrize("size", [1, 16_384, 100_000, 864 * 16_384 + 1])
def test_an_index_is_never_smaller_than_it_was_taken_to_be(size: int) -> None:
    chunked = chunk_image([picture(1, size)])
    assert sum(1 for _ in chunked)
    index = chunked.index()

    real = len(index.root) + sum(map(len, index.pages))
    assert 0.9 * real - 200 <= index_bytes_least(index.fetch) <= real
