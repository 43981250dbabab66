"""What the halt rule keeps of each run of a campaign."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from server.db.database import Database
from server.domain.identity import CampaignId, DeviceId


@dataclass(frozen=True, slots=True)
class HaltState:
    """The rule's own bytes in a run, and the devices in the order of its indices."""

    run: int
    roster: tuple[DeviceId, ...]
    body: bytes
    saved_at: datetime


LOAD: Final = """
    SELECT run, roster, body, saved_at FROM halt_state WHERE campaign_id = $1 AND run <= $2 ORDER BY run DESC LIMIT 1
"""

SAVE: Final = """
    INSERT INTO halt_state (campaign_id, run, saved_at, roster, body) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (campaign_id, run) DO UPDATE SET saved_at = $3, roster = $4, body = $5
"""

SAVE_BODY: Final = "UPDATE halt_state SET saved_at = $3, body = $4 WHERE campaign_id = $1 AND run = $2"


class HaltRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, campaign: CampaignId, run: int) -> HaltState | None:
        """Return what was saved last for a run, or else for the run before it, if anything was."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(LOAD, campaign, run)
        if row is None:
            return None
        ids = zlib.decompress(row["roster"]).decode().split("\n")
        return HaltState(row["run"], tuple(DeviceId(name) for name in ids if name), row["body"], row["saved_at"])

    async def save(
        self, campaign: CampaignId, run: int, body: bytes, *, roster: Sequence[DeviceId] | None, now: datetime
    ) -> None:
        """Store the rule's bytes; ``roster`` None: nobody has joined since the last time."""
        async with self._database.transaction() as connection:
            if roster is None:
                await connection.execute(SAVE_BODY, campaign, run, now, body)
            else:
                packed = zlib.compress("\n".join(roster).encode())
                await connection.execute(SAVE, campaign, run, now, packed, body)
