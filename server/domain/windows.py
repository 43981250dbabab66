"""Maintenance windows: when a device may start and activate, in its own local time (pure; devices and server use it).

A window opens whenever its cron expression matches the device's local clock, and stays open for its duration. Local
time is the server's time plus the device's offset from UTC at that moment, so that a window at two in the morning stays
there when the clocks change: the offset has changed with them. Windows that overlap or touch are one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from cronsim import CronSim, CronSimError

from firmware_store.errors import InvalidInputError

WINDOWS_MOST: Final = 8
EXPRESSION_CHARACTERS_MOST: Final = 128
DURATION_MOST_S: Final = 7 * 86_400
UTC_OFFSET_MOST_MINUTES: Final = 1440
REBOOT_S: Final = 120.0
"""A window has to stay open for the shortest trial, and so much longer for the reboot."""

_FIELDS: Final = 5
_JOINED_MOST: Final = 256  # openings that follow upon each other; then it is open for long enough in any case
_TRIED_MOST: Final = 100
_NEEDED_MOST_S: Final = 400 * 86_400  # who needs longer than a year needs a window that never closes
_YEAR_LEAST, _YEAR_MOST = 1900, 9900  # cron looks 50 years ahead and back
_SOME_DAY: Final = 1_800_000_000.0  # in January 2027
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - local time, whatever its zone


@dataclass(frozen=True, slots=True)
class Window:
    """``opens``: five cron fields, as Debian's cron reads them: minute, hour, day of the month, month, day of the week.

    ``duration_s``: 1 second to 7 days from each opening.
    """

    opens: str
    duration_s: int

    def __post_init__(self) -> None:
        _check_expression(self.opens)
        if not 1 <= self.duration_s <= DURATION_MOST_S:
            raise InvalidInputError(f"A window stays open for 1 to {DURATION_MOST_S} seconds.")


def fits(windows: Sequence[Window], now: float, *, utc_offset_minutes: int, needed_s: float) -> bool:
    """Tell whether it is open at ``now`` (Unix seconds) and stays so for ``needed_s``. Without windows it always is."""
    if not windows:
        return True
    local = _local(now, utc_offset_minutes)
    if local is None:
        return False
    needed, until = local + timedelta(seconds=min(needed_s, _NEEDED_MOST_S)), local
    for _ in range(_JOINED_MOST):
        later = max((end for window in windows if (end := _end(window, until)) is not None), default=until)
        if later <= until:
            return False
        if later >= needed:
            return True
        until = later
    return True


def next_opening(windows: Sequence[Window], now: float, *, utc_offset_minutes: int) -> float | None:
    """Return when one of the windows opens next after ``now`` (Unix seconds), or None if none ever does."""
    local = _local(now, utc_offset_minutes)
    if local is None:
        return None
    openings = [opening for window in windows if (opening := next(CronSim(window.opens, local), None)) is not None]
    if not openings:
        return None
    return (min(openings) - _EPOCH).total_seconds() - 60 * utc_offset_minutes


def needed_s(trial_s: float) -> float:
    """Return for how long a window must stay open for a release whose shortest trial takes so long."""
    return trial_s + REBOOT_S


def ever_fits(windows: Sequence[Window], *, needed_s: float) -> bool:
    """Tell whether one of the first hundred openings stays open for ``needed_s``. Without windows it always is."""
    at: float | None = _SOME_DAY
    for _ in range(_TRIED_MOST):
        if at is None or fits(windows, at, utc_offset_minutes=0, needed_s=needed_s):
            return at is not None
        at = next_opening(windows, at, utc_offset_minutes=0)
    return False


def _end(window: Window, at: datetime) -> datetime | None:
    """Return when the window's last opening at or before ``at`` ends, if that is later than ``at``."""
    opening = next(CronSim(window.opens, at + timedelta(seconds=1), reverse=True), None)
    if opening is None:
        return None
    end = opening + timedelta(seconds=window.duration_s)
    return end if end > at else None


def _local(now: float, utc_offset_minutes: int) -> datetime | None:
    """Return the local clock, to the second; None where there is none that a calendar could show."""
    try:
        local = _EPOCH + timedelta(seconds=int(now) + 60 * utc_offset_minutes)
    except OverflowError:
        return None
    return local if _YEAR_LEAST <= local.year <= _YEAR_MOST else None


@lru_cache(maxsize=256)
def _check_expression(expression: str) -> None:
    fields = expression.split()
    if len(fields) != _FIELDS or len(expression) > EXPRESSION_CHARACTERS_MOST or expression != " ".join(fields):
        raise InvalidInputError(
            f"A window opens at five cron fields with one space in between, {EXPRESSION_CHARACTERS_MOST} characters"
            " at most."
        )
    try:
        CronSim(expression, _EPOCH)
    except CronSimError as exc:
        raise InvalidInputError(f"{expression!r} is not a cron expression: {exc}") from exc
