"""Webhooks as people set them up. A secret is shown when it is made, and never again."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from firmware_store.errors import InvalidInputError
from server.db.webhooks import DeliveryRecord, Seen, WebhookId, WebhookRecord, WebhookRepository
from server.domain.events import EventType
from server.domain.identity import CampaignId
from server.domain.webhook_formats import Format, types_for
from server.domain.webhook_signature import SECRET_BYTES, shown
from server.services.deliveries import Deliveries
from server.services.identifiers import new_uuid7

GRACE_MOST: Final = timedelta(days=30)


class UrlCheck(Protocol):
    """Whoever knows where a webhook may be; ``server.outgoing.guard`` does."""

    def check_url(self, url: str) -> None:
        """Raises: InvalidInputError: not there."""


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """What somebody asks for. ``routing_key``: of PagerDuty, and for it alone."""

    name: str
    url: str
    format: Format
    types: frozenset[EventType]
    campaign: CampaignId | None
    routing_key: str


class Webhooks:
    """Use cases; ``deliveries`` is the worker."""

    def __init__(
        self,
        *,
        repository: WebhookRepository,
        check: UrlCheck,
        deliveries: Deliveries,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._check = check
        self._deliveries = deliveries
        self._clock = clock

    async def run(self) -> None:
        """Deliver, for ever."""
        await self._deliveries.run()

    async def add(self, new: NewWebhook, *, caller: str) -> tuple[WebhookRecord, str]:
        """Return the webhook, and its secret this once.

        Raises:
            InvalidInputError: a place that may not be reached, or no routing key for PagerDuty.
            ConflictError: there are too many.
        """
        self._check.check_url(new.url)
        _check_types(new.format, new.types)
        if bool(new.routing_key) != (new.format is Format.PAGERDUTY):
            raise InvalidInputError(
                "A routing key belongs to the format pagerduty, and to no other.", pointer="/routing_key"
            )
        record = WebhookRecord(
            id=WebhookId(new_uuid7()),
            name=new.name,
            url=new.url,
            format=new.format,
            types=new.types,
            secret=secrets.token_bytes(SECRET_BYTES),
            cursor=0,
            created_by=caller,
            created_at=self._now(),
            campaign=new.campaign,
            routing_key=new.routing_key,
        )
        return await self._repository.add(record), shown(record.secret)

    async def all(self) -> list[WebhookRecord]:
        return await self._repository.all()

    async def get(self, webhook: WebhookId) -> WebhookRecord:
        """Raises: NotFoundError."""
        return await self._repository.get(webhook)

    async def change(
        self,
        webhook: WebhookId,
        *,
        name: str | None,
        url: str | None,
        types: frozenset[EventType] | None,
        is_enabled: bool | None,
        caller: str,
        seen: Seen = lambda _: None,
    ) -> WebhookRecord:
        """Change what is not None; one that is enabled again is tried at once. ``seen`` may refuse what it has become.

        Raises:
            InvalidInputError: see ``add``; NotFoundError; StaleError: by ``seen``.
        """
        if url is not None:
            self._check.check_url(url)
        if types is not None:
            _check_types((await self._repository.get(webhook)).format, types)
        given = {"name": name, "url": url, "types": types, "is_enabled": is_enabled}
        members: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        if is_enabled is not None:
            members |= {"why_not": "" if is_enabled else f"{caller} has disabled it."}
        if is_enabled or url is not None:
            members |= {"attempts": 0, "failing_since": None, "next_attempt": None}
        return await self._repository.change(webhook, members, verb="change", by=caller, now=self._now(), seen=seen)

    async def rotate(
        self, webhook: WebhookId, *, grace: timedelta, caller: str, seen: Seen = lambda _: None
    ) -> tuple[WebhookRecord, str]:
        """Return the webhook with a new secret; the old one signs, too, until ``grace`` is over.

        Raises:
            NotFoundError; StaleError: by ``seen``.
        """
        now = self._now()
        before = await self._repository.get(webhook)
        new = secrets.token_bytes(SECRET_BYTES)
        members = {"secret": new, "old_secret": before.secret, "old_secret_until": now + min(grace, GRACE_MOST)}
        record = await self._repository.change(webhook, members, verb="rotate", by=caller, now=now, seen=seen)
        return record, shown(new)

    async def remove(self, webhook: WebhookId, *, caller: str, seen: Seen = lambda _: None) -> WebhookRecord:
        """Raises: NotFoundError; StaleError: by ``seen``."""
        return await self._repository.remove(webhook, by=caller, now=self._now(), seen=seen)

    async def deliveries(self, webhook: WebhookId, *, before: int, limit: int) -> list[DeliveryRecord]:
        """Return tries, the newest first. Raises: NotFoundError."""
        return await self._repository.deliveries(webhook, before=before, limit=limit)

    async def resend(self, webhook: WebhookId, number: int) -> DeliveryRecord:
        """Deliver what a try was for once more. Raises: NotFoundError."""
        return await self._deliveries.resend(webhook, number)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _check_types(form: Format, types: frozenset[EventType]) -> None:
    if not types_for(form, types):
        fit = ", ".join(sorted(types_for(form, frozenset())))
        raise InvalidInputError(f"The format {form} is for: {fit}.", pointer="/types")
