"""Changes of many devices: which devices are left, and one batch after the other as one transaction each."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from firmware_store.errors import ConflictError, NotFoundError
from server.db import audit, outbox
from server.db.audit import SERVER, Entry
from server.db.changes import GONE, UNDER_WAY, Batch, change_devices
from server.db.database import Connection, Database
from server.db.devices import PLAN_ANEW
from server.db.filters import where_devices
from server.domain.campaign import ACTIVE
from server.domain.change import Change
from server.domain.events import Event, EventType
from server.domain.filter import Expression
from server.domain.identity import OPERATION, Cohort, DeviceId, Region, show
from server.domain.scope import EVERYTHING, Scope

SAMPLE: Final = 10
ERRORS_MOST: Final = 100
"""Devices that are named as refused; the others are counted."""


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """One change of many devices. ``errors`` are (device, why), the first of those that were ``refused``.

    ``scope``: of whoever began it.
    """

    id: UUID
    filter: str
    change: Change
    reason: str
    created_by: str
    created_at: datetime
    total: int
    state: str = "running"
    done: int = 0
    refused: int = 0
    ended_at: datetime | None = None
    errors: Sequence[tuple[str, str]] = ()
    scope: Scope = EVERYTHING


@dataclass(frozen=True, slots=True)
class Plan:
    """What a change would do. ``digest`` names the devices and the change; ``refused``: how many are under way now."""

    devices: int
    refused: int
    places: Mapping[tuple[Region, Cohort], int]
    sample: Sequence[DeviceId]
    digest: str


_COLUMNS: Final = """id, state, filter, change, reason, created_by, created_at, ended_at, total, done, refused,
    errors, regions, cohorts"""

GET: Final = f"SELECT {_COLUMNS} FROM operation WHERE id = $1"

NEWEST: Final = f"""
    SELECT {_COLUMNS} FROM operation
     WHERE ($2::text[] IS NULL OR regions <@ $2) AND ($3::text[] IS NULL OR cohorts <@ $3)
       AND ($4::uuid IS NULL OR id < $4)
     ORDER BY id DESC LIMIT $1
"""

RUNNING: Final = f"SELECT {_COLUMNS} FROM operation WHERE state = 'running' ORDER BY id"

ADD: Final = """
    INSERT INTO operation (id, filter, change, reason, created_by, created_at, total, regions, cohorts)
    VALUES ($1, $2, $3::text::jsonb, $4, $5, $6, 0, $7, $8)
"""

DIGEST: Final = """
    UPDATE operation SET total = target.count
      FROM (SELECT count(*), sha256(convert_to(coalesce(string_agg(device_id, ' ' ORDER BY device_id), ''), 'UTF8'))
              FROM operation_device WHERE operation_id = $1) AS target (count, digest)
     WHERE id = $1
    RETURNING total, digest
"""

LOCK: Final = "SELECT state FROM operation WHERE id = $1 FOR UPDATE"

NEXT: Final = "SELECT device_id FROM operation_device WHERE operation_id = $1 ORDER BY device_id LIMIT $2"

STRIKE: Final = "DELETE FROM operation_device WHERE operation_id = $1 AND device_id = ANY($2)"

ADVANCE: Final = """
    UPDATE operation
       SET done = done + $2, refused = refused + $3,
           errors = CASE WHEN jsonb_array_length(errors) < $5 THEN errors || $4::text::jsonb ELSE errors END
     WHERE id = $1
"""

END: Final = """
    UPDATE operation SET state = $2, ended_at = $3, errors = errors || $4::text::jsonb
     WHERE id = $1 AND state = 'running'
"""

CLEAR: Final = "DELETE FROM operation_device WHERE operation_id = $1"


class OperationRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def plan(self, expression: Expression, change: Change, *, scope: Scope = EVERYTHING) -> Plan:
        """Return what a change of the devices that a filter lets through would do; nothing changes."""
        where, values = where_devices(scope.limit(expression), 1)
        first = len(values) + 1
        async with self._database.transaction() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await connection.execute(PLAN_ANEW)
            rows = await connection.fetch(_places(where), *values)
            digest = await connection.fetchval(_digest(where), *values)
            sample = await connection.fetch(_sample(where), *values)
            busy = 0
            if change.is_move:
                states = [state.value for state in ACTIVE]
                busy = await connection.fetchval(_busy(where, first), *values, states, list(UNDER_WAY))
        return Plan(
            devices=sum(row["devices"] for row in rows),
            refused=busy,
            places={(row["region"], row["cohort"]): row["devices"] for row in rows},
            sample=[row["id"] for row in sample],
            digest=_named(digest, change),
        )

    async def begin(self, record: OperationRecord, expression: Expression, *, digest: str | None) -> OperationRecord:
        """Store a change, and which devices it is for; they are changed batch by batch.

        Raises:
            ConflictError: they are not those that ``digest`` names; nothing has changed.
        """
        where, values = where_devices(record.scope.limit(expression), 2)
        async with self._database.transaction() as connection:
            await connection.execute(
                ADD,
                record.id,
                record.filter,
                record.change.model_dump_json(),
                record.reason,
                record.created_by,
                record.created_at,
                record.scope.region_names,
                record.scope.cohort_names,
            )
            await connection.execute(PLAN_ANEW)
            await connection.execute(_targets(where), record.id, *values)
            row = await connection.fetchrow(DIGEST, record.id)
            assert row is not None
            if digest is not None and _named(row["digest"], record.change) != digest:
                raise ConflictError(
                    f"The devices are not those that were shown: there are {row['total']} now. Look at them again."
                )
            after = {"filter": record.filter, "devices": row["total"], "digest": row["digest"].hex(), **_said(record)}
            named = show(OPERATION, record.id)
            await audit.write(
                connection, Entry("operation.begin", named, record.created_at, after=after, reason=record.reason)
            )
            return await _get(connection, record.id)

    async def get(self, operation: UUID, *, scope: Scope = EVERYTHING) -> OperationRecord:
        """Raises: NotFoundError: there is none, or it reaches beyond ``scope``."""
        async with self._database.transaction() as connection:
            return await _get(connection, operation, scope)

    async def newest(
        self, limit: int, *, before: UUID | None = None, scope: Scope = EVERYTHING
    ) -> list[OperationRecord]:
        """Return the newest of those that do not reach beyond ``scope``; ``before``: those that follow this one."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(NEWEST, limit, scope.region_names, scope.cohort_names, before)
        return [_record(row) for row in rows]

    async def running(self) -> list[OperationRecord]:
        """Return those that are not over, the oldest first."""
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(RUNNING)]

    async def step(self, operation: OperationRecord, *, most: int, now: datetime) -> Batch:
        """Change up to ``most`` of the devices that are left, and strike them off; ends it where none is left."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(LOCK, operation.id) != "running":
                return Batch(is_last=True)
            names = [row["device_id"] for row in await connection.fetch(NEXT, operation.id, most)]
            batch = await change_devices(connection, names, operation.change, now=now, scope=operation.scope)
            await connection.execute(STRIKE, operation.id, names)
            named = json.dumps(list(batch.refused[:ERRORS_MOST]))
            await connection.execute(
                ADVANCE, operation.id, len(names) - len(batch.refused), len(batch.refused), named, ERRORS_MOST
            )
            if len(names) < most:
                await connection.execute(END, operation.id, "done", now, "[]")
                await _tell_end(connection, await _get(connection, operation.id), now, SERVER)
                return replace(batch, is_last=True)
        return batch

    async def end(
        self, operation: UUID, state: str, *, now: datetime, why: str = "", scope: Scope = EVERYTHING
    ) -> OperationRecord:
        """End one that runs, as ``failed`` or ``cancelled``: what is not changed yet stays as it is.

        Raises:
            NotFoundError.
        """
        async with self._database.transaction() as connection:
            await _get(connection, operation, scope)
            await connection.execute(END, operation, state, now, json.dumps([["", why]] if why else []))
            await connection.execute(CLEAR, operation)
            ended = await _get(connection, operation)
            if ended.ended_at == now:  # it had not ended before
                await _tell_end(connection, ended, now, None, why)
            return ended

    async def change_one(self, device: DeviceId, change: Change, *, now: datetime, scope: Scope = EVERYTHING) -> Batch:
        """Change one device.

        Raises:
            NotFoundError.
            ConflictError: it is not to be moved now, or would have too many labels.
        """
        async with self._database.transaction() as connection:
            batch = await change_devices(connection, [device], change, now=now, scope=scope)
            if batch.refused:
                why = batch.refused[0][1]
                if why == GONE:
                    raise NotFoundError(f"There is no device {device}.")
                raise ConflictError(f"{device}: {why}.")
            after = change.model_dump(mode="json", exclude_defaults=True)
            await audit.write(connection, Entry("device.change", device, now, after=after))
        return batch


def _said(record: OperationRecord) -> dict[str, Any]:
    return {"change": record.change.model_dump(mode="json", exclude_defaults=True)}


async def _tell_end(
    connection: Connection, record: OperationRecord, now: datetime, who: str | None, why: str = ""
) -> None:
    after = {"state": record.state, "done": record.done, "refused": record.refused, "devices": record.total}
    named = show(OPERATION, record.id)
    await audit.write(connection, Entry("operation.end", named, now, who=who, after=after, reason=why))
    told = {**after, "filter": record.filter, "change": _said(record)["change"], "sentence": why}
    await outbox.put(connection, Event(EventType.OPERATION_ENDED, named, now, told))


def _named(devices: bytes, change: Change) -> str:
    """Return the name of a change of these devices."""
    return hashlib.sha256(devices + change.model_dump_json().encode()).hexdigest()


def _places(where: str) -> str:
    return f"SELECT region, cohort, count(*) AS devices FROM device WHERE {where} GROUP BY region, cohort ORDER BY 1, 2"


def _digest(where: str) -> str:
    return f"""
        SELECT sha256(convert_to(coalesce(string_agg(id, ' ' ORDER BY id), ''), 'UTF8')) FROM device WHERE {where}
    """


def _sample(where: str) -> str:
    return f"SELECT id FROM device WHERE {where} ORDER BY id LIMIT {SAMPLE}"


def _targets(where: str) -> str:
    return f"INSERT INTO operation_device (operation_id, device_id) SELECT $1, id FROM device WHERE {where}"


def _busy(where: str, first: int) -> str:
    return f"""
        SELECT count(DISTINCT device.id)
          FROM campaign AS c JOIN execution AS e ON e.campaign_id = c.id JOIN device ON device.id = e.device_id
         WHERE c.state = ANY(${first}::text[]) AND e.state = ANY(${first + 1}::text[]) AND {where}
    """


async def _get(connection: Connection, operation: UUID, scope: Scope = EVERYTHING) -> OperationRecord:
    row = await connection.fetchrow(GET, operation)
    record = None if row is None else _record(row)
    if record is None or not record.scope.is_within(scope):
        raise NotFoundError("There is no such operation.")
    return record


def _record(row: Any) -> OperationRecord:
    values = dict(row)
    values["change"] = Change.model_validate_json(values["change"])
    names = [None if found is None else frozenset(found) for found in (values.pop("regions"), values.pop("cohorts"))]
    values["scope"] = Scope(*names)
    values["errors"] = tuple((device, why) for device, why in json.loads(values["errors"]))
    return OperationRecord(**values)
