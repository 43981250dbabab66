"""API tokens: only the SHA-256 of a secret is kept."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from server.db.database import Database


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One token; ``secret`` is SHA-256 of what its holder has."""

    id: str
    name: str
    role: str
    secret: bytes
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


ADD: Final = """
    INSERT INTO token (id, name, role, secret, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
"""

LOCK: Final = "LOCK TABLE token IN SHARE ROW EXCLUSIVE MODE"

ADD_FIRST: Final = """
    INSERT INTO token (id, name, role, secret, created_at, expires_at)
    SELECT $1, $2, $3, $4, $5, $6 WHERE NOT EXISTS (SELECT FROM token)
    RETURNING id
"""

GET: Final = "SELECT id, name, role, secret, created_at, expires_at, revoked_at FROM token WHERE id = $1"


class TokenRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token: TokenRecord) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(ADD, *_values(token))

    async def add_first(self, token: TokenRecord) -> bool:
        """Add it if there is no token at all; False otherwise."""
        async with self._database.transaction() as connection:
            await connection.execute(LOCK)  # or servers that start together would each find the table empty
            return await connection.fetchval(ADD_FIRST, *_values(token)) is not None

    async def get(self, token_id: str) -> TokenRecord | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(GET, token_id)
        return None if row is None else TokenRecord(**dict(row))


def _values(token: TokenRecord) -> tuple[object, ...]:
    return (token.id, token.name, token.role, token.secret, token.created_at, token.expires_at)
