"""Delivering events to webhooks: each in order, at least once, again and again until it is taken.

How far a webhook has come is stored, so that kill -9 repeats at most the last delivery (with the same id). One that is
slow or away keeps only itself waiting. What a webhook refuses again and again is passed over; one that has failed for
days is disabled, and told of.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Protocol

import structlog

from firmware_store.errors import NotFoundError, StoreUnavailableError
from server.db.outbox import OutboxRepository
from server.db.webhooks import DeliveryRecord, Result, WebhookId, WebhookRecord, WebhookRepository
from server.domain.events import Choice, Published, id_of
from server.domain.webhook_formats import Format, Message, Topic, pagerduty, standard, ticket, topic_of, types_for
from server.domain.webhook_signature import signed_headers
from server.services.errands import Errands

log = structlog.get_logger(__name__)

LOOK_S: Final = 0.5
AT_ONCE: Final = 8
FIRST_WAIT_S: Final = 5.0
WAIT_MOST_S: Final = 3600.0
REFUSALS_MOST: Final = 5
"""So often an event is refused (4xx) before it is passed over."""

PATIENCE: Final = timedelta(days=3)
"""A webhook that has taken nothing for so long is disabled."""

GONE: Final = 410
_NOT_NOW: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a try has brought: the status of the answer, or why there was none; how long to wait, if it says so."""

    status: int | None
    why: str
    milliseconds: int
    wait_s: float | None = None

    @property
    def is_taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_refusal(self) -> bool:
        """Trying again will hardly help."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in _NOT_NOW


class Sending(Protocol):
    """What the service needs of HTTP; ``server.outgoing.delivery`` provides it."""

    async def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Send one request, in bounded time, and never raise for what the other side does."""


class Deliveries:
    """One worker for all webhooks of this process."""

    def __init__(
        self,
        *,
        repository: WebhookRepository,
        outbox: OutboxRepository,
        sending: Sending,
        fleet: Callable[[], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._outbox = outbox
        self._sending = sending
        self._fleet = fleet
        self._clock = clock
        self._errands = Errands[WebhookId]("deliver to a webhook")
        self._window = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Serve for ever."""
        await self._errands.run(self._look, LOOK_S)

    async def _look(self) -> None:
        try:
            due = await self._repository.due(self._now())
        except StoreUnavailableError as exc:
            log.warning("webhooks_not_looked_at", reason=str(exc))
            return
        for webhook in due:
            self._errands.begin(webhook, partial(self._try, webhook))

    async def _try(self, webhook: WebhookId) -> None:
        try:
            await self.deliver_all(webhook)
        except StoreUnavailableError as exc:
            log.warning("delivery_not_noted", webhook=webhook.hex, reason=str(exc))
        except NotFoundError:
            log.info("webhook_removed_meanwhile", webhook=webhook.hex)
        except Exception:  # one webhook's trouble is no other's
            log.exception("delivery_crashed", webhook=webhook.hex)

    async def tick(self) -> None:
        """Deliver, once, what can be delivered now."""
        for webhook in await self._repository.due(self._now()):
            await self.deliver_all(webhook)

    async def deliver_all(self, webhook: WebhookId) -> None:
        """Deliver what there is for a webhook until it is all taken, or one is not.

        Raises:
            StoreUnavailableError: the database does not answer; what was delivered last may be delivered again.
            NotFoundError: no such webhook.
        """
        while True:
            hook = await self._repository.get(webhook)
            is_early = hook.next_attempt is not None and hook.next_attempt > self._now()
            if not hook.is_enabled or is_early or not await self._deliver_next(hook):
                return

    async def _deliver_next(self, hook: WebhookRecord) -> bool:
        """Deliver the next event that is for it; True if it may go on."""
        oldest, head = await self._outbox.ends()
        if hook.cursor < oldest - 1:
            log.warning("events_missed_by_webhook", webhook=hook.id.hex, events=oldest - 1 - hook.cursor)
        choice = Choice(types_for(hook.format, hook.types), hook.campaign)
        event = await self._outbox.next_of(choice, hook.cursor) if choice.types else None
        if event is None:
            await self._repository.skip(hook, head)
            return False
        message, topic = await self._message(hook, event)
        if message is None:
            await self._repository.skip(hook, event.seq)
            return True
        outcome = await self._send(hook, event, message)
        after, result = self._after(hook, event, outcome)
        record = self._record(event, outcome, attempt=hook.attempts + 1, result=result)
        await self._repository.note(hook, after, record, topic)
        if result is not Result.DELIVERED:
            log.warning("webhook_not_delivered", webhook=hook.id.hex, number=event.seq, why=record.why, result=result)
        return result is not Result.FAILED and after.is_enabled

    async def _message(self, hook: WebhookRecord, event: Published) -> tuple[Message | None, Topic | None]:
        fleet = self._fleet()
        if hook.format is Format.STANDARD:
            return standard(event, fleet=fleet), None
        if hook.format is Format.PAGERDUTY:
            return pagerduty(event, routing_key=hook.routing_key, fleet=fleet), None
        topic = topic_of(event)
        if topic is None:
            return None, None
        known = await self._repository.topics(hook.id, topic.key)
        if topic.name in known:
            return None, None
        return ticket(event, topic, is_first=not known, fleet=fleet), topic

    async def _send(self, hook: WebhookRecord, event: Published, message: Message) -> Outcome:
        now = self._now()
        signed = signed_headers(
            hook.secrets(now), message_id=id_of(event), timestamp=int(now.timestamp()), body=message.body
        )
        headers = {"Content-Type": message.content_type, "User-Agent": "Tidegate", **signed}
        async with self._window:
            return await self._sending.send(hook.url, message.body, headers)

    def _after(self, hook: WebhookRecord, event: Published, outcome: Outcome) -> tuple[WebhookRecord, Result]:
        """Return the webhook after a try, and what the try has come to."""
        if outcome.is_taken:
            return _passed(hook, event, failing_since=None), Result.DELIVERED
        now = self._now()
        since = hook.failing_since or now
        if outcome.status == GONE:
            return _disabled(hook, since, "It has answered that it is gone (410)."), Result.FAILED
        if now - since >= PATIENCE:
            return _disabled(hook, since, f"It has taken nothing since {since:%Y-%m-%d %H:%M} UTC."), Result.FAILED
        if outcome.is_refusal and hook.attempts + 1 >= REFUSALS_MOST:
            return _passed(hook, event, failing_since=since), Result.GIVEN_UP
        attempts = hook.attempts + 1
        wait_s = min(FIRST_WAIT_S * 4.0 ** min(attempts - 1, 10), WAIT_MOST_S) * random.uniform(0.75, 1.0)
        later = now + timedelta(seconds=max(wait_s, outcome.wait_s or 0.0))
        return replace(hook, attempts=attempts, failing_since=since, next_attempt=later), Result.FAILED

    async def resend(self, webhook: WebhookId, number: int) -> DeliveryRecord:
        """Deliver what a try was for once more, now, whatever has become of it.

        Raises:
            NotFoundError: no such webhook or try, or its event is kept no more.
        """
        hook = await self._repository.get(webhook)
        before = await self._repository.delivery(webhook, number)
        event = await self._outbox.get(before.event_seq)
        if event is None or event.id != before.event_id:
            raise NotFoundError("Its event is kept no more.")
        message, topic = standard(event, fleet=self._fleet()), topic_of(event)
        if hook.format is Format.PAGERDUTY:
            message = pagerduty(event, routing_key=hook.routing_key, fleet=self._fleet()) or message
        elif hook.format is Format.TICKET and topic is not None:
            message = ticket(event, topic, is_first=True, fleet=self._fleet())
        outcome = await self._send(hook, event, message)
        result = Result.DELIVERED if outcome.is_taken else Result.FAILED
        record = self._record(event, outcome, attempt=before.attempt + 1, result=result)
        return await self._repository.log(webhook, record)

    def _record(self, event: Published, outcome: Outcome, *, attempt: int, result: Result) -> DeliveryRecord:
        return DeliveryRecord(
            event_seq=event.seq,
            event_id=event.id,
            type=event.type,
            at=self._now(),
            attempt=attempt,
            outcome=result,
            status=outcome.status,
            why=outcome.why or ("" if outcome.is_taken else f"It answers {outcome.status}."),
            milliseconds=outcome.milliseconds,
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _passed(hook: WebhookRecord, event: Published, *, failing_since: datetime | None) -> WebhookRecord:
    return replace(hook, cursor=event.seq, attempts=0, failing_since=failing_since, next_attempt=None)


def _disabled(hook: WebhookRecord, since: datetime, why: str) -> WebhookRecord:
    return replace(hook, is_enabled=False, why_not=why, failing_since=since, next_attempt=None)
