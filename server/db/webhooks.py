"""Webhooks: where events are delivered to, how far each has come, and what became of each try."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType
from uuid import UUID

from firmware_store.errors import ConflictError, NotFoundError
from server.db import audit, outbox
from server.db.audit import Entry
from server.db.database import Connection, Database
from server.domain.events import Event, EventType
from server.domain.identity import CAMPAIGN, WEBHOOK, CampaignId, show
from server.domain.webhook_formats import Format, Topic

WebhookId = NewType("WebhookId", UUID)

WEBHOOKS_MOST: Final = 100
DELIVERIES_KEPT: Final = 1000
"""Of each webhook."""


Seen = Callable[["WebhookRecord"], None]
"""Raises what speaks against a change of a webhook as it is now."""


class Result(StrEnum):
    """What became of a try: a webhook that has failed is tried again, one that was given up is not."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class WebhookRecord:
    """One webhook. ``types`` empty: all that its format is for. ``cursor``: events up to it are dealt with.

    ``attempts``: of the event that comes next. ``why_not``: why it is not enabled.
    """

    id: WebhookId
    name: str
    url: str
    format: Format
    types: frozenset[EventType]
    secret: bytes = field(repr=False)
    cursor: int
    created_by: str
    created_at: datetime
    campaign: CampaignId | None = None
    routing_key: str = field(default="", repr=False)
    old_secret: bytes | None = field(default=None, repr=False)
    old_secret_until: datetime | None = None
    is_enabled: bool = True
    why_not: str = ""
    attempts: int = 0
    failing_since: datetime | None = None
    next_attempt: datetime | None = None

    def secrets(self, now: datetime) -> list[bytes]:
        """Return what a delivery is signed with now."""
        if self.old_secret is None or self.old_secret_until is None or now >= self.old_secret_until:
            return [self.secret]
        return [self.secret, self.old_secret]


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One try; ``status`` is that of the answer, None where there was none."""

    event_seq: int
    event_id: UUID
    type: EventType
    at: datetime
    attempt: int
    outcome: Result
    status: int | None
    why: str
    milliseconds: int
    id: int = 0


_COLUMNS: Final = """id, name, url, format, types, campaign_id, routing_key, secret, old_secret, old_secret_until,
    cursor, is_enabled, why_not, attempts, failing_since, next_attempt, created_by, created_at"""

ADD: Final = """
    INSERT INTO webhook (id, name, url, format, types, campaign_id, routing_key, secret, cursor, created_by, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, (SELECT seq FROM outbox_head), $9, $10)
    RETURNING cursor
"""

LOCK: Final = "LOCK TABLE webhook IN SHARE ROW EXCLUSIVE MODE"

COUNT: Final = "SELECT count(*) FROM webhook"

GET: Final = f"SELECT {_COLUMNS} FROM webhook WHERE id = $1"

TAKE: Final = f"SELECT {_COLUMNS} FROM webhook WHERE id = $1 FOR UPDATE"

ALL: Final = f"SELECT {_COLUMNS} FROM webhook ORDER BY created_at, id"

DUE: Final = """
    SELECT id FROM webhook
     WHERE is_enabled AND (next_attempt IS NULL OR next_attempt <= $1) AND cursor < (SELECT seq FROM outbox_head)
"""

SAVE: Final = """
    UPDATE webhook SET name = $2, url = $3, types = $4, campaign_id = $5, is_enabled = $6, why_not = $7, attempts = $8,
           failing_since = $9, next_attempt = $10, secret = $11, old_secret = $12, old_secret_until = $13, cursor = $14
     WHERE id = $1
"""

REMOVE: Final = "DELETE FROM webhook WHERE id = $1"

SKIP: Final = "UPDATE webhook SET cursor = $3 WHERE id = $1 AND cursor = $2"

_DELIVERY: Final = "event_seq, event_id, type, at, attempt, outcome, status, why, milliseconds"

LOG: Final = f"""
    INSERT INTO webhook_delivery (webhook_id, {_DELIVERY}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id
"""

FORGET: Final = """
    DELETE FROM webhook_delivery
     WHERE id IN (SELECT id FROM webhook_delivery WHERE webhook_id = $1 ORDER BY id DESC OFFSET $2 LIMIT 100)
"""

DELIVERIES: Final = f"""
    SELECT id, {_DELIVERY} FROM webhook_delivery WHERE webhook_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3
"""

DELIVERY: Final = f"SELECT id, {_DELIVERY} FROM webhook_delivery WHERE webhook_id = $1 AND id = $2"

TOPICS: Final = "SELECT topic FROM webhook_ticket WHERE webhook_id = $1 AND key = $2"

ADD_TOPIC: Final = "INSERT INTO webhook_ticket (webhook_id, key, topic) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"


class WebhookRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: WebhookRecord) -> WebhookRecord:
        """Add one that hears of what happens from now on. Raises: ConflictError: there are too many."""
        async with self._database.transaction() as connection:
            await connection.execute(LOCK)
            if await connection.fetchval(COUNT) >= WEBHOOKS_MOST:
                raise ConflictError(f"There are {WEBHOOKS_MOST} webhooks already.")
            cursor = await connection.fetchval(
                ADD,
                record.id,
                record.name,
                record.url,
                record.format.value,
                sorted(record.types),
                record.campaign,
                record.routing_key,
                record.secret,
                record.created_by,
                record.created_at,
            )
            await audit.write(connection, _entry("add", record, record.created_at, record.created_by, after=record))
        return replace(record, cursor=cursor)

    async def all(self) -> list[WebhookRecord]:
        """Return the oldest first."""
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(ALL)]

    async def get(self, webhook: WebhookId) -> WebhookRecord:
        """Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            return _found(await connection.fetchrow(GET, webhook))

    async def due(self, now: datetime) -> list[WebhookId]:
        """Return those for which there may be something, and whose time it is."""
        async with self._database.transaction() as connection:
            return [WebhookId(row["id"]) for row in await connection.fetch(DUE, now)]

    async def change(
        self,
        webhook: WebhookId,
        members: Mapping[str, Any],
        *,
        verb: str,
        by: str,
        now: datetime,
        seen: Seen = lambda _: None,
    ) -> WebhookRecord:
        """Change members that a person may change. Raises: NotFoundError; what ``seen`` raises of what is there."""
        async with self._database.transaction() as connection:
            before = _found(await connection.fetchrow(TAKE, webhook))
            seen(before)
            after = replace(before, **members)
            await _save(connection, after)
            await audit.write(connection, _entry(verb, after, now, by, before=before, after=after))
        return after

    async def remove(self, webhook: WebhookId, *, by: str, now: datetime, seen: Seen = lambda _: None) -> WebhookRecord:
        """Raises: NotFoundError; what ``seen`` raises of what is there."""
        async with self._database.transaction() as connection:
            before = _found(await connection.fetchrow(TAKE, webhook))
            seen(before)
            await connection.execute(REMOVE, webhook)
            await audit.write(connection, _entry("remove", before, now, by, before=before))
        return before

    async def skip(self, record: WebhookRecord, cursor: int) -> None:
        """Note that there was nothing for it up to a number."""
        async with self._database.transaction() as connection:
            await connection.execute(SKIP, record.id, record.cursor, cursor)

    async def note(
        self, before: WebhookRecord, after: WebhookRecord, tried: DeliveryRecord, topic: Topic | None = None
    ) -> None:
        """Keep what became of a try, and what follows from it, unless somebody has changed the webhook meanwhile.

        The log has the try in any case. One that was disabled with it is told of, and written down.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(TAKE, before.id)
            if row is None:
                return
            await _log(connection, before.id, tried)
            now = _record(row)
            if (now.cursor, now.is_enabled) != (before.cursor, before.is_enabled):
                return
            kept = replace(
                now,
                cursor=after.cursor,
                attempts=after.attempts,
                failing_since=after.failing_since,
                next_attempt=after.next_attempt,
                is_enabled=after.is_enabled,
                why_not=after.why_not,
            )
            await _save(connection, kept)
            if topic is not None and tried.outcome is Result.DELIVERED:
                await connection.execute(ADD_TOPIC, before.id, topic.key, topic.name)
            if before.is_enabled and not after.is_enabled:
                told = {"name": before.name, "sentence": after.why_not}
                named = show(WEBHOOK, before.id)
                await audit.write(
                    connection, _entry("disable", after, tried.at, audit.SERVER, before=before, after=after)
                )
                await outbox.put(connection, Event(EventType.WEBHOOK_DISABLED, named, tried.at, told))

    async def log(self, webhook: WebhookId, tried: DeliveryRecord) -> DeliveryRecord:
        """Keep what became of a try that changes nothing else. Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            _found(await connection.fetchrow(TAKE, webhook))
            return replace(tried, id=await _log(connection, webhook, tried))

    async def deliveries(self, webhook: WebhookId, *, before: int, limit: int) -> list[DeliveryRecord]:
        """Return tries with numbers below ``before``, the newest first. Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            _found(await connection.fetchrow(GET, webhook))
            return [_delivery(row) for row in await connection.fetch(DELIVERIES, webhook, before, limit)]

    async def delivery(self, webhook: WebhookId, number: int) -> DeliveryRecord:
        """Raises: NotFoundError."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(DELIVERY, webhook, number)
        if row is None:
            raise NotFoundError("There is no such delivery.")
        return _delivery(row)

    async def topics(self, webhook: WebhookId, key: str) -> frozenset[str]:
        """Return what tickets with this key were written of."""
        async with self._database.transaction() as connection:
            return frozenset([row["topic"] for row in await connection.fetch(TOPICS, webhook, key)])


async def _save(connection: Connection, record: WebhookRecord) -> None:
    await connection.execute(
        SAVE,
        record.id,
        record.name,
        record.url,
        sorted(record.types),
        record.campaign,
        record.is_enabled,
        record.why_not,
        record.attempts,
        record.failing_since,
        record.next_attempt,
        record.secret,
        record.old_secret,
        record.old_secret_until,
        record.cursor,
    )


async def _log(connection: Connection, webhook: WebhookId, record: DeliveryRecord) -> int:
    values: Sequence[object] = [getattr(record, name.strip()) for name in _DELIVERY.split(",")]
    number: int = await connection.fetchval(LOG, webhook, *values)
    await connection.execute(FORGET, webhook, DELIVERIES_KEPT)
    return number


def _entry(
    verb: str,
    record: WebhookRecord,
    at: datetime,
    who: str,
    *,
    before: WebhookRecord | None = None,
    after: WebhookRecord | None = None,
) -> Entry:
    return Entry(
        f"webhook.{verb}",
        show(WEBHOOK, record.id),
        at,
        who=who,
        before=None if before is None else _told(before),
        after=None if after is None else _told(after),
        reason=record.why_not,
    )


def _told(record: WebhookRecord) -> dict[str, object]:
    """Everything that a person sets but the secrets."""
    return {
        "name": record.name,
        "url": record.url,
        "format": record.format,
        "types": sorted(record.types),
        "campaign": None if record.campaign is None else show(CAMPAIGN, record.campaign),
        "is_enabled": record.is_enabled,
    }


def _found(row: Any) -> WebhookRecord:
    if row is None:
        raise NotFoundError("There is no such webhook.")
    return _record(row)


def _record(row: Any) -> WebhookRecord:
    values = dict(row)
    values["format"] = Format(values["format"])
    values["types"] = frozenset(EventType(one) for one in values["types"])
    values["campaign"] = values.pop("campaign_id")
    return WebhookRecord(**values)


def _delivery(row: Any) -> DeliveryRecord:
    values = dict(row)
    values["type"], values["outcome"] = EventType(values["type"]), Result(values["outcome"])
    return DeliveryRecord(**values)
