"""Releases that somebody should take back: proposed by each halt, and there until they are signed for or declined."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType
from uuid import UUID

from firmware_store.errors import ConflictError, NotFoundError
from server.db import audit
from server.db.audit import Entry
from server.db.database import Connection, Database
from server.domain.identity import REVOCATION, CampaignId, show
from server.domain.scope import EVERYTHING, Scope

RevocationId = NewType("RevocationId", UUID)


class Stage(StrEnum):
    """Values are what is stored and shown."""

    PROPOSED = "proposed"
    PUBLISHED = "published"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True)
class RevocationRecord:
    """One proposal; ``sentence`` says why the campaign was halted, ``reason`` why somebody declined."""

    id: RevocationId
    manifest_digest: bytes
    campaign: CampaignId
    sentence: str
    proposed_at: datetime
    stage: Stage = Stage.PROPOSED
    decided_at: datetime | None = None
    decided_by: str | None = None
    reason: str | None = None


_COLUMNS: Final = """id, manifest_digest, campaign_id, sentence, proposed_at, state, decided_at, decided_by, reason"""

# One proposal for a release at a time: a second halt of it says nothing new to whoever holds the key.
PROPOSE: Final = """
    INSERT INTO release_revocation (id, manifest_digest, campaign_id, sentence, proposed_at, reminded_at)
    VALUES ($1, $2, $3, $4, $5, $5)
    ON CONFLICT (manifest_digest) WHERE state = 'proposed' DO NOTHING
"""

SETTLE: Final = """
    UPDATE release_revocation SET state = 'published', decided_at = $2, decided_by = $3
     WHERE state = 'proposed' AND manifest_digest = ANY($1)
"""

DECLINE: Final = f"""
    UPDATE release_revocation SET state = 'declined', decided_at = $2, decided_by = $3, reason = $4
     WHERE state = 'proposed' AND id = $1
    RETURNING {_COLUMNS}
"""

REMIND: Final = f"""
    UPDATE release_revocation SET reminded_at = $1 WHERE state = 'proposed' AND reminded_at <= $2 RETURNING {_COLUMNS}
"""

GET: Final = f"SELECT {_COLUMNS} FROM release_revocation WHERE id = $1"

# What a proposal says is about all of a campaign's devices: it is shown to whoever may see all of them.
NEWEST: Final = f"""
    SELECT {_COLUMNS} FROM release_revocation AS r
     WHERE ($1::text IS NULL OR state = $1)
       AND ($3::text[] IS NULL OR EXISTS (SELECT FROM campaign WHERE id = r.campaign_id AND cohort = ANY($3)))
       AND ($4::text[] IS NULL
            OR NOT EXISTS (SELECT FROM campaign_region WHERE campaign_id = r.campaign_id AND region <> ALL($4)))
       AND ($5::uuid IS NULL OR id < $5)
     ORDER BY id DESC LIMIT $2
"""


async def propose(connection: Connection, proposal: RevocationRecord) -> None:
    """Store a proposal inside the caller's transaction; one for the same release may be there already."""
    await connection.execute(
        PROPOSE,
        proposal.id,
        proposal.manifest_digest,
        proposal.campaign,
        proposal.sentence,
        proposal.proposed_at,
    )


async def settle(connection: Connection, revoked: Collection[bytes], *, now: datetime, actor: str) -> None:
    """Note inside the caller's transaction that a status takes these releases back."""
    await connection.execute(SETTLE, list(revoked), now, actor)


class RevocationRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(
        self,
        limit: int,
        *,
        stage: Stage | None = None,
        before: RevocationId | None = None,
        scope: Scope = EVERYTHING,
    ) -> list[RevocationRecord]:
        """Return the newest of which the whole campaign is within ``scope``; ``before``: those that follow this one."""
        of_stage, among = None if stage is None else stage.value, (scope.cohort_names, scope.region_names)
        async with self._database.transaction() as connection:
            rows = await connection.fetch(NEWEST, of_stage, limit, *among, before)
        return [_record(row) for row in rows]

    async def decline(self, revocation: RevocationId, *, now: datetime, actor: str, reason: str) -> RevocationRecord:
        """Settle a proposal without a signature.

        Raises:
            NotFoundError: there is no such proposal.
            ConflictError: it is settled already.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(DECLINE, revocation, now, actor, reason)
            if row is not None:
                named = show(REVOCATION, revocation)
                before, after = {"state": Stage.PROPOSED}, {"state": Stage.DECLINED}
                await audit.write(
                    connection,
                    Entry("revocation.decline", named, now, who=actor, before=before, after=after, reason=reason),
                )
                return _record(row)
            settled = await connection.fetchrow(GET, revocation)
        if settled is None:
            raise NotFoundError("There is no such proposal.")
        raise ConflictError(f"This proposal is {settled['state']} already, by {settled['decided_by']}.")

    async def due(self, *, now: datetime, since: datetime) -> list[RevocationRecord]:
        """Return the open proposals that nobody was reminded of ``since`` then, and count this as a reminder."""
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(REMIND, now, since)]


def _record(row: Any) -> RevocationRecord:
    values = dict(row)
    values["campaign"] = values.pop("campaign_id")
    values["stage"] = Stage(values.pop("state"))
    return RevocationRecord(**values)
