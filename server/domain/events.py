"""Events: what people and their programs want to hear of. Their types, and the form in which they are told (pure).

None of them comes with each beat or report: what a campaign's devices report in one commit is one event.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from server.domain.identity import CAMPAIGN, CampaignId, Cohort, Region, show
from server.domain.scope import Scope

DEVICES_NAMED_MOST: Final = 100
"""One event names no more devices than these; ``count`` says how many there are."""

TYPE_PREFIX: Final = "dev.tidegate."
"""CloudEvents wants types to begin with a reversed domain name."""


class EventType(StrEnum):
    """Values are what is stored, filtered by and shown."""

    CAMPAIGN_CREATED = "campaign.created"
    CAMPAIGN_SUBMITTED = "campaign.submitted"
    CAMPAIGN_APPROVED = "campaign.approved"
    CAMPAIGN_STARTED = "campaign.started"
    CAMPAIGN_WAVE_OPENED = "campaign.wave_opened"
    CAMPAIGN_WAITING = "campaign.waiting"
    CAMPAIGN_ADVANCED = "campaign.advanced"
    CAMPAIGN_PAUSED = "campaign.paused"
    CAMPAIGN_RESUMED = "campaign.resumed"
    CAMPAIGN_HALTED = "campaign.halted"
    CAMPAIGN_WATCHING = "campaign.watching"
    CAMPAIGN_FINISHED = "campaign.finished"
    CAMPAIGN_ROLLING_BACK = "campaign.rolling_back"
    CAMPAIGN_ROLLED_BACK = "campaign.rolled_back"
    CAMPAIGN_CANCELLED = "campaign.cancelled"
    EXECUTIONS_FAILED = "executions.failed"
    EXECUTIONS_SILENT = "executions.silent"
    DEVICE_HELD = "device.held"
    DEVICES_QUARANTINED = "devices.quarantined"
    DEVICE_RELEASED = "device.released"
    DEVICE_ENROLLED = "device.enrolled"
    DEVICE_REVOKED = "device.revoked"
    OPERATION_ENDED = "operation.ended"
    BUNDLE_ADDED = "bundle.added"
    TRUST_ACCEPTED = "trust.accepted"
    TRUST_REFUSED = "trust.refused"
    EVALUATOR_DEAD = "evaluator.dead"
    EVALUATOR_BACK = "evaluator.back"
    BROKER_LOST = "broker.lost"
    BROKER_BACK = "broker.back"
    STORE_TROUBLE = "store.trouble"
    STORE_BACK = "store.back"
    AUDIT_ALTERED = "audit.altered"
    WEBHOOK_DISABLED = "webhook.disabled"


_T = EventType

SAID: Final[Mapping[EventType, str]] = MappingProxyType(
    {
        _T.CAMPAIGN_CREATED: "somebody has drafted it",
        _T.CAMPAIGN_SUBMITTED: "somebody asks for approvals",
        _T.CAMPAIGN_APPROVED: "somebody has approved it",
        _T.CAMPAIGN_STARTED: "it runs",
        _T.CAMPAIGN_WAVE_OPENED: "a wave has opened, or takes in more devices",
        _T.CAMPAIGN_WAITING: "its wave waits for a person or a gate webhook",
        _T.CAMPAIGN_ADVANCED: "a person has let its wave through",
        _T.CAMPAIGN_PAUSED: "it is held; `causes` says by what",
        _T.CAMPAIGN_RESUMED: "a cause of its pause is gone, or a halted one is in its next run",
        _T.CAMPAIGN_HALTED: "it was halted, by the halt rule, a person or a trust document",
        _T.CAMPAIGN_WATCHING: "its last wave is through; `devices` counts them by their state",
        _T.CAMPAIGN_FINISHED: "it is over; `devices` counts them by their state",
        _T.CAMPAIGN_ROLLING_BACK: "its devices are on their way back",
        _T.CAMPAIGN_ROLLED_BACK: "nobody has to be waited for any longer; `devices` counts them by their state",
        _T.CAMPAIGN_CANCELLED: "it was cancelled, or another one has superseded it",
        _T.EXECUTIONS_FAILED: "devices have failed, rejected the release or gone back by themselves",
        _T.EXECUTIONS_SILENT: "devices were not heard after their reboot, or died in their trial",
        _T.DEVICE_HELD: "somebody keeps it out of campaigns",
        _T.DEVICES_QUARANTINED: "their attempts of a campaign are spent, and they are held for a time",
        _T.DEVICE_RELEASED: "its hold is over",
        _T.DEVICE_ENROLLED: "it has used its claim",
        _T.DEVICE_REVOKED: "nothing that it could prove itself with is good any more",
        _T.OPERATION_ENDED: "a change of many devices is over: done, failed or cancelled, as `state` says",
        _T.BUNDLE_ADDED: "a release was uploaded",
        _T.TRUST_ACCEPTED: "a root or a status holds from now on",
        _T.TRUST_REFUSED: "somebody has shown a root or a status that is not good",
        _T.EVALUATOR_DEAD: "campaigns are not evaluated: nothing opens, nothing halts by itself",
        _T.EVALUATOR_BACK: "campaigns are evaluated again",
        _T.BROKER_LOST: "the server has no session with the broker",
        _T.BROKER_BACK: "the server has a session with the broker again",
        _T.STORE_TROUBLE: "the blob store does not answer as it should, or blobs are damaged or missing",
        _T.STORE_BACK: "the blob store answers again",
        _T.AUDIT_ALTERED: "a row of the audit is not what it was",
        _T.WEBHOOK_DISABLED: "it is gone, or has taken nothing for three days",
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell. ``subject`` is an id as it is shown; with regions and a cohort it belongs to a place."""

    type: EventType
    subject: str
    at: datetime
    data: Mapping[str, object] = field(default_factory=dict)
    campaign: CampaignId | None = None
    regions: tuple[Region, ...] = ()
    cohort: Cohort | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """An event with its number and its id; ``data`` is JSON."""

    seq: int
    id: UUID
    at: datetime
    type: EventType
    subject: str
    campaign: CampaignId | None
    regions: tuple[Region, ...]
    cohort: Cohort | None
    data: str

    def is_shown(self, scope: Scope) -> bool:
        """Whether somebody may hear of it: with limits, only of what lies within them as a whole."""
        if not scope.is_limited:
            return True
        return self.cohort is not None and scope.has_all(self.regions, self.cohort)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which events somebody wants: of these types (none: of all), and of one campaign."""

    types: frozenset[EventType] = frozenset()
    campaign: CampaignId | None = None

    def has(self, event: Published) -> bool:
        return (not self.types or event.type in self.types) and self.campaign in (None, event.campaign)


def id_of(event: Published) -> str:
    """Return the id by which receivers know that they have an event already."""
    return show("evt_", event.id)


def cloud_event(event: Published, *, fleet: bytes) -> dict[str, Any]:
    """Return an event as CloudEvents 1.0 has it (structured mode); ``sequence`` is an extension."""
    told: dict[str, Any] = {
        "specversion": "1.0",
        "id": id_of(event),
        "source": f"/tidegate/{fleet.hex()}",
        "type": TYPE_PREFIX + event.type,
        "subject": event.subject,
        "time": event.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "sequence": str(event.seq),
        "data": json.loads(event.data),
    }
    if event.campaign is not None:
        told["data"]["campaign"] = show(CAMPAIGN, event.campaign)
    return told


def named(devices: Collection[Mapping[str, object]]) -> dict[str, object]:
    """Return the part of an event that names devices: the first ones, and how many there are."""
    return {"count": len(devices), "devices": list(devices)[:DEVICES_NAMED_MOST]}
