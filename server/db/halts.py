"""What the halt rule keeps of each run of a campaign."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from server.db.database import Database
from server.domain.identity import CampaignId, DeviceId


class Accepted(NamedTuple):
    """What a person knew who ended a hold: its channel, the silent devices, and since when the weather was bad.

    ``bad_since`` in Unix seconds; None: it was not.
    """

    channel: str
    silent: int
    bad_since: float | None


@dataclass(frozen=True, slots=True)
class HaltState:
    """The rule's own bytes in a run, and the devices in the order of its indices; the last hold that was ended."""

    run: int
    roster: tuple[DeviceId, ...]
    body: bytes
    saved_at: datetime
    accepted: Accepted | None


LOAD: Final = """
    SELECT run, roster, body, saved_at, accepted_channel, accepted_silent, accepted_bad_since
      FROM halt_state WHERE campaign_id = $1 AND run <= $2 ORDER BY run DESC LIMIT 1
"""

SAVE: Final = """
    INSERT INTO halt_state (campaign_id, run, saved_at, roster, body) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (campaign_id, run) DO UPDATE SET saved_at = $3, roster = $4, body = $5
"""

SAVE_BODY: Final = "UPDATE halt_state SET saved_at = $3, body = $4 WHERE campaign_id = $1 AND run = $2"


ACCEPT: Final = """
    UPDATE halt_state SET accepted_channel = $3, accepted_silent = $4, accepted_bad_since = $5
     WHERE campaign_id = $1 AND run = $2
"""


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
        roster = tuple(DeviceId(name) for name in ids if name)
        return HaltState(row["run"], roster, row["body"], row["saved_at"], _accepted(row))

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

    async def accept(self, campaign: CampaignId, run: int, accepted: Accepted) -> None:
        """Remember the hold that a person has ended; of a run of which nothing was saved there was none."""
        async with self._database.transaction() as connection:
            await connection.execute(ACCEPT, campaign, run, *accepted)


def _accepted(row: Any) -> Accepted | None:
    if row["accepted_channel"] is None:
        return None
    return Accepted(row["accepted_channel"], row["accepted_silent"], row["accepted_bad_since"])
