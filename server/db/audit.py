"""The audit: who has changed what, why, and what it was before. A row is written with the change that it tells of."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from server.db import request_keys
from server.db.database import AUDIT_TURN, Connection, Database, at_last
from server.domain.audit import Head, Row, canonical, chained
from server.domain.restore_note import RESTORE

SERVER: Final = "server"
"""Who acts where no person has asked for it."""

BATCH_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Origin:
    """On whose behalf this task works, by which token (its id) and which request."""

    who: str = SERVER
    token: str = ""
    request_id: str = ""


_OURS: Final = Origin()

ORIGIN: Final[ContextVar[Origin]] = ContextVar("audit_origin", default=_OURS)
"""Set for each request once its caller is known (``server.api.routing``)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an automatic decision was made on: the number of its row, and a digest of what that says."""

    decision: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. ``what`` is ``<kind of object>.<verb>``, ``named`` the object's id as it is shown.

    ``who`` None: whoever has sent the request that is being served, or the server.
    """

    what: str
    named: str
    at: datetime
    who: str | None = None
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None
    reason: str = ""
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows are asked for; None: all. ``since`` <= at < ``until``."""

    who: str | None = None
    what: str | None = None
    named: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_COLUMNS: Final = """seq, at, who, token, what, object, before, after, reason, request_id, decision_id, evidence,
    previous, digest"""

TAKE_HEAD: Final = "SELECT seq, digest FROM audit_head FOR UPDATE"

MOVE_HEAD: Final = "UPDATE audit_head SET seq = $1, digest = $2"

HEAD: Final = "SELECT seq, digest FROM audit_head"

ADD: Final = f"""
    INSERT INTO audit ({_COLUMNS})
    SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::json[],
                         $8::json[], $9::text[], $10::text[], $11::bigint[], $12::bytea[], $13::bytea[], $14::bytea[])
"""

PAGE: Final = f"""
    SELECT {_COLUMNS} FROM audit
     WHERE seq < $1 AND ($2::text IS NULL OR who = $2) AND ($3::text IS NULL OR what = $3)
       AND ($4::text IS NULL OR object = $4)
       AND ($5::timestamptz IS NULL OR at >= $5) AND ($6::timestamptz IS NULL OR at < $6)
     ORDER BY seq DESC LIMIT $7
"""

HAS: Final = "SELECT EXISTS (SELECT FROM audit WHERE seq = $1 AND digest = $2)"

FOLLOWING: Final = f"SELECT {_COLUMNS} FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2"

OF_RESTORES: Final = f"SELECT {_COLUMNS} FROM audit WHERE what = $1 ORDER BY seq"

# Decisions that were cleared by their age are no fault.
OTHER_EVIDENCE: Final = """
    SELECT min(audit.seq) FROM audit JOIN decision AS d ON d.id = audit.decision_id
     WHERE audit.evidence <> sha256(convert_to(jsonb_build_array(d.kind, d.actor, d.sentence, d.run, d.evidence)::text,
                                               'UTF8'))
"""


async def write(connection: Connection, *entries: Entry) -> None:
    """Add rows, in this order, to what the transaction that is open on ``connection`` changes.

    They are numbered and stored when all else in it is done; see ``at_last``. With them goes the key of the request
    that is being served, if it has one.

    Raises:
        ConflictError: the request is being carried out already.
    """
    origin = ORIGIN.get()
    await request_keys.take(connection)

    async def add(connection: Connection) -> None:
        await _add(connection, entries, origin)

    at_last(connection, add, turn=AUDIT_TURN)


async def read_head(connection: Connection) -> Head:
    """Return the row that was written last."""
    row = await connection.fetchrow(HEAD)
    return Head() if row is None else Head(row["seq"], row["digest"])


async def _add(connection: Connection, entries: Sequence[Entry], origin: Origin) -> None:
    row = await connection.fetchrow(TAKE_HEAD)
    assert row is not None, "migrated"
    head = Head(row["seq"], row["digest"])
    rows = []
    for entry in entries:
        rows.append(chained(head, _unchained(entry, origin)))
        head = rows[-1].head
    await connection.execute(
        ADD,
        [row.seq for row in rows],
        [row.at for row in rows],
        [row.who for row in rows],
        [row.token for row in rows],
        [row.what for row in rows],
        [row.named for row in rows],
        [row.before for row in rows],
        [row.after for row in rows],
        [row.reason for row in rows],
        [row.request_id for row in rows],
        [row.decision for row in rows],
        [row.evidence for row in rows],
        [row.previous for row in rows],
        [row.digest for row in rows],
    )
    await connection.execute(MOVE_HEAD, head.seq, head.digest)


def _unchained(entry: Entry, origin: Origin) -> Row:
    return Row(
        at=entry.at,
        who=origin.who if entry.who is None else entry.who,
        token=origin.token,
        what=entry.what,
        named=entry.named,
        before=None if entry.before is None else canonical(entry.before),
        after=None if entry.after is None else canonical(entry.after),
        reason=entry.reason,
        request_id=origin.request_id,
        decision=None if entry.evidence is None else entry.evidence.decision,
        evidence=None if entry.evidence is None else entry.evidence.digest,
    )


class AuditRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: Entry) -> None:
        """Write down something that is no change of the database, such as what becomes of blobs."""
        async with self._database.transaction() as connection:
            await write(connection, entry)

    async def head(self) -> Head:
        """Return the row that was written last."""
        async with self._database.transaction() as connection:
            return await read_head(connection)

    async def has(self, head: Head) -> bool:
        """Tell whether the row that was the last one once is still in its place."""
        async with self._database.transaction() as connection:
            return head.seq == 0 or bool(await connection.fetchval(HAS, head.seq, head.digest))

    async def page(self, wanted: Wanted, *, before: int, limit: int) -> list[Row]:
        """Return up to ``limit`` rows with numbers below ``before``, the newest first."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                PAGE, before, wanted.who, wanted.what, wanted.named, wanted.since, wanted.until, limit
            )
        return [_row(row) for row in rows]

    async def of_restores(self) -> list[Row]:
        """Return the rows that tell of restores, the oldest first."""
        async with self._database.transaction() as connection:
            return [_row(row) for row in await connection.fetch(OF_RESTORES, RESTORE)]

    async def batches(self) -> AsyncIterator[list[Row]]:
        """Yield all rows as the table has them now, by their numbers, each batch in a transaction of its own."""
        last = -(1 << 63)  # whoever may change the table may write any number into it
        while True:
            async with self._database.transaction() as connection:
                rows = [_row(row) for row in await connection.fetch(FOLLOWING, last, BATCH_ROWS)]
            if not rows:
                return
            yield rows
            last = rows[-1].seq

    async def other_evidence(self) -> int | None:
        """Return the first row whose decision does not say any more what it said then; None if there is none."""
        async with self._database.transaction() as connection:
            found: int | None = await connection.fetchval(OTHER_EVIDENCE)
        return found


def _row(row: Any) -> Row:
    values = dict(row)
    values["decision"] = values.pop("decision_id")
    values["named"] = values.pop("object")
    return Row(**values)
