"""Finding devices by filters, what only the fleet in memory knows among it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from server.db.devices import DeviceRecord, DeviceRepository
from server.domain.filter import LIVE, Expression, Look, fields_of, holds, ignoring
from server.domain.scope import EVERYTHING, Scope
from server.services.fleet import Fleet

LOOKED_AT_MOST: Final = 5000
"""Rows that one page reads at most where the database knows a part of the filter alone."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some devices by id; ``after`` is where the next page begins, None on the last one."""

    devices: list[DeviceRecord]
    after: str | None


class Search:
    """Pages of devices."""

    def __init__(self, *, repository: DeviceRepository, fleet: Fleet) -> None:
        self._repository = repository
        self._fleet = fleet

    async def page(
        self, expression: Expression, *, after: str, limit: int, now: float, scope: Scope = EVERYTHING
    ) -> Page:
        """Return up to ``limit`` devices within ``scope`` that the filter lets through, the first ones after ``after``.

        A page may be short, or empty, and not the last one: where presence is asked for, so much is read and no more.
        """
        if LIVE.isdisjoint(fields_of(expression)):
            found = await self._repository.find(expression, after=after, limit=limit, scope=scope)
            return Page(found, found[-1].id if len(found) == limit else None)
        stored, kept = ignoring(expression, LIVE), list[DeviceRecord]()
        for _ in range(max(1, LOOKED_AT_MOST // limit)):
            found = await self._repository.find(stored, after=after, limit=limit, scope=scope)
            for record in found:
                after = record.id
                if holds(expression, look_at(record, is_online=self._is_online(record, now))):
                    kept.append(record)
                    if len(kept) == limit:
                        return Page(kept, after)
            if len(found) < limit:
                return Page(kept, None)
        return Page(kept, after)

    def _is_online(self, record: DeviceRecord, now: float) -> bool:
        device = self._fleet.get(record.id)
        return device is not None and self._fleet.is_online(device, now)


def look_at(record: DeviceRecord, *, is_online: bool) -> Look:
    """Return what a device has under each field of ``domain.filter.DEVICES``."""

    def look(field: str, key: str) -> Any:
        if field == "labels":
            return record.all_labels.get(key)
        if field == "online":
            return is_online
        return _READ[field](record)

    return look


def _is_revoked(record: DeviceRecord) -> bool:
    if record.revoked_at is None:
        return False
    return record.admitted_at is None or record.admitted_at <= record.revoked_at


_READ: Final[dict[str, Callable[[DeviceRecord], Any]]] = {
    "id": lambda record: record.id,
    "region": lambda record: record.region,
    "cohort": lambda record: record.cohort,
    "version": lambda record: record.running_version,
    "sequence": lambda record: record.running_sequence,
    "vendor": lambda record: record.vendor,
    "hardware": lambda record: record.hardware,
    "agent_version": lambda record: record.agent_version,
    "slot": lambda record: record.booted_slot,
    "last_seen": lambda record: record.last_seen,
    "member_since": lambda record: record.member_since,
    "added": lambda record: record.created_at,
    "held": lambda record: record.held,
    "revoked": _is_revoked,
    "claimed": lambda record: record.is_claimed,
}
