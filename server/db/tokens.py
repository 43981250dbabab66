"""API tokens: only the SHA-256 of a secret is kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from firmware_store.errors import ConflictError, NotFoundError
from server.db import audit
from server.db.audit import SERVER, Entry
from server.db.database import Database
from server.domain.identity import Cohort, Region
from server.domain.scope import EVERYTHING, Scope

USE_NOTED_EVERY: Final = timedelta(minutes=1)
"""The last use of a token is as exact as this, so that reading the API writes next to nothing."""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One token; ``secret`` is SHA-256 of what its holder has. ``created_by`` None: the server, at its first start."""

    id: str
    name: str
    role: str
    secret: bytes
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    scope: Scope = EVERYTHING
    created_by: str | None = None
    revoked_by: str | None = None
    last_used_at: datetime | None = None

    def is_good(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


_COLUMNS: Final = """id, name, role, secret, created_at, expires_at, revoked_at, regions, cohorts, created_by,
    revoked_by, last_used_at"""

ADD: Final = """
    INSERT INTO token (id, name, role, secret, created_at, expires_at, regions, cohorts, created_by)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""

LOCK: Final = "LOCK TABLE token IN SHARE ROW EXCLUSIVE MODE"

ADD_FIRST: Final = """
    INSERT INTO token (id, name, role, secret, created_at, expires_at, regions, cohorts, created_by)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE NOT EXISTS (SELECT FROM token)
    RETURNING id
"""

GET: Final = f"SELECT {_COLUMNS} FROM token WHERE id = $1"

NOTE_USE: Final = """
    UPDATE token SET last_used_at = $2
     WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $2::timestamptz - $3::interval)
"""

# A token without limits is within none.
NEWEST: Final = f"""
    SELECT {_COLUMNS} FROM token
     WHERE ($1::text[] IS NULL OR regions <@ $1) AND ($2::text[] IS NULL OR cohorts <@ $2)
       AND ($4::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM token WHERE id = $4))
     ORDER BY created_at DESC, id DESC LIMIT $3
"""

REVOKE: Final = f"""
    UPDATE token SET revoked_at = coalesce(revoked_at, $2), revoked_by = coalesce(revoked_by, $3)
     WHERE id = $1
    RETURNING {_COLUMNS}
"""

HAS_ADMIN: Final = """
    SELECT EXISTS (SELECT FROM token
                    WHERE role = 'admin' AND regions IS NULL AND cohorts IS NULL AND revoked_at IS NULL
                      AND (expires_at IS NULL OR expires_at > $1))
"""


class TokenRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token: TokenRecord) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(ADD, *_values(token))
            await audit.write(connection, _made(token))

    async def add_first(self, token: TokenRecord) -> bool:
        """Add it if there is no token at all; False otherwise."""
        async with self._database.transaction() as connection:
            await connection.execute(LOCK)  # or servers that start together would each find the table empty
            is_first = await connection.fetchval(ADD_FIRST, *_values(token)) is not None
            if is_first:
                await audit.write(connection, _made(token, who=SERVER))
        return is_first

    async def get(self, token_id: str) -> TokenRecord | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(GET, token_id)
        return None if row is None else _record(row)

    async def note_use(self, token_id: str, now: datetime) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(NOTE_USE, token_id, now, USE_NOTED_EVERY)

    async def newest(self, limit: int, *, before: str | None = None, scope: Scope = EVERYTHING) -> list[TokenRecord]:
        """Return the newest of those whose limits are within ``scope``; ``before``: those that follow this one."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(NEWEST, scope.region_names, scope.cohort_names, limit, before)
        return [_record(row) for row in rows]

    async def revoke(self, token_id: str, *, by: str, now: datetime, scope: Scope = EVERYTHING) -> TokenRecord:
        """End it; one that is ended already stays as it is.

        Raises:
            NotFoundError: there is none, or none within ``scope``.
            ConflictError: nobody could make tokens any more.
        """
        async with self._database.transaction() as connection:
            await connection.execute(LOCK)  # or two who end each other's would leave nobody
            had_admin = await connection.fetchval(HAS_ADMIN, now)
            row = await connection.fetchrow(REVOKE, token_id, now, by)
            record = None if row is None else _record(row)
            if record is None or not record.scope.is_within(scope):
                raise NotFoundError("There is no such token.")
            if had_admin and not await connection.fetchval(HAS_ADMIN, now):
                raise ConflictError("This is the last administrator's token without limits: make another one first.")
            await audit.write(connection, Entry("token.revoke", _shown(record), now, who=by))
        return record


def _made(token: TokenRecord, *, who: str | None = None) -> Entry:
    expires = None if token.expires_at is None else token.expires_at.isoformat()
    after = {
        "name": token.name,
        "role": token.role,
        "expires": expires,
        "regions": token.scope.region_names,
        "cohorts": token.scope.cohort_names,
    }
    return Entry("token.create", _shown(token), token.created_at, who=who, after=after)


def _shown(token: TokenRecord) -> str:
    return f"token {token.id}"


def _values(token: TokenRecord) -> tuple[object, ...]:
    return (
        token.id,
        token.name,
        token.role,
        token.secret,
        token.created_at,
        token.expires_at,
        token.scope.region_names,
        token.scope.cohort_names,
        token.created_by,
    )


def _record(row: Any) -> TokenRecord:
    values = dict(row)
    regions, cohorts = values.pop("regions"), values.pop("cohorts")
    scope = Scope(
        None if regions is None else frozenset(map(Region, regions)),
        None if cohorts is None else frozenset(map(Cohort, cohorts)),
    )
    return TokenRecord(**values, scope=scope)
