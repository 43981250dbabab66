"""What the values of filters mean: versions in their order, instants, numbers."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from firmware_store.errors import InvalidInputError
from firmware_store.suit import parse_version

Order = tuple[int, ...]

_NUMBERS: Final = 4
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_RELATIVE: Final = re.compile(r"now(?:-([1-9][0-9]{0,4})([smhd]))?", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def version_order(text: str) -> Order | None:
    """Return what versions are compared by; None where the text is not one of ours.

    Four numbers, the stage (a release is 0, its candidates are below it) and the number of the stage, so that 1.2 is
    1.2.0 and 1.2.0-rc.1 comes before it. ``version_order`` of the database's schema says the same.
    """
    try:
        numbers = list(parse_version(text))
    except InvalidInputError:
        return None
    stage_at = next((at for at, number in enumerate(numbers) if number < 0), len(numbers))
    release, stage = numbers[:stage_at], numbers[stage_at:]
    return (*release, *[0] * (_NUMBERS - len(release)), *stage, *[0] * (2 - len(stage)))


def read_instant(text: str, now: datetime) -> datetime | None:
    """Return the instant of RFC 3339 text with its offset, of ``now``, or of ``now-7d`` (s, m, h, d); None: no such."""
    if (relative := _RELATIVE.fullmatch(text)) is not None:
        count, unit = relative.groups()
        return now if count is None else now - timedelta(seconds=int(count) * _SECONDS[unit])
    try:
        instant = datetime.fromisoformat(text)
        return None if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_number(text: str) -> int | None:
    """Return a whole number of up to 18 digits; None: no such."""
    return int(text) if _NUMBER.fullmatch(text) else None
