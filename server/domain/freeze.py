"""Freeze calendars (pure): when nothing may go on in a region, by the wall clock of a zone.

A freeze lasts from the first moment at which that clock shows its start to the last at which it shows its end: where
clocks are put back and show an hour twice, it lasts longer, and where they skip an hour that it names, no less.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from firmware_store.errors import InvalidInputError
from server.domain.identity import Region


@dataclass(frozen=True, slots=True)
class Freeze:
    """``region`` None: everywhere. ``zone`` is an IANA name; ``starts`` and ``ends`` are naive, of its wall clock."""

    id: UUID
    region: Region | None
    zone: str
    starts: datetime
    ends: datetime
    reason: str

    @property
    def begins_at(self) -> datetime:
        """The instant, aware (UTC)."""
        return min(_instants(self.starts, self.zone))

    @property
    def is_over_at(self) -> datetime:
        """The instant, aware (UTC); the freeze does not hold at it any more."""
        return max(_instants(self.ends, self.zone))

    def holds(self, region: Region, now: datetime) -> bool:
        return self.region in {None, region} and self.begins_at <= now < self.is_over_at


def is_frozen(freezes: Iterable[Freeze], region: Region, now: datetime) -> bool:
    """Tell whether nothing may go on in ``region`` at ``now`` (aware)."""
    return any(freeze.holds(region, now) for freeze in freezes)


def check_zone(name: str) -> str:
    """Return ``name`` if it is an IANA time zone. Raises: InvalidInputError."""
    try:
        _zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvalidInputError(
            f"There is no time zone {name!r}; it looks like Europe/Berlin.", pointer="/zone"
        ) from exc
    return name


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _instants(local: datetime, zone: str) -> tuple[datetime, datetime]:
    """Both readings of a wall clock (PEP 495): they differ where it shows a time twice, or never."""
    first, second = (local.replace(tzinfo=_zone(zone), fold=fold).astimezone(UTC) for fold in (0, 1))
    return first, second
