"""Requests that name themselves, so that they can be sent again: stored in the transaction of the change they make."""

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from firmware_store.errors import ConflictError
from server.db.database import Connection, Database

KEPT: Final = timedelta(hours=24)


@dataclass(slots=True)
class NamedRequest:
    """The request that a task serves. ``fingerprint``: SHA-256 of all that it asks for.

    ``is_open``: its key is still to be stored, with the first change that is made for it.
    """

    caller: str
    key: str
    fingerprint: bytes
    at: datetime
    is_open: bool = True


SERVED: Final[ContextVar[NamedRequest | None]] = ContextVar("served_request", default=None)
"""Set while a request is served that has a key (``server.services.request_keys``)."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered. ``status`` None: that is not known; ``body`` None: it was not kept. ``tag``: its ETag."""

    status: int | None
    body: str | None
    tag: str | None


# One row a key: whoever comes second waits here for the first one's transaction, and then gets no row.
TAKE: Final = """
    INSERT INTO request_key (caller, key, fingerprint, at) VALUES ($1, $2, $3, $4)
    ON CONFLICT (caller, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, at = excluded.at, status = NULL, answer = NULL, tag = NULL
      WHERE request_key.at < $5
    RETURNING at
"""

FIND: Final = "SELECT fingerprint, status, answer, tag FROM request_key WHERE caller = $1 AND key = $2 AND at >= $3"

KEEP: Final = """
    INSERT INTO request_key (caller, key, fingerprint, at, status, answer, tag) VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (caller, key) DO UPDATE
        SET fingerprint = excluded.fingerprint, at = excluded.at,
            status = excluded.status, answer = excluded.answer, tag = excluded.tag
"""

FORGET: Final = "DELETE FROM request_key WHERE at < $1"


async def take(connection: Connection) -> None:
    """Store the key of the request that this task serves, once, in the transaction that is open on ``connection``.

    Raises:
        ConflictError: somebody else has stored it; this transaction must not commit.
    """
    request = SERVED.get()
    if request is None or not request.is_open:
        return
    taken = await connection.fetchval(
        TAKE, request.caller, request.key, request.fingerprint, request.at, request.at - KEPT
    )
    if taken is None:
        raise ConflictError("This request is being carried out already.")
    request.is_open = False


class RequestKeyRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, request: NamedRequest) -> tuple[bytes, KeptAnswer] | None:
        """Return the fingerprint of what had this key, and what was answered; None: it is new, or a day old."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(FIND, request.caller, request.key, request.at - KEPT)
        if row is None:
            return None
        return row["fingerprint"], KeptAnswer(row["status"], row["answer"], row["tag"])

    async def keep(self, request: NamedRequest, answer: KeptAnswer) -> None:
        """Store what was answered, and clear what is a day old."""
        async with self._database.transaction() as connection:
            await connection.execute(
                KEEP,
                request.caller,
                request.key,
                request.fingerprint,
                request.at,
                answer.status,
                answer.body,
                answer.tag,
            )
            await connection.execute(FORGET, request.at - KEPT)
