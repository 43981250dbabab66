"""What may be deleted by its age, a bounded batch at a time. The audit is not: nothing here touches it."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from server.db import audit
from server.db.audit import Entry
from server.db.database import Database
from server.domain.campaign import ACTIVE

BATCH_ROWS: Final = 5000

_STATES: Final = ", ".join(f"'{state}'" for state in sorted(ACTIVE))
_IS_OVER: Final = f"NOT EXISTS (SELECT FROM campaign WHERE id = old.campaign_id AND state IN ({_STATES}))"

# What devices have reported, of campaigns that are over; where each of them stands is kept.
_EVENTS: Final = f"execution_event AS old WHERE at < $1 AND {_IS_OVER}"
COUNT_EVENTS: Final = f"SELECT count(*) FROM {_EVENTS}"
DELETE_EVENTS: Final = f"""
    DELETE FROM execution_event WHERE ctid = ANY (ARRAY(SELECT old.ctid FROM {_EVENTS} LIMIT $2)) RETURNING 1
"""

# Why campaigns that are over have changed, with the numbers; the audit keeps that they did.
_DECISIONS: Final = f"decision AS old WHERE at < $1 AND {_IS_OVER}"
COUNT_DECISIONS: Final = f"SELECT count(*) FROM {_DECISIONS}"
DELETE_DECISIONS: Final = f"""
    DELETE FROM decision WHERE ctid = ANY (ARRAY(SELECT old.ctid FROM {_DECISIONS} LIMIT $2)) RETURNING 1
"""

# A device that was never admitted is one that was claimed, for as long as its claim is here.
_CLAIMS: Final = """
    device_claim AS old
     WHERE coalesce(used_at, withdrawn_at, expires_at) < $1
       AND EXISTS (SELECT FROM device WHERE id = old.device_id AND admitted_at IS NOT NULL)
"""
COUNT_CLAIMS: Final = f"SELECT count(*) FROM {_CLAIMS}"
DELETE_CLAIMS: Final = f"""
    DELETE FROM device_claim WHERE ctid = ANY (ARRAY(SELECT old.ctid FROM {_CLAIMS} LIMIT $2)) RETURNING 1
"""

_OPERATIONS: Final = "operation AS old WHERE ended_at < $1"
COUNT_OPERATIONS: Final = f"SELECT count(*) FROM {_OPERATIONS}"
DELETE_OPERATIONS: Final = f"""
    DELETE FROM operation WHERE ctid = ANY (ARRAY(SELECT old.ctid FROM {_OPERATIONS} LIMIT $2)) RETURNING 1
"""


class Kind(StrEnum):
    """What is deleted once it is old; the values are shown."""

    EVENTS = "execution events"
    CLAIMS = "claims that ended"
    OPERATIONS = "operations that ended"
    DECISIONS = "decisions"


class _Statements(NamedTuple):
    to_count: str
    to_delete: str


_OF: Final[Mapping[Kind, _Statements]] = MappingProxyType(
    {
        Kind.EVENTS: _Statements(COUNT_EVENTS, DELETE_EVENTS),
        Kind.CLAIMS: _Statements(COUNT_CLAIMS, DELETE_CLAIMS),
        Kind.OPERATIONS: _Statements(COUNT_OPERATIONS, DELETE_OPERATIONS),
        Kind.DECISIONS: _Statements(COUNT_DECISIONS, DELETE_DECISIONS),
    }
)


class RetentionRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, kind: Kind, before: datetime) -> int:
        """Return how many rows are older than ``before`` and may go."""
        async with self._database.transaction() as connection:
            count: int = await connection.fetchval(_OF[kind].to_count, before)
        return count

    async def delete(self, kind: Kind, before: datetime, *, most: int = BATCH_ROWS) -> int:
        """Delete some of them; return how many: fewer than ``most``, and there are no more."""
        async with self._database.transaction() as connection:
            return len(await connection.fetch(_OF[kind].to_delete, before, most))

    async def note(self, deleted: Mapping[Kind, int], *, who: str, now: datetime) -> None:
        """Write down what was deleted."""
        after = {kind.value: count for kind, count in deleted.items()}
        async with self._database.transaction() as connection:
            await audit.write(connection, Entry("database.retain", "", now, who=who, after=after))
