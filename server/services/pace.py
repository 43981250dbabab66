"""So many bytes per second, and not more: a debt that time pays off."""

import time
from collections.abc import Callable


class Pace:
    """A batch may go when ``wait_s`` is 0; what it had is owed from then on.

    In any stretch of time no more goes than the rate allows for it, and one batch.
    """

    def __init__(self, bytes_per_s: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._paid_at = clock()

    @property
    def wait_s(self) -> float:
        return max(0.0, self._paid_at - self._clock())

    def note(self, size_bytes: int) -> None:
        """So much went."""
        self._paid_at = max(self._paid_at, self._clock()) + size_bytes / self.bytes_per_s
