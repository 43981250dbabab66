"""Which way to an image costs the fewest bytes on the wire: its missing chunks, a delta, or the whole of it.

What an index says is known only once it has been paid for, so the choice is made anew after each page: what has been
read is spent whichever way is taken, and what is missing so far can only grow. A way that costs more than another one
already is never going to be the cheaper one.

Where there is a delta from the very image that runs, to read the index is a bet: the server offers a delta only if
it is smaller than the chunks that such a device lacks. So no more is staked on it than a small part of the delta.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from firmware_store.suit_values import Fetch
from server.protocol.sources import DeltaOffer

ENTRY_BYTES_LEAST: Final = 71
"""A chunk in an index page: two digests of 34 bytes, two sizes, and the head of the array."""

INDEX_SHARE_MOST: Final = 25
"""An index is read beside a delta only if it takes at most this part of the delta's bytes: four per cent."""


class Way(IntEnum):
    """How to come by an image; of two that cost the same, the former, whose every piece is verified as it comes."""

    CHUNKS = 0
    DELTA = 1
    WHOLE = 2


class Option(NamedTuple):
    """A way, what it costs from here on, and the delta where it is one."""

    wire_bytes: int
    way: Way
    delta: DeltaOffer | None = None


def cheapest(
    *,
    missing_bytes: int | None,
    index_bytes: int,
    deltas: Iterable[DeltaOffer] = (),
    whole_bytes: int | None = None,
    is_begun: bool = True,
) -> Option | None:
    """Return the cheapest way on, or None where there is none.

    ``missing_bytes``: on the wire, of the chunks that are known to be missing; None where chunks are no way at all.
    ``index_bytes``: of the index that has not been read yet. ``deltas``: those that apply here, from the image that
    runs, with a codec that there is. ``whole_bytes``: of the raw image; None where nobody serves it. ``is_begun``:
    some of the index has been read.
    """
    options = [Option(delta.wire_bytes, Way.DELTA, delta) for delta in deltas]
    is_bet = not is_begun and any(index_bytes * INDEX_SHARE_MOST > option.wire_bytes for option in options)
    if missing_bytes is not None and not is_bet:
        options.append(Option(missing_bytes + index_bytes, Way.CHUNKS))
    if whole_bytes is not None:
        options.append(Option(whole_bytes, Way.WHOLE))
    return min(options, key=lambda option: (option.wire_bytes, option.way), default=None)


def index_bytes_least(fetch: Fetch) -> int:
    """Return how many bytes an image's index has at least, before any of it has been read."""
    return fetch.index_size + fetch.chunk_count * ENTRY_BYTES_LEAST
