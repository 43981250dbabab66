"""What a webhook is sent for an event (pure): CloudEvents, PagerDuty's Events v2, or a plain ticket.

A page is for a halt and for a dead evaluator alone; it is resolved when somebody has acted. A ticket is for what can
wait until the morning. Both are deduplicated by campaign.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from server.domain.events import EventType, Published, cloud_event

SUMMARY_CHARACTERS_MOST: Final = 1024
"""PagerDuty cuts longer ones off."""

EVALUATOR_KEY: Final = "evaluator"


class Format(StrEnum):
    """Values are what is stored and shown."""

    STANDARD = "standard"
    PAGERDUTY = "pagerduty"
    TICKET = "ticket"


@dataclass(frozen=True, slots=True)
class Topic:
    """What a ticket is about: it is sent once for each."""

    key: str
    name: str


@dataclass(frozen=True, slots=True)
class Message:
    """The body of a request, and its type."""

    body: bytes
    content_type: str = "application/json"


_PAGED: Final = frozenset(
    {
        EventType.CAMPAIGN_HALTED,
        EventType.EVALUATOR_DEAD,
        EventType.EVALUATOR_BACK,
        EventType.CAMPAIGN_RESUMED,
        EventType.CAMPAIGN_ROLLING_BACK,
        EventType.CAMPAIGN_CANCELLED,
    }
)
_TICKETS: Final[Mapping[EventType, str]] = MappingProxyType(
    {
        EventType.CAMPAIGN_PAUSED: "hold",
        EventType.CAMPAIGN_WATCHING: "stragglers",
        EventType.CAMPAIGN_FINISHED: "stragglers",
        EventType.EXECUTIONS_SILENT: "stragglers",
        EventType.DEVICES_QUARANTINED: "quarantine",
    }
)
_AS_ORDERED: Final = frozenset({"operator", "freeze"})
"""Somebody wants such a pause."""

_DONE: Final = frozenset({"confirmed", "rolled_back", "cancelled", "skipped"})


def types_for(form: Format, chosen: frozenset[EventType]) -> frozenset[EventType]:
    """Return the types that a webhook hears of: those that were chosen (none: all) and that its format is for."""
    fit = {Format.STANDARD: frozenset(EventType), Format.PAGERDUTY: _PAGED, Format.TICKET: frozenset(_TICKETS)}[form]
    return (chosen or fit) & fit


def topic_of(event: Published) -> Topic | None:
    """Return what a ticket for this event is about; None if there is none to be written."""
    data = json.loads(event.data)
    if event.type is EventType.CAMPAIGN_PAUSED and set(data["causes"]) <= _AS_ORDERED:
        return None
    if event.type in {EventType.CAMPAIGN_WATCHING, EventType.CAMPAIGN_FINISHED} and not _stragglers(data):
        return None
    name = _TICKETS.get(event.type)
    return None if name is None else Topic(event.subject, name)


def standard(event: Published, *, fleet: bytes) -> Message:
    """Return the event as CloudEvents has it."""
    return Message(_bytes(cloud_event(event, fleet=fleet)), "application/cloudevents+json")


def ticket(event: Published, topic: Topic, *, is_first: bool, fleet: bytes) -> Message:
    """Return a ticket, or a comment to the one there is of this campaign."""
    told = cloud_event(event, fleet=fleet)
    data = told["data"]
    name = data.get("name", event.subject)
    text = data.get("sentence") or f"{data.get('count', 0)} devices: {topic.name}."
    if count := _stragglers(data):
        text = f"{count} devices have not confirmed the release. {text}"
    body = {
        "action": "open" if is_first else "comment",
        "key": topic.key,
        "topic": topic.name,
        "title": f"{name}: {topic.name}",
        "text": text,
        "event": told,
    }
    return Message(_bytes(body))


def pagerduty(event: Published, *, routing_key: str, fleet: bytes) -> Message | None:
    """Return what PagerDuty is sent (Events API v2); None if this event is none of its business."""
    data = json.loads(event.data)
    is_campaign = event.campaign is not None
    body: dict[str, Any] = {"routing_key": routing_key, "dedup_key": event.subject if is_campaign else EVALUATOR_KEY}
    if event.type not in {EventType.CAMPAIGN_HALTED, EventType.EVALUATOR_DEAD}:
        is_answer = event.type is EventType.EVALUATOR_BACK or data.get("before") == "halted"
        return Message(_bytes({**body, "event_action": "resolve"})) if is_answer else None
    summary = f"{data['name']}: {data['sentence']}" if is_campaign else data["sentence"]
    body["event_action"] = "trigger"
    body["payload"] = {
        "summary": summary[:SUMMARY_CHARACTERS_MOST],
        "source": f"tidegate/{fleet.hex()}",
        "severity": "critical",
        "timestamp": event.at.isoformat(),
        "component": data.get("cohort", EVALUATOR_KEY),
        "class": event.type.value,
        "custom_details": data,
    }
    return Message(_bytes(body))


def _stragglers(data: Mapping[str, Any]) -> int:
    counts = data.get("devices")
    if not isinstance(counts, dict):
        return 0
    return sum(count for state, count in counts.items() if state not in _DONE)


def _bytes(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
