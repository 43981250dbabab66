"""``ETag`` and ``If-Match`` (RFC 9110 8.8.3, 13.1.1): an order holds for what whoever gives it has seen.

A tag stands for what an order acts on, such as a campaign's state and its open wave, and not for every number that is
shown beside it: those of a running campaign change each second, and no order is wrong for that.
"""

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from aiohttp import hdrs, web

from firmware_store.errors import InvalidInputError, PreconditionMissingError, StaleError
from server.db.campaign_records import CampaignRecord
from server.db.devices import DeviceRecord
from server.db.policies import PolicyRecord
from server.db.webhooks import WebhookRecord

FORM: Final = r'^(\*|"[!#-~]*"( *, *"[!#-~]*")*)$'
"""Of If-Match: strong tags, or anything."""

_TAG: Final = re.compile(r'"[!#-~]*"')


@dataclass(frozen=True, slots=True)
class Match:
    """What a caller has seen; ``tags`` empty: whatever there is (``If-Match: *``)."""

    tags: frozenset[str]

    def campaign(self, record: CampaignRecord) -> None:
        """Raises: StaleError."""
        self._check(campaign_tag(record), "campaign")

    def device(self, record: DeviceRecord) -> None:
        """Raises: StaleError."""
        self._check(device_tag(record), "device")

    def webhook(self, record: WebhookRecord) -> None:
        """Raises: StaleError."""
        self._check(webhook_tag(record), "webhook")

    def policy(self, record: PolicyRecord) -> None:
        """Raises: StaleError."""
        self._check(policy_tag(record), "policy")

    def _check(self, tag: str, what: str) -> None:
        if self.tags and tag not in self.tags:
            raise StaleError(f"The {what} has changed since you looked at it: look again, and then decide.")


def read_match(request: web.Request) -> Match:
    """Return what the request says that its sender has seen.

    Raises:
        PreconditionMissingError: it does not say it.
        InvalidInputError: what it says is no tag.
    """
    text = request.headers.get(hdrs.IF_MATCH)
    if text is None:
        raise PreconditionMissingError("Say what you have seen: If-Match with the ETag of the answer to your GET.")
    if not re.fullmatch(FORM, text):
        raise InvalidInputError("If-Match has the ETag of an answer, with its quotes, or *.", pointer="If-Match")
    return Match(frozenset(_TAG.findall(text)))


def campaign_tag(record: CampaignRecord) -> str:
    return _tag(record.id.hex, record.state, record.run, record.wave, record.awaits, *sorted(record.causes))


def device_tag(record: DeviceRecord) -> str:
    until = None if record.held_until is None else record.held_until.isoformat()
    labels = sorted(record.operator_labels.items())
    return _tag(record.id, record.region, record.cohort, labels, record.held, until, record.held_reason)


def webhook_tag(record: WebhookRecord) -> str:
    rotated = None if record.old_secret_until is None else record.old_secret_until.isoformat()
    types = sorted(record.types)
    return _tag(record.id.hex, record.name, record.url, types, record.is_enabled, record.why_not, rotated)


def policy_tag(record: PolicyRecord) -> str:
    return _tag(record.name, record.version)


def _tag(*facts: object) -> str:
    return f'"{sha256(json.dumps(facts).encode()).hexdigest()[:32]}"'
