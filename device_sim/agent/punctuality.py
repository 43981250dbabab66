"""Whether a device is late: what it knows of the moment at which a campaign's level crossed its height.

Devices that come back together must not start together, so only those start unasked that saw the level cross, or came
at most ``DEAD_MAN_S`` after it. A ramp alone cannot tell: the server draws it anew all the time, from the level of that
moment on, and the newest one would make everybody punctual, or nobody. What counts is when the device was first due
under a directive that it held. All times are monotonic seconds of one boot; the next boot knows nothing.
"""

from math import inf
from typing import Final

from server.domain.gate import DEAD_MAN_S, Ramp, is_due
from server.protocol.messages import Counter

LATE_AFTER_S: Final = DEAD_MAN_S


class Watch:
    """One campaign's level, seen from one height.

    A device watches while it holds the campaign's offer and may start under it, the level apart. It keeps watching
    while something is missing for a moment, such as a directive that is on its way; the session's end ends it.
    """

    def __init__(self, own_height: int) -> None:
        self._height = own_height
        self._under: Counter | None = None
        """The last offer that it watched, and was not due under; None while it does not watch."""
        self._away_at: float | None = None
        """Since when it may not start; None while it may."""
        self._crossed_at: float | None = None

    def look(self, ramp: Ramp, counter: Counter, *, now: float, server_now: float, may_start: bool) -> bool:
        """Take in the offer in force; tell whether the device is due. ``server_now``: ``now``, in Unix seconds."""
        if not is_due(self._height, ramp.level(server_now)):
            self._crossed_at = None
            if may_start:
                self._under, self._away_at = counter, None
            else:
                self.look_away(now)
            return False
        if self._crossed_at is None:
            self._crossed_at = self._when(ramp, counter, now=now, server_now=server_now)
        return True

    def look_away(self, now: float) -> None:
        """The device may not start, or is told nothing of the campaign."""
        if self._away_at is None:
            self._away_at = now

    def end(self) -> None:
        """The session is over. A moment that is known stays known."""
        self._under = self._away_at = None

    def is_late(self, now: float) -> bool:
        """Tell of a device that is due whether it has to be asked to start."""
        return self._crossed_at is not None and now - self._crossed_at > LATE_AFTER_S

    def _when(self, ramp: Ramp, counter: Counter, *, now: float, server_now: float) -> float:
        """Return no later than the level crossed; infinitely long ago where nobody knows."""
        line = ramp.due_at(self._height) if self._height >= ramp.l0 else None
        on_line = -inf if line is None else now + line - server_now
        if self._under is None or counter == self._under:
            return on_line
        # Drawn anew while it watched: it was not due before this very moment, or before it had to look away.
        return max(on_line, now if self._away_at is None else self._away_at)
