"""The inventory: what devices there are, where they belong, and what they last said of themselves."""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from firmware_store.errors import ConflictError, NotFoundError
from server.db import audit, outbox
from server.db.audit import SERVER, Entry
from server.db.database import Database
from server.db.filters import IS_REVOKED, where_devices
from server.domain.events import Event, EventType, named
from server.domain.filter import Conjunction, Expression
from server.domain.identity import CAMPAIGN, CampaignId, Cohort, DeviceId, Region, show
from server.domain.scope import EVERYTHING, Scope


@dataclass(frozen=True, slots=True)
class NewDevice:
    """A device to be added."""

    id: DeviceId
    region: Region
    cohort: Cohort


@dataclass(frozen=True, slots=True)
class ImportedDevice:
    """A device to be added, from a line of a table."""

    line: int
    id: DeviceId
    region: Region
    cohort: Cohort
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """One device. What it says of itself is None until its first hello; a factory image has an empty digest.

    ``held_until`` None: until somebody releases it. ``wake_interval_s`` None: it does not sleep. ``labels`` are what
    it says of itself, ``operator_labels`` what people say of it. ``is_claimed``: somebody has made
    a claim for it, or it was given a credential. ``moved``: and has not said hello since.
    """

    id: DeviceId
    region: Region
    cohort: Cohort
    member_since: datetime
    held: bool = False
    vendor: str | None = None
    hardware: str | None = None
    agent_version: str | None = None
    booted_slot: str | None = None
    running_version: str | None = None
    running_digest: bytes | None = None
    running_sequence: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    session_nonce: bytes | None = None
    last_seen: datetime | None = None
    admitted_at: datetime | None = None
    revoked_at: datetime | None = None
    held_until: datetime | None = None
    held_reason: str = ""
    absences: float = 0.0
    absent_at: datetime | None = None
    wake_interval_s: int | None = None
    operator_labels: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    is_claimed: bool = False
    moved: bool = False

    @property
    def all_labels(self) -> Mapping[str, str]:
        """What people say of it outweighs what it says of itself."""
        return {**self.labels, **self.operator_labels} if self.operator_labels else self.labels


@dataclass(frozen=True, slots=True)
class Seen:
    """When a device was last heard from, and how often it had been away at ``absent_at`` (recent times count more)."""

    id: DeviceId
    at: datetime
    absences: float
    absent_at: datetime | None


READ_AHEAD: Final = 5000

_COLUMNS: Final = """id, region, cohort, member_since, held, vendor, hardware, agent_version, booted_slot,
    running_version, running_digest, running_sequence, labels, session_nonce, last_seen,
    admitted_at, revoked_at, held_until, held_reason, absences, absent_at, wake_interval_s, operator_labels,
    created_at, moved,
    (admitted_at IS NOT NULL OR EXISTS (SELECT FROM device_claim WHERE device_id = device.id)) AS is_claimed"""

ADD: Final = """
    INSERT INTO device (id, region, cohort, member_since, created_at)
    SELECT id, region, cohort, $4, $4 FROM unnest($1::text[], $2::text[], $3::text[]) AS new (id, region, cohort)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
"""

IMPORT: Final = """
    INSERT INTO device (id, region, cohort, operator_labels, member_since, created_at)
    SELECT id, region, cohort, labels::jsonb, $5, $5
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS new (id, region, cohort, labels)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
"""

GET: Final = f"SELECT {_COLUMNS} FROM device WHERE id = $1"

ALL: Final = f"SELECT {_COLUMNS} FROM device ORDER BY id"

PLAN_ANEW: Final = "SET LOCAL plan_cache_mode = 'force_custom_plan'"
"""A filter is planned for its values: how many devices it lets through decides which index is good for it."""

PAGE: Final = f"SELECT {_COLUMNS} FROM device WHERE id > $1 ORDER BY id LIMIT $2"

COUNT_IN: Final = "SELECT count(*) FROM device WHERE cohort = $1 AND region = $2"

PLACES: Final = "SELECT id, region, cohort FROM device WHERE id = ANY($1)"

NOTE_SEEN: Final = """
    UPDATE device SET last_seen = seen.at, absences = seen.absences, absent_at = seen.absent_at
      FROM unnest($1::text[], $2::timestamptz[], $3::float8[], $4::timestamptz[]) AS seen (id, at, absences, absent_at)
     WHERE device.id = seen.id AND (device.last_seen IS NULL OR device.last_seen < seen.at)
"""


ADMIT: Final = f"""
    UPDATE device SET admitted_at = greatest($2, admitted_at)
     WHERE id = ANY($1::text[]) AND NOT {IS_REVOKED}
    RETURNING id, admitted_at, region, cohort
"""

HOLD: Final = f"""
    UPDATE device SET held = true, held_until = $2, held_reason = $3 WHERE id = $1 RETURNING {_COLUMNS}
"""

RELEASE: Final = f"""
    UPDATE device SET held = false, held_until = NULL, held_reason = '', released_at = $2
     WHERE id = $1
    RETURNING {_COLUMNS}
"""

RELEASE_DUE: Final = """
    UPDATE device SET held = false, held_until = NULL, held_reason = '', released_at = $1
     WHERE held AND held_until <= $1
    RETURNING id, region, cohort
"""

# What failed before a device was released holds it no more.
HOLD_SPENT: Final = """
    UPDATE device
       SET held = true, held_until = e.updated_at + $4::interval, held_reason = $5
      FROM execution AS e
     WHERE e.campaign_id = $1 AND e.state = 'failed' AND e.attempt >= $2 AND e.device_id = device.id
       AND NOT device.held AND e.updated_at + $4::interval > $3
       AND (device.released_at IS NULL OR e.updated_at > device.released_at)
    RETURNING device.id, device.region, device.cohort
"""


class DeviceRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, devices: Sequence[NewDevice], *, now: datetime) -> None:
        """Add them all or none.

        Raises:
            ConflictError: one of them is there already, or comes twice.
        """
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                ADD,
                [device.id for device in devices],
                [device.region for device in devices],
                [device.cohort for device in devices],
                now,
            )
            added = {row["id"] for row in rows}
            if len(added) < len(devices):
                known = [device.id for device in devices if device.id not in added] or [devices[0].id]
                raise ConflictError(
                    f"{len(devices) - len(added)} devices exist already, such as {known[0]}; none was added."
                )
            await audit.write(
                connection,
                *(
                    Entry("device.add", one.id, now, after={"region": one.region, "cohort": one.cohort})
                    for one in devices
                ),
            )

    async def get(self, device: DeviceId, *, scope: Scope = EVERYTHING) -> DeviceRecord:
        """Raises: NotFoundError: there is none, or none within ``scope``."""
        async with self._database.transaction() as connection:
            return _found(await connection.fetchrow(GET, device), device, scope)

    async def each(self) -> AsyncIterator[DeviceRecord]:
        """Yield every device, by id: the server's start reads them once, some thousands at a time."""
        async with self._database.transaction() as connection:
            async for row in connection.cursor(ALL, prefetch=READ_AHEAD):
                yield _record(row)

    async def each_of(self, expression: Expression, *, scope: Scope = EVERYTHING) -> AsyncIterator[DeviceRecord]:
        """Yield the devices within ``scope`` that a filter lets through, by id, some hundreds at a time."""
        where, values = where_devices(scope.limit(expression), 1)
        async with self._database.transaction() as connection:
            statement = f"SELECT {_COLUMNS} FROM device WHERE {where} ORDER BY id"
            async for row in connection.cursor(statement, *values, prefetch=500):
                yield _record(row)

    async def import_all(self, devices: Sequence[ImportedDevice], *, now: datetime) -> list[tuple[int, DeviceId, str]]:
        """Add them all or none; returns (line, device, why) of those that cannot be added."""
        wrong: list[tuple[int, DeviceId, str]] = []
        async with self._database.transaction() as connection:
            savepoint = connection.transaction()
            await savepoint.start()
            for start in range(0, len(devices), READ_AHEAD):
                some = devices[start : start + READ_AHEAD]
                columns = [[getattr(one, name) for one in some] for name in ("id", "region", "cohort")]
                labels = [json.dumps(dict(one.labels)) for one in some]
                rows = await connection.fetch(IMPORT, *columns, labels, now)
                added = {row["id"] for row in rows}
                wrong += [(one.line, one.id, "is there already") for one in some if one.id not in added]
            if wrong:
                await savepoint.rollback()
                return wrong
            await savepoint.commit()
            named = hashlib.sha256(" ".join(sorted(one.id for one in devices)).encode()).hexdigest()
            await audit.write(
                connection, Entry("device.import", named, now, after={"devices": len(devices), "digest": named})
            )
        return wrong

    async def find(
        self, expression: Expression, *, after: str, limit: int, scope: Scope = EVERYTHING
    ) -> list[DeviceRecord]:
        """Return up to ``limit`` devices within ``scope`` that a filter lets through, by id from ``after`` on.

        Raises:
            KeyError: it looks at what the database does not know, see ``domain.filter.LIVE``.
        """
        where, values = where_devices(scope.limit(expression), 3)
        async with self._database.transaction() as connection:
            await connection.execute(PLAN_ANEW)
            return [_record(row) for row in await connection.fetch(_find(where), after, limit, *values)]

    async def page(self, *, after: str, limit: int, scope: Scope = EVERYTHING) -> list[DeviceRecord]:
        """Return up to ``limit`` devices within ``scope`` whose ids come after ``after``."""
        if scope.is_limited:
            return await self.find(Conjunction(()), after=after, limit=limit, scope=scope)
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(PAGE, after, limit)]

    async def count_in(self, cohort: Cohort, region: Region) -> int:
        """Return how many devices one audience has."""
        async with self._database.transaction() as connection:
            return int(await connection.fetchval(COUNT_IN, cohort, region))

    async def places(self, devices: Sequence[DeviceId]) -> dict[DeviceId, tuple[Region, Cohort]]:
        """Return where those of these devices are that there are."""
        async with self._database.transaction() as connection:
            return {row["id"]: (row["region"], row["cohort"]) for row in await connection.fetch(PLACES, list(devices))}

    async def admit(
        self, devices: Sequence[DeviceId], *, now: datetime, scope: Scope = EVERYTHING
    ) -> dict[DeviceId, datetime]:
        """Note that each gets a broker credential, and return when it must say that it was issued.

        That is a whole second, and a revocation that comes later covers it. Devices that are revoked, or not there,
        are left out.

        Raises:
            NotFoundError: one is not within ``scope``; nothing has changed.
        """
        async with self._database.transaction() as connection:
            rows = await connection.fetch(ADMIT, list(devices), whole_second(now))
            for row in rows:
                check_place(row, row["id"], scope)
            await audit.write(connection, *(Entry("device.give_credential", row["id"], now) for row in rows))
        return {row["id"]: row["admitted_at"] for row in rows}

    async def hold(
        self,
        device: DeviceId,
        *,
        until: datetime | None,
        reason: str,
        by: str,
        now: datetime,
        scope: Scope = EVERYTHING,
    ) -> DeviceRecord:
        """Let it start nothing until then, or until it is released. Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            before = _hold_of(_found(await connection.fetchrow(GET, device), device, scope))
            row = await connection.fetchrow(HOLD, device, until, reason)
            record = _found(row, device, scope)
            after = _hold_of(record)
            await audit.write(
                connection, Entry("device.hold", device, now, who=by, before=before, after=after, reason=reason)
            )
            await outbox.put(connection, _event(EventType.DEVICE_HELD, row, now, {"who": by, "sentence": reason}))
        return record

    async def release(self, device: DeviceId, *, by: str, now: datetime, scope: Scope = EVERYTHING) -> DeviceRecord:
        """End its hold, if it is held. Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            before = _hold_of(_found(await connection.fetchrow(GET, device), device, scope))
            row = await connection.fetchrow(RELEASE, device, now)
            record = _found(row, device, scope)
            after = _hold_of(record)
            await audit.write(connection, Entry("device.release", device, now, who=by, before=before, after=after))
            await outbox.put(connection, _event(EventType.DEVICE_RELEASED, row, now, {"who": by}))
        return record

    async def release_due(self, now: datetime) -> list[DeviceId]:
        """End the holds whose time is over; returns whose."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(RELEASE_DUE, now)
            if rows:
                why = "its hold is over"
                await audit.write(
                    connection, *(Entry("device.release", row["id"], now, who=SERVER, reason=why) for row in rows)
                )
                told = {"who": SERVER, "sentence": why}
                await outbox.put(connection, *(_event(EventType.DEVICE_RELEASED, row, now, told) for row in rows))
        return [row["id"] for row in rows]

    async def hold_spent(
        self, campaign: CampaignId, *, attempts: int, last: timedelta, reason: str, now: datetime
    ) -> list[DeviceId]:
        """Hold the devices of which so many attempts have failed in a campaign, for so long; returns the new ones."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(HOLD_SPENT, campaign, attempts, now, last, reason)
            if rows:
                after = {"campaign": show(CAMPAIGN, campaign), "seconds": last.total_seconds()}
                await audit.write(
                    connection,
                    *(Entry("device.hold", row["id"], now, who=SERVER, after=after, reason=reason) for row in rows),
                )
                await outbox.put(connection, _quarantined(campaign, rows, reason, now))
        return [row["id"] for row in rows]

    async def note_seen(self, seen: Sequence[Seen]) -> None:
        """Store when devices were last heard from; never moves a time back."""
        columns = [[getattr(one, name) for one in seen] for name in ("id", "at", "absences", "absent_at")]
        async with self._database.transaction() as connection:
            await connection.execute(NOTE_SEEN, *columns)


def whole_second(instant: datetime) -> datetime:
    """Broker credentials state their time like this."""
    return instant.replace(microsecond=0)


def _find(where: str) -> str:
    return f"SELECT {_COLUMNS} FROM device WHERE id > $1 AND {where} ORDER BY id LIMIT $2"


def _event(kind: EventType, row: Any, at: datetime, told: Mapping[str, object]) -> Event:
    data = {"region": row["region"], "cohort": row["cohort"], **told}
    return Event(kind, row["id"], at, data, regions=(row["region"],), cohort=row["cohort"])


def _quarantined(campaign: CampaignId, rows: Sequence[Any], reason: str, now: datetime) -> Event:
    return Event(
        EventType.DEVICES_QUARANTINED,
        show(CAMPAIGN, campaign),
        now,
        {"sentence": reason, **named([{"device": row["id"], "region": row["region"]} for row in rows])},
        campaign,
        tuple(sorted({row["region"] for row in rows})),
        rows[0]["cohort"],
    )


def _hold_of(record: DeviceRecord) -> dict[str, object]:
    until = None if record.held_until is None else record.held_until.isoformat()
    return {"held": record.held, "until": until, "reason": record.held_reason}


def check_place(row: Any, device: DeviceId, scope: Scope) -> None:
    """Return if there is a device and it is within ``scope``.

    Inside a transaction, so that what was done to one that is not is undone. Raises: NotFoundError.
    """
    if row is None or not scope.has(row["region"], row["cohort"]):
        raise NotFoundError(f"There is no device {device}.")


def _found(row: Any, device: DeviceId, scope: Scope) -> DeviceRecord:
    check_place(row, device, scope)
    return _record(row)


def _record(row: Any) -> DeviceRecord:
    values = dict(row)
    for name in ("labels", "operator_labels"):
        values[name] = {} if values[name] == "{}" else json.loads(values[name])
    return DeviceRecord(**values)
