"""Getting blobs, and parts of whole images, over HTTP: a few requests at a time, and patience with what goes wrong.

A body is cut at the size that was signed. A blob's digest is checked here, as it is for those from the broker; a part
of an image is checked with the whole image.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from device_sim.agent.events import Answer, Get, Got
from device_sim.agent.fetcher import WRONG_AGAIN_S, WRONG_MOST, Arrival
from device_sim.agent.pace import FLOOR_BYTES_PER_S
from server.protocol.sources import HttpSource

PARALLEL_MOST: Final = 4
AGAIN_FIRST_S: Final = 1.0
AGAIN_LONGEST_S: Final = 60.0
FAILED_MOST: Final = 3
"""So many failures in a row, and the server does not seem to be there."""
ANSWER_S: Final = 120.0
"""A request that has not been answered by then, and in the time that all of them take on the slowest line there may be,
has failed: longer than the client's own bounds on each of its waits. The client ends it then, too."""


def answer_s(size_bytes: int) -> float:
    """Return how long an answer of so many bytes may take, in seconds."""
    return ANSWER_S + PARALLEL_MOST * size_bytes / FLOOR_BYTES_PER_S


class Want(NamedTuple):
    """A blob; or of the image of this digest, ``size_bytes`` from ``first`` on."""

    digest: bytes
    size_bytes: int
    first: int | None = None


class Taken(NamedTuple):
    """What an answer was, and to what."""

    arrival: Arrival
    want: Want


class HttpFetcher:
    """No more than the size that was asked for is ever taken. ``numbers`` are those of this boot's requests."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._wanted: dict[Want, None] = {}
        self._waiting: deque[Want] = deque()
        self._asked: dict[int, tuple[Want, float]] = {}  # when it is late
        self._wrong: dict[Want, int] = {}
        self._failures = 0
        self._again_at = float("-inf")

    @property
    def next_at(self) -> float | None:
        """When ``requests`` will have something new without an answer (monotonic seconds)."""
        times = [late_at for _, late_at in self._asked.values()]
        if self._waiting and len(self._asked) < PARALLEL_MOST:
            times.append(self._again_at)
        return min(times, default=None)

    @property
    def wanted(self) -> tuple[Want, ...]:
        """What has not come."""
        return tuple(self._wanted)

    @property
    def is_asking(self) -> bool:
        return bool(self._asked)

    @property
    def is_stuck(self) -> bool:
        """Tell whether request after request has failed."""
        return self._failures >= FAILED_MOST

    def want(self, want: Want) -> None:
        """Ask for something, once however often it is wanted."""
        if want not in self._wanted:
            self._wanted[want] = None
            self._waiting.append(want)

    def drop(self, want: Want) -> None:
        """Want it no more. A request under way is not answered to."""
        self._wanted.pop(want, None)
        self._wrong.pop(want, None)

    def take(self, got: Got, now: float) -> Taken | None:
        """Judge an answer; None where nobody waits for it."""
        want, _ = self._asked.pop(got.number, (None, 0.0))
        if want is None or want not in self._wanted:
            return None
        if got.answer is Answer.FAILED:
            self._failed(want, now)
            return Taken(Arrival.WRONG, want)
        self._failures = 0
        if got.answer is Answer.GONE:
            return Taken(Arrival.WITHDRAWN, want)
        if _holds(want, got.payload):
            self.drop(want)
            return Taken(Arrival.GOOD, want)
        self._wrong[want] = self._wrong.get(want, 0) + 1
        if self._wrong[want] >= WRONG_MOST:
            return Taken(Arrival.SPENT, want)
        self._waiting.append(want)
        self._again_at = now + WRONG_AGAIN_S
        return Taken(Arrival.WRONG, want)

    def requests(self, now: float, source: HttpSource) -> list[Get]:
        """Return what to ask for now; call it after anything has happened, and at ``next_at``."""
        for number, (want, late_at) in list(self._asked.items()):
            if late_at <= now:
                del self._asked[number]
                self._failed(want, now)
        gets: list[Get] = []
        while self._waiting and len(self._asked) < PARALLEL_MOST and self._again_at <= now:
            want = self._waiting.popleft()
            if want not in self._wanted or any(want == asked for asked, _ in self._asked.values()):
                continue  # wanted no more, or anew
            get = Get(next(self._numbers), _url(source, want), source.ticket, want.size_bytes, want.first)
            self._asked[get.number] = (want, now + answer_s(want.size_bytes))
            gets.append(get)
        return gets

    def stopped(self) -> None:
        """Nothing is under way any more; ask for it again, in the order it was asked for."""
        self._waiting.extendleft(want for want, _ in reversed(self._asked.values()))
        self._asked.clear()
        self._failures = 0
        self._again_at = float("-inf")

    def _failed(self, want: Want, now: float) -> None:
        self._waiting.appendleft(want)
        self._again_at = now + min(AGAIN_LONGEST_S, AGAIN_FIRST_S * 2.0 ** min(self._failures, 10))
        self._failures += 1


def _holds(want: Want, payload: bytes) -> bool:
    whole = len(payload) == want.size_bytes
    return whole and (want.first is not None or hashlib.sha256(payload).digest() == want.digest)


def _url(source: HttpSource, want: Want) -> str:
    kind = "blobs" if want.first is None else "images"
    return f"{source.base_url}/v1/{kind}/{want.digest.hex()}"
