"""Whether a download gets on: bytes that come in, against the least that a line must carry."""

from typing import Final

FLOOR_BYTES_PER_S: Final = 1024
FLOOR_OVER_S: Final = 300.0
"""Below the floor for so long, a download is given up, or goes on over the other transport."""


class Pace:
    """Counts in stretches of ``FLOOR_OVER_S`` during which something is waited for all the time."""

    def __init__(self) -> None:
        self._began_at: float | None = None
        self._bytes = 0
        self.slow_in_a_row = 0
        """Stretches, up to the last one."""

    @property
    def next_at(self) -> float | None:
        """When to look at the latest (monotonic seconds)."""
        return None if self._began_at is None else self._began_at + FLOOR_OVER_S

    def came(self, size_bytes: int) -> None:
        self._bytes += size_bytes

    def is_too_slow(self, now: float, *, waiting: bool) -> bool:
        """Tell so once for each stretch; one in which nothing was waited for does not count."""
        if not waiting:
            self._began_at = None
        elif self._began_at is None:
            self._began_at, self._bytes = now, 0
        elif now >= self._began_at + FLOOR_OVER_S:
            too_slow = self._bytes < FLOOR_BYTES_PER_S * FLOOR_OVER_S
            self.slow_in_a_row = self.slow_in_a_row + 1 if too_slow else 0
            self._began_at, self._bytes = now, 0
            return too_slow
        return False
