"""Freeze calendars: rows that people add and remove; there are few."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from firmware_store.errors import ForbiddenError, NotFoundError
from server.db import audit
from server.db.audit import Entry
from server.db.database import Database
from server.domain.freeze import Freeze
from server.domain.identity import FREEZE, Region, show
from server.domain.scope import EVERYTHING, Scope


@dataclass(frozen=True, slots=True)
class FreezeRecord:
    """A freeze, and who has added it."""

    freeze: Freeze
    created_by: str
    created_at: datetime


_COLUMNS: Final = "id, region, zone, starts, ends, reason, created_by, created_at"

ADD: Final = f"INSERT INTO campaign_freeze ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"

ALL: Final = f"SELECT {_COLUMNS} FROM campaign_freeze ORDER BY starts, id"

REMOVE: Final = f"DELETE FROM campaign_freeze WHERE id = $1 RETURNING {_COLUMNS}"


class FreezeRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: FreezeRecord) -> None:
        freeze = record.freeze
        async with self._database.transaction() as connection:
            await connection.execute(
                ADD,
                freeze.id,
                freeze.region,
                freeze.zone,
                freeze.starts,
                freeze.ends,
                freeze.reason,
                record.created_by,
                record.created_at,
            )
            await audit.write(
                connection,
                Entry(
                    "freeze.add",
                    show(FREEZE, freeze.id),
                    record.created_at,
                    who=record.created_by,
                    after=_told(freeze),
                    reason=freeze.reason,
                ),
            )

    async def all(self) -> list[FreezeRecord]:
        """Return them by their start, those that are over too."""
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(ALL)]

    async def remove(self, freeze: UUID, *, by: str, now: datetime, scope: Scope = EVERYTHING) -> FreezeRecord:
        """Raises: NotFoundError; ForbiddenError: it also holds what is not within ``scope``."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(REMOVE, freeze)
            if row is None or not is_shown(_record(row), scope):
                raise NotFoundError("There is no such freeze.")
            check_reach(row["region"], scope)
            record = _record(row)
            before = _told(record.freeze) | {"reason": record.freeze.reason}
            await audit.write(connection, Entry("freeze.remove", show(FREEZE, freeze), now, who=by, before=before))
        return record


def _told(freeze: Freeze) -> dict[str, object]:
    span = {"starts": freeze.starts.isoformat(), "ends": freeze.ends.isoformat()}
    return {"region": freeze.region, "zone": freeze.zone, **span}


def is_shown(record: FreezeRecord, scope: Scope) -> bool:
    """Tell whether it holds anything within ``scope``: whatever its region, it holds all cohorts."""
    region = record.freeze.region
    return region is None or scope.has_region(region)


def check_reach(region: Region | None, scope: Scope) -> None:
    """Return if a freeze of ``region`` (None: everywhere) holds nothing that is not within ``scope``.

    Raises:
        ForbiddenError.
    """
    if scope.cohorts is not None or (scope.regions is not None and region not in scope.regions):
        raise ForbiddenError(f"A freeze holds every cohort of its region, and your access is limited to {scope}.")


def _record(row: Any) -> FreezeRecord:
    region = None if row["region"] is None else Region(row["region"])
    freeze = Freeze(row["id"], region, row["zone"], row["starts"], row["ends"], row["reason"])
    return FreezeRecord(freeze, row["created_by"], row["created_at"])
