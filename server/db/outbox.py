"""The outbox: events, written with the change that they tell of, numbered in the order of the commits."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from server.db.database import OUTBOX_TURN, Connection, Database, at_last
from server.domain.events import Choice, Event, EventType, Published

CLEAR_ROWS: Final = 5000

_COLUMNS: Final = "seq, id, at, type, subject, campaign_id, regions, cohort, data"

TAKE_NUMBERS: Final = "UPDATE outbox_head SET seq = seq + $1 RETURNING seq"

HEAD: Final = "SELECT seq, (SELECT min(seq) FROM outbox) FROM outbox_head"

ADD: Final = f"INSERT INTO outbox ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"

FOLLOWING: Final = f"SELECT {_COLUMNS} FROM outbox WHERE seq > $1 ORDER BY seq LIMIT $2"

NEXT_OF: Final = f"""
    SELECT {_COLUMNS} FROM outbox
     WHERE seq > $1 AND type = ANY($2::text[]) AND ($3::uuid IS NULL OR campaign_id = $3)
     ORDER BY seq LIMIT 1
"""

GET: Final = f"SELECT {_COLUMNS} FROM outbox WHERE seq = $1"

CLEAR: Final = """
    DELETE FROM outbox
     WHERE seq IN (SELECT seq FROM outbox
                    WHERE at < $1 OR seq <= (SELECT seq FROM outbox_head) - $2 ORDER BY seq LIMIT $3)
"""


async def put(connection: Connection, *events: Event) -> None:
    """Tell of events with what the transaction that is open on ``connection`` changes.

    They are numbered when all else in it is done; see ``at_last``.
    """
    if not events:
        return

    async def add(connection: Connection) -> None:
        last = await connection.fetchval(TAKE_NUMBERS, len(events))
        rows = [_values(last - len(events) + place, event) for place, event in enumerate(events, start=1)]
        await connection.executemany(ADD, rows)

    at_last(connection, add, turn=OUTBOX_TURN)


class OutboxRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, event: Event) -> None:
        """Tell of something that is no change of the database."""
        async with self._database.transaction() as connection:
            await put(connection, event)

    async def ends(self) -> tuple[int, int]:
        """Return the number of the oldest event that is kept, and that of the newest; without any, the next and it."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(HEAD)
        assert row is not None, "migrated"
        newest, oldest = row
        return (newest + 1 if oldest is None else oldest), newest

    async def following(self, after: int, limit: int) -> list[Published]:
        """Return up to ``limit`` events after a number, in order."""
        async with self._database.transaction() as connection:
            return [_published(row) for row in await connection.fetch(FOLLOWING, after, limit)]

    async def next_of(self, choice: Choice, after: int) -> Published | None:
        """Return the first event after a number that somebody has chosen."""
        types = sorted(choice.types or EventType)
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(NEXT_OF, after, types, choice.campaign)
        return None if row is None else _published(row)

    async def get(self, seq: int) -> Published | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(GET, seq)
        return None if row is None else _published(row)

    async def clear(self, *, before: datetime, most: int) -> int:
        """Clear events that are older, or not among the newest ``most``, a few thousand at a time; returns how many."""
        async with self._database.transaction() as connection:
            done = await connection.execute(CLEAR, before, most, CLEAR_ROWS)
        return int(done.split()[-1])


def _values(seq: int, event: Event) -> Sequence[object]:
    data = json.dumps(dict(event.data), ensure_ascii=False)
    return (
        seq,
        uuid4(),  # numbers come again after a restored backup, ids do not
        event.at,
        event.type.value,
        event.subject,
        event.campaign,
        list(event.regions),
        event.cohort,
        data,
    )


def _published(row: Any) -> Published:
    values = dict(row)
    values["campaign"] = values.pop("campaign_id")
    values["type"], values["regions"] = EventType(values["type"]), tuple(values["regions"])
    return Published(**values)
