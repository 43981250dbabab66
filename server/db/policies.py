"""Policies under a name: rows that are only ever added, one for each version."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import asyncpg

from firmware_store.errors import ConflictError, NotFoundError
from server.db import audit
from server.db.audit import Entry
from server.db.database import Connection, Database
from server.domain.plan import Policy

_COLUMNS: Final = "name, version, document, reason, created_by, created_at"

ADD: Final = f"INSERT INTO policy ({_COLUMNS}) VALUES ($1, $2, $3::text::jsonb, $4, $5, $6)"

NEWEST: Final = f"SELECT {_COLUMNS} FROM policy WHERE name = $1 ORDER BY version DESC LIMIT 1"

VERSION: Final = f"SELECT {_COLUMNS} FROM policy WHERE name = $1 AND version = $2"

PAGE: Final = f"""
    SELECT DISTINCT ON (name) {_COLUMNS} FROM policy WHERE name > $1 ORDER BY name, version DESC LIMIT $2
"""

_CHANGED: Final = "Somebody has just published another version of this policy: look at it, and then decide."


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """One version of a policy; versions count from 1."""

    name: str
    version: int
    policy: Policy
    reason: str
    created_by: str
    created_at: datetime

    @property
    def shown(self) -> str:
        """Return what a campaign that was drawn up by it says."""
        return f"{self.name}@{self.version}"


class PolicyRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: PolicyRecord, *, seen: Callable[[PolicyRecord], None] | None = None) -> PolicyRecord:
        """Store the first version, or the one that follows the newest; the record's own number does not count.

        ``seen`` None: there must be none of this name yet; else it raises what speaks against following the newest.

        Raises:
            ConflictError: there is one of this name already, or somebody was faster.
            NotFoundError: there is none to follow.
        """
        try:
            async with self._database.transaction() as connection:
                before = await _found(connection, NEWEST, record.name)
                if seen is None and before is not None:
                    raise ConflictError(f"There is a policy {record.name} already: publish its next version.")
                if seen is not None:
                    seen(_there(before))
                version = 1 if before is None else before.version + 1
                made = replace(record, version=version)
                document = made.policy.model_dump_json()
                await connection.execute(
                    ADD, made.name, version, document, made.reason, made.created_by, made.created_at
                )
                entry = Entry(
                    "policy.publish",
                    made.shown,
                    made.created_at,
                    who=made.created_by,
                    before=None if before is None else before.policy.model_dump(mode="json"),
                    after=made.policy.model_dump(mode="json"),
                    reason=made.reason,
                )
                await audit.write(connection, entry)
        except asyncpg.UniqueViolationError as exc:
            raise ConflictError(_CHANGED) from exc
        return made

    async def get(self, name: str, version: int | None = None) -> PolicyRecord:
        """Return a version, or the newest. Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            if version is None:
                return _there(await _found(connection, NEWEST, name))
            return _there(await _found(connection, VERSION, name, version))

    async def page(self, *, after: str, limit: int) -> list[PolicyRecord]:
        """Return the newest version of each whose name comes after ``after``, by their names."""
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(PAGE, after, limit)]


async def _found(connection: Connection, statement: str, *values: object) -> PolicyRecord | None:
    row = await connection.fetchrow(statement, *values)
    return None if row is None else _record(row)


def _there(record: PolicyRecord | None) -> PolicyRecord:
    if record is None:
        raise NotFoundError("There is no such policy, or no such version of it.")
    return record


def _record(row: Any) -> PolicyRecord:
    values = dict(row)
    return PolicyRecord(policy=Policy.model_validate(json.loads(values.pop("document"))), **values)
