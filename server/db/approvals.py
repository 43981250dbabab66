"""Who has approved which run of a campaign. They are stored with the campaign, in its transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from server.db.database import Connection
from server.domain.identity import CampaignId


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """One person's word for one run."""

    run: int
    who: str
    at: datetime
    reason: str


ADD: Final = """
    INSERT INTO approval (campaign_id, run, who, at, reason)
    SELECT $1, run, who, at, reason
      FROM unnest($2::integer[], $3::text[], $4::timestamptz[], $5::text[]) AS a (run, who, at, reason)
    ON CONFLICT (campaign_id, run, who) DO NOTHING
"""

OF: Final = """
    SELECT campaign_id, run, who, at, reason FROM approval WHERE campaign_id = ANY($1) ORDER BY run, at, who
"""


async def add(connection: Connection, campaign: CampaignId, approvals: Sequence[ApprovalRecord]) -> None:
    """Store those that are not there yet, inside the caller's transaction."""
    await connection.execute(
        ADD,
        campaign,
        [approval.run for approval in approvals],
        [approval.who for approval in approvals],
        [approval.at for approval in approvals],
        [approval.reason for approval in approvals],
    )


async def of(connection: Connection, campaigns: Sequence[CampaignId]) -> dict[CampaignId, tuple[ApprovalRecord, ...]]:
    """Return each campaign's, the oldest first."""
    found: dict[CampaignId, tuple[ApprovalRecord, ...]] = {}
    for row in await connection.fetch(OF, campaigns):
        record = ApprovalRecord(row["run"], row["who"], row["at"], row["reason"])
        found[row["campaign_id"]] = (*found.get(row["campaign_id"], ()), record)
    return found
