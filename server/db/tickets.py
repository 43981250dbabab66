"""The secret that a fleet's tickets are made with."""

from typing import Final

from server.db.database import Database

# An update that changes nothing, so that the row comes back whoever was first.
FIND_OR_ADD: Final = """
    INSERT INTO ticket_secret (fleet, secret) VALUES ($1, $2)
    ON CONFLICT (fleet) DO UPDATE SET fleet = excluded.fleet
    RETURNING secret
"""


class TicketRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def secret(self, fleet: bytes, proposal: bytes) -> bytes:
        """Return the fleet's secret: ``proposal`` if it has none yet, and then for ever."""
        async with self._database.transaction() as connection:
            secret: bytes = await connection.fetchval(FIND_OR_ADD, fleet, proposal)
        return secret
