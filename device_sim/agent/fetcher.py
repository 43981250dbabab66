"""Getting blobs from the broker's retained messages: a window of subscriptions, and patience with what goes wrong.

A subscription brings its blob at once, so the time from one to the other tells the link's speed: while blobs arrive
within a second the window grows, and when they take longer it is halved. So about one second's worth is under way,
on any link, and never less than one blob. New subscriptions are made when half of the window is free: one packet
for many topics.
"""

import hashlib
from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

WINDOW_START: Final = 4
WINDOW_MOST: Final = 64
UNDER_WAY_S: Final = 1.0
TIMEOUT_S: Final = 10.0
"""A blob that has not come by then is subscribed to again: QoS 0 may lose it, and the broker may not have it yet.

Each time for the same blob the wait is twice as long, and twice as long as the last blob took where that is more, so
that a slow line is not asked for more and more of the same.
"""
PATIENCE_MOST_S: Final = 120.0
"""Twice what a blob of 64 KiB takes where a line only just carries enough (``pace.FLOOR_BYTES_PER_S``)."""
LATE_MOST: Final = 3
"""So many times in a row for one blob, and the broker does not seem to have what is wanted: 70 s."""
WRONG_MOST: Final = 3
WRONG_AGAIN_S: Final = 1.0
TOMBSTONE_BYTES: Final = 1


class Arrival(StrEnum):
    """What a message on a blob's topic was."""

    UNASKED = "unasked"
    GOOD = "good"
    WRONG = "wrong"  # will be asked for again
    SPENT = "spent"  # wrong once too often
    WITHDRAWN = "withdrawn"


class Requests(NamedTuple):
    """Digests whose topics to leave and to subscribe to, in this order."""

    leave: tuple[bytes, ...]
    subscribe: tuple[bytes, ...]


class Fetcher:
    """Blobs by digest; no more than the size that was signed is ever taken for one."""

    def __init__(self) -> None:
        self._sizes: dict[bytes, int] = {}
        self._waiting: deque[bytes] = deque()
        self._asked: dict[bytes, float] = {}  # oldest first
        self._later: deque[tuple[float, bytes]] = deque()
        self._wrong: dict[bytes, int] = {}
        self._late: dict[bytes, int] = {}
        self._since: dict[bytes, float] = {}  # when it was asked for first
        self._patience_s = TIMEOUT_S
        self._leave: list[bytes] = []
        self._window = WINDOW_START
        self._narrowed_at = float("-inf")

    @property
    def next_at(self) -> float | None:
        """When ``requests`` will have something new without an arrival (monotonic seconds)."""
        times = [at for at in (self._late_at, self._later[0][0] if self._later else None) if at is not None]
        return min(times, default=None)

    @property
    def wanted(self) -> Mapping[bytes, int]:
        """The blobs that have not come, and their sizes in bytes."""
        return self._sizes

    @property
    def is_stuck(self) -> bool:
        """Tell whether a blob has been asked for in vain too often."""
        return any(times >= LATE_MOST for times in self._late.values())

    def want(self, digest: bytes, size_bytes: int) -> None:
        """Ask for a blob, once however often it is wanted."""
        if digest not in self._sizes:
            self._sizes[digest] = size_bytes
            self._waiting.append(digest)

    def drop(self, digest: bytes) -> None:
        """Want a blob no more."""
        if digest in self._sizes:
            self._forget(digest)

    def take(self, digest: bytes, payload: bytes, now: float) -> Arrival:
        """Judge a message on the topic of ``digest``."""
        size = self._sizes.get(digest)
        asked_at = self._asked.get(digest)
        if size is None or not payload:
            return Arrival.UNASKED  # an empty payload is a retained message being cleared, not an answer
        if len(payload) == size and hashlib.sha256(payload).digest() == digest:
            if asked_at is not None:
                self._adapt(now - asked_at, now)
            took_s = now - self._since.get(digest, now)
            self._patience_s = min(max(TIMEOUT_S, 2 * took_s), PATIENCE_MOST_S)
            self._forget(digest)  # even if it was given up: a late blob is as good as any
            return Arrival.GOOD
        if asked_at is None:
            return Arrival.UNASKED
        if len(payload) == TOMBSTONE_BYTES:
            return Arrival.WITHDRAWN
        self._wrong[digest] = self._wrong.get(digest, 0) + 1
        if self._wrong[digest] >= WRONG_MOST:
            return Arrival.SPENT
        del self._asked[digest]
        self._leave.append(digest)
        self._later.append((now + WRONG_AGAIN_S, digest))
        return Arrival.WRONG

    def requests(self, now: float) -> Requests:
        """Return what to leave and to subscribe to now; call it after anything has happened, and at ``next_at``."""
        self._time_out(now)
        while self._later and self._later[0][0] <= now:
            self._waiting.append(self._later.popleft()[1])
        subscribe: list[bytes] = []
        if len(self._asked) <= self._window // 2:
            while self._waiting and len(self._asked) < self._window:
                digest = self._waiting.popleft()
                if digest not in self._sizes or digest in self._asked:
                    continue  # it came late, or is wanted no more or anew
                self._asked[digest] = now
                self._since.setdefault(digest, now)
                subscribe.append(digest)
        leave = self._leave
        if not subscribe and len(self._asked) > 0:
            return Requests((), ())  # keep them for the next packet
        self._leave = []
        return Requests(tuple(leave), tuple(subscribe))

    def subscribed(self) -> tuple[bytes, ...]:
        """Return what to leave when nothing is wanted any more."""
        return (*self._leave, *self._asked)

    def link_lost(self) -> None:
        """Nothing is subscribed to any more; ask for it again, in the order it was asked for."""
        self._late.clear()
        self._since.clear()
        self._waiting.extendleft(reversed(self._asked))
        self._asked.clear()
        self._leave.clear()

    def _forget(self, digest: bytes) -> None:
        del self._sizes[digest]
        self._wrong.pop(digest, None)
        self._late.pop(digest, None)
        self._since.pop(digest, None)
        if self._asked.pop(digest, None) is not None:
            self._leave.append(digest)

    @property
    def _late_at(self) -> float | None:
        """When the first of the blobs that were asked for is late."""
        if self._late:
            return min(map(self._due_at, self._asked), default=None)
        return next(iter(self._asked.values())) + self._patience_s if self._asked else None

    def _time_out(self, now: float) -> None:
        late_at = self._late_at
        if late_at is None or now < late_at:
            return
        late = [digest for digest, asked_at in self._asked.items() if now >= self._due_at(digest)]
        for digest in late:
            del self._asked[digest]
            self._late[digest] = self._late.get(digest, 0) + 1
            self._leave.append(digest)
            self._waiting.append(digest)
        if late:
            self._narrow(now)

    def _due_at(self, digest: bytes) -> float:
        return self._asked[digest] + self._patience_s * 2.0 ** min(self._late.get(digest, 0), LATE_MOST)

    def _adapt(self, took_s: float, now: float) -> None:
        if took_s <= UNDER_WAY_S:
            self._window = min(self._window + 1, WINDOW_MOST)
        else:
            self._narrow(now)

    def _narrow(self, now: float) -> None:
        if now - self._narrowed_at >= UNDER_WAY_S:  # the blobs of one window are late together: once is enough
            self._window = max(1, self._window // 2)
            self._narrowed_at = now
