"""When maintenance windows open next, as devices will see it (pure).

A device asks its wall clock alone: the time in UTC plus its offset of that very moment. So a window opens at the first
moment at which that clock shows its opening or a later time: where clocks skip an hour, at the jump; where they show an
hour twice, a window in it opens twice. Cron's own rules for such nights do not matter.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from server.domain.freeze import check_zone
from server.domain.windows import Window, fits, next_opening

HORIZON_S: Final = 366 * 86_400
_TRIED_MOST: Final = 200
_DAY: Final = 86_400

Offset = Callable[[float], int]
"""Minutes east of UTC at a moment (Unix seconds)."""


def fixed(utc_offset_minutes: int) -> Offset:
    """Return the offset of a clock that is never changed, as far as anybody knows."""
    return lambda _moment: utc_offset_minutes


def of_zone(name: str) -> Offset:
    """Return the offset of a zone's wall clock. Raises: InvalidInputError: there is no such zone."""
    zone = ZoneInfo(check_zone(name))

    def offset(moment: float) -> int:
        found = datetime.fromtimestamp(moment, UTC).astimezone(zone).utcoffset()
        assert found is not None
        return int(found.total_seconds()) // 60

    return offset


def openings(windows: Sequence[Window], now: float, offset: Offset, *, needed_s: float, count: int) -> list[float]:
    """Return the next moments (Unix seconds) at which it opens for ``needed_s`` at least, ``count`` of them at most.

    None later than ``HORIZON_S``; none where it never closes.
    """
    found: list[float] = []
    for moment in _candidates(windows, now, offset):
        before, there = moment - 1, offset(moment)
        was_open = fits(windows, before, utc_offset_minutes=offset(before), needed_s=0)
        if not was_open and fits(windows, moment, utc_offset_minutes=there, needed_s=needed_s):
            found.append(moment)
        if len(found) >= count:
            break
    return found


def _candidates(windows: Sequence[Window], now: float, offset: Offset) -> Iterator[float]:
    """Yield, in their order, the openings by the clock of the day and the moments at which the clock is changed."""
    moment = now
    for _ in range(_TRIED_MOST):
        opening = next_opening(windows, moment, utc_offset_minutes=offset(moment))
        until = now + HORIZON_S if opening is None else min(opening, now + HORIZON_S)
        changed = _change(offset, moment, until)
        if changed is None and (opening is None or opening > now + HORIZON_S):
            return
        moment = until if changed is None else changed
        yield moment


def _change(offset: Offset, start: float, end: float) -> float | None:
    """Return the first whole second after ``start``, up to ``end``, at which the offset is another; None if it stays.

    Two changes within one day that undo each other would not be seen; there are none.
    """
    low = start
    while low < end:
        high = min(low + _DAY, end)
        if offset(high) != offset(low):
            return _bisect(offset, low, high)
        low = high
    return None


def _bisect(offset: Offset, low: float, high: float) -> float:
    first, last = int(low), int(high)
    before = offset(low)
    while last - first > 1:
        middle = (first + last) // 2
        if offset(middle) == before:
            first = middle
        else:
            last = middle
    return float(last)
