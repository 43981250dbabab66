"""Roots and status documents as they were accepted, and the one transaction in which a new one takes effect."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Final

import asyncpg

from firmware_store.documents import Kind
from firmware_store.errors import ConflictError
from server.db import audit, outbox
from server.db.audit import SERVER, Entry
from server.db.bundles import BundleRecord, find
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.campaigns import lock_standing, save
from server.db.database import Connection, Database
from server.db.directives import AUDIENCES, SayAgain, Sign, audience_of, issue, say_again
from server.db.revocations import settle
from server.domain.events import Event, EventType
from server.protocol.orders import Directive


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A root or a status; a root's ``epoch`` is 0."""

    kind: Kind
    epoch: int
    version: int
    body: bytes = field(repr=False)
    accepted_at: datetime
    accepted_by: str


@dataclass(frozen=True, slots=True)
class EventRecord:
    """What became of a document that somebody showed us; ``number``: what it is stored under."""

    at: datetime
    actor: str
    document: Kind
    accepted: bool
    sentence: str
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Halting:
    """A campaign that a document ends, with why, and what its devices are told."""

    campaign: CampaignRecord
    decision: DecisionRecord
    orders: Sequence[Directive]


@dataclass(frozen=True, slots=True)
class Change:
    """A document and what follows from it; ``revoked``: releases that it takes back.

    ``sign`` None: nobody can, so orders are left to be issued later.
    """

    document: DocumentRecord
    event: EventRecord
    judge: Callable[[CampaignRecord, BundleRecord], Awaitable[Halting | None]]
    decide: SayAgain
    sign: Sign | None
    floor: int
    revoked: frozenset[bytes] = frozenset()


PIN_ROOT: Final = """
    INSERT INTO trust_root (version, body, accepted_at, accepted_by) VALUES ($1, $2, $3, $4)
    ON CONFLICT (version) DO NOTHING
    RETURNING version
"""

# Compare-and-set: what comes is newer than all that is there.
ADD_ROOT: Final = """
    INSERT INTO trust_root (version, body, accepted_at, accepted_by)
    SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT FROM trust_root WHERE version >= $1)
    RETURNING version
"""

ADD_STATUS: Final = """
    INSERT INTO trust_status (epoch, version, body, accepted_at, accepted_by)
    SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT FROM trust_status WHERE (epoch, version) >= ($1, $2))
    RETURNING version
"""

ROOTS: Final = "SELECT version, body, accepted_at, accepted_by FROM trust_root ORDER BY version"

NEWEST_STATUS: Final = """
    SELECT epoch, version, body, accepted_at, accepted_by FROM trust_status ORDER BY epoch DESC, version DESC LIMIT 1
"""

ADD_EVENT: Final = """
    INSERT INTO trust_event (at, actor, document, accepted, sentence) VALUES ($1, $2, $3, $4, $5)
"""

EVENTS: Final = """
    SELECT at, actor, document, accepted, sentence, id AS number FROM trust_event
     WHERE ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $1
"""

HOLDS_ROOT: Final = "SELECT EXISTS (SELECT FROM trust_root WHERE version = $1 AND body = $2)"

HOLDS_STATUS: Final = "SELECT EXISTS (SELECT FROM trust_status WHERE epoch = $1 AND version = $2 AND body = $3)"

_MISSED: Final = "There is one as new as this already; look at what holds now, and publish a newer one."


class TrustRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def roots(self) -> list[DocumentRecord]:
        """Return every root that was accepted or pinned, oldest first."""
        async with self._database.transaction() as connection:
            return await read_roots(connection)

    async def status(self) -> DocumentRecord | None:
        """Return the newest status that was accepted."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(NEWEST_STATUS)
        return None if row is None else DocumentRecord(kind=Kind.STATUS, **dict(row))

    async def pin(self, root: DocumentRecord) -> None:
        """Keep the root that the server was given; what is there under its version stays."""
        async with self._database.transaction() as connection:
            pinned = await connection.fetchval(PIN_ROOT, root.version, root.body, root.accepted_at, root.accepted_by)
            if pinned is not None:
                await audit.write(connection, _kept("pin", root, SERVER))

    async def accept(self, change: Change) -> list[tuple[CampaignRecord, DecisionRecord]]:
        """Store a document with all that follows from it; return the campaigns it has halted, and why.

        Campaigns whose release it no longer lets stand are halted, and what devices would no longer take is signed
        anew: all of it, or nothing.

        Raises:
            ConflictError: a newer one is there already, or an audience came under another order just now.
            Exception: whatever ``judge``, ``decide`` or ``sign`` raises; nothing has changed.
        """
        try:
            async with self._database.transaction() as connection:
                halted = await _halt(connection, change)
                await _store(connection, change)
                if change.sign is not None:
                    audiences = [audience_of(row) for row in await connection.fetch(AUDIENCES)]
                    await say_again(connection, audiences, change.decide, change.sign, floor=change.floor)
        except asyncpg.UniqueViolationError as exc:
            raise ConflictError(_MISSED) from exc
        return halted

    async def holds(self, document: DocumentRecord) -> bool:
        """Tell whether exactly this document is stored."""
        async with self._database.transaction() as connection:
            if document.kind is Kind.ROOT:
                return bool(await connection.fetchval(HOLDS_ROOT, document.version, document.body))
            return bool(await connection.fetchval(HOLDS_STATUS, document.epoch, document.version, document.body))

    async def note(self, event: EventRecord) -> None:
        """Keep what became of a document."""
        async with self._database.transaction() as connection:
            await _note(connection, event)
            if not event.accepted:
                named = f"trust {event.document}"
                entry = Entry("trust.refuse", named, event.at, who=event.actor, reason=event.sentence)
                await audit.write(connection, entry)
                told = {"document": event.document, "who": event.actor, "sentence": event.sentence}
                await outbox.put(connection, Event(EventType.TRUST_REFUSED, named, event.at, told))

    async def events(self, limit: int, *, before: int | None = None) -> list[EventRecord]:
        """Return the newest first, of those with numbers below ``before``."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(EVENTS, limit, before)
        return [EventRecord(**{**dict(row), "document": Kind(row["document"])}) for row in rows]


async def read_roots(connection: Connection) -> list[DocumentRecord]:
    """Return every root that was accepted or pinned, oldest first."""
    return [DocumentRecord(kind=Kind.ROOT, epoch=0, **dict(row)) for row in await connection.fetch(ROOTS)]


async def _store(connection: Connection, change: Change) -> None:
    new = change.document
    values = (new.version, new.body, new.accepted_at, new.accepted_by)
    if new.kind is Kind.ROOT:
        stored = await connection.fetchval(ADD_ROOT, *values)
    else:
        stored = await connection.fetchval(ADD_STATUS, new.epoch, *values)
    if stored is None:
        raise ConflictError(_MISSED)
    await _note(connection, change.event)
    await settle(connection, change.revoked, now=new.accepted_at, actor=new.accepted_by)
    entry = _kept("accept", new, new.accepted_by, change.revoked)
    await audit.write(connection, entry)
    told = {"document": new.kind, "who": new.accepted_by, **(entry.after or {})}
    await outbox.put(connection, Event(EventType.TRUST_ACCEPTED, entry.named, entry.at, told))


def _kept(verb: str, document: DocumentRecord, who: str, revoked: frozenset[bytes] = frozenset()) -> Entry:
    """Name a document as it is kept, with its digest, and the releases that it takes back."""
    after: dict[str, object] = {"version": document.version, "sha256": sha256(document.body).hexdigest()}
    if document.kind is Kind.STATUS:
        after |= {"epoch": document.epoch, "revoked": sorted(digest.hex() for digest in revoked)}
    return Entry(f"trust.{verb}", f"trust {document.kind}", document.accepted_at, who=who, after=after)


async def _halt(connection: Connection, change: Change) -> list[tuple[CampaignRecord, DecisionRecord]]:
    halted = []
    for campaign in await lock_standing(connection):
        halting = await change.judge(campaign, await find(connection, campaign.bundle_id))
        if halting is None:
            continue
        saved = await save(connection, halting.campaign, halting.decision)
        assert saved is not None, "it is locked"
        if change.sign is not None:
            await issue(connection, halting.orders, change.sign, floor=change.floor)
        halted.append((saved, halting.decision))
    return halted


async def _note(connection: Connection, event: EventRecord) -> None:
    await connection.execute(ADD_EVENT, event.at, event.actor, event.document.value, event.accepted, event.sentence)
