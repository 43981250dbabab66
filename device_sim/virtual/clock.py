"""Virtual time: what is to happen, in the order of its moments, and nothing in between."""

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """``now`` is fleet time in seconds, from 0 on. Of two things at one moment, the one that was asked for first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Have ``act`` called at ``when``, or at once where that is past."""
        heapq.heappush(self._coming, (max(when, self.now), next(self._numbers), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Have ``act`` called in so many seconds."""
        self.at(self.now + seconds, act)

    def run(self, until: float) -> None:
        """Let time pass up to ``until``, with all that happens by then."""
        coming = self._coming
        while coming and coming[0][0] <= until:
            self.now, _, act = heapq.heappop(coming)
            act()
        self.now = max(self.now, until)
