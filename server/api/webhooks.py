"""``/v1/webhooks``: where events are delivered to."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from firmware_store.errors import NotFoundError
from server.api.conditions import webhook_tag
from server.api.lists import Page, PageQuery, begin_page, end_page
from server.api.parameters import PATH, PRINTABLE
from server.api.routing import Call, Empty, Example, Model, route
from server.db.webhooks import DeliveryRecord, Result, WebhookId, WebhookRecord
from server.domain.events import EventType
from server.domain.identity import CampaignId
from server.domain.webhook_formats import Format
from server.services import identifiers
from server.services.tokens import Right
from server.services.webhooks import NewWebhook

_LAST: Final = (1 << 63) - 1
_DAY_S: Final = 86_400
_DIGITS_MOST: Final = 18

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=PRINTABLE)]
Url = Annotated[str, Field(min_length=8, max_length=2000, pattern=PRINTABLE)]
Types = Annotated[tuple[EventType, ...], Field(max_length=len(EventType))]


class WebhookAdd(Model):
    """No ``types``: all that the format is for. ``routing_key``: PagerDuty's integration key, for its format alone."""

    name: Name
    url: Url
    format: Format = Format.STANDARD
    types: Types = ()
    campaign: Annotated[str, Field(pattern=PATH["campaign"].pattern)] | None = None
    routing_key: Annotated[str, Field(max_length=200, pattern=PRINTABLE)] = ""


class WebhookChange(Model):
    """What is to be changed; the rest stays."""

    name: Name | None = None
    url: Url | None = None
    types: Types | None = None
    is_enabled: bool | None = None


class Rotate(Model):
    """For so long the old secret signs beside the new one."""

    grace_seconds: int = Field(_DAY_S, ge=0, le=30 * _DAY_S)


class WebhookView(BaseModel):
    """A webhook; its secrets are not shown. Events up to number ``cursor`` are dealt with.

    ``attempts``: of the event that comes next. ``why_not``: why it is not enabled.
    """

    id: str
    name: str
    url: str
    format: Format
    types: list[EventType]
    campaign: str | None
    is_enabled: bool
    why_not: str
    cursor: int
    attempts: int
    failing_since: datetime | None
    next_attempt: datetime | None
    created_by: str
    created_at: datetime


class WebhookSecret(BaseModel):
    """``secret`` is shown this once."""

    webhook: WebhookView
    secret: str


class WebhookList(BaseModel):
    webhooks: list[WebhookView]


class DeliveryView(BaseModel):
    """One try. ``status`` is that of the answer, null where there was none; ``why`` says what went wrong."""

    id: int
    event: str
    sequence: int
    type: EventType
    at: datetime
    attempt: int
    outcome: Result
    status: int | None
    why: str
    milliseconds: int


class DeliveryList(Page):
    deliveries: list[DeliveryView]


@route(
    "POST",
    "/v1/webhooks",
    right=Right.ADMINISTER,
    body=WebhookAdd,
    status=201,
    problems=(409,),
    example=Example(
        body={"name": "chat", "url": "https://hooks.example/tidegate", "types": ["campaign.halted", "campaign.paused"]}
    ),
)
async def add_webhook(call: Call[WebhookAdd]) -> WebhookSecret:
    """Have events delivered, from now on; the secret that they are signed with is shown this once."""
    body = call.body
    campaign = None if body.campaign is None else identifiers.parse(identifiers.CAMPAIGN, body.campaign)
    new = NewWebhook(
        name=body.name,
        url=body.url,
        format=body.format,
        types=frozenset(body.types),
        campaign=None if campaign is None else CampaignId(campaign),
        routing_key=body.routing_key,
    )
    record, secret = await call.context.webhooks.add(new, caller=call.caller.name)
    return WebhookSecret(webhook=_view(record), secret=secret)


@route("GET", "/v1/webhooks", right=Right.READ)
async def list_webhooks(call: Call[None]) -> WebhookList:
    """List the webhooks, the oldest first."""
    return WebhookList(webhooks=[_view(record) for record in await call.context.webhooks.all()])


@route("GET", "/v1/webhooks/{webhook}", right=Right.READ)
async def get_webhook(call: Call[None]) -> WebhookView:
    """Get a webhook, and how far it has come."""
    record = await call.context.webhooks.get(_id(call))
    call.tag(webhook_tag(record))
    return _view(record)


@route(
    "PATCH",
    "/v1/webhooks/{webhook}",
    right=Right.ADMINISTER,
    body=WebhookChange,
    matched=True,
    example=Example(body={"is_enabled": True}),
)
async def change_webhook(call: Call[WebhookChange]) -> WebhookView:
    """Change a webhook; one that is enabled again is tried at once."""
    body = call.body
    record = await call.context.webhooks.change(
        _id(call),
        name=body.name,
        url=body.url,
        types=None if body.types is None else frozenset(body.types),
        is_enabled=body.is_enabled,
        caller=call.caller.name,
        seen=call.match.webhook,
    )
    call.tag(webhook_tag(record))
    return _view(record)


@route("POST", "/v1/webhooks/{webhook}/rotate", right=Right.ADMINISTER, body=Rotate, matched=True)
async def rotate_webhook(call: Call[Rotate]) -> WebhookSecret:
    """Make a new secret, shown this once; for a time the old one signs, too."""
    grace = timedelta(seconds=call.body.grace_seconds)
    record, secret = await call.context.webhooks.rotate(
        _id(call), grace=grace, caller=call.caller.name, seen=call.match.webhook
    )
    call.tag(webhook_tag(record))
    return WebhookSecret(webhook=_view(record), secret=secret)


@route("DELETE", "/v1/webhooks/{webhook}", right=Right.ADMINISTER, matched=True)
async def remove_webhook(call: Call[None]) -> WebhookView:
    """Deliver nothing there any more; its log goes with it."""
    return _view(await call.context.webhooks.remove(_id(call), caller=call.caller.name, seen=call.match.webhook))


@route("GET", "/v1/webhooks/{webhook}/deliveries", right=Right.READ, query=PageQuery)
async def list_deliveries(call: Call[None, PageQuery]) -> DeliveryList:
    """List the tries to deliver, the newest first; the last thousand are kept."""
    before = begin_page(call, "deliveries", int) or _LAST
    records = await call.context.webhooks.deliveries(_id(call), before=before, limit=call.query.limit)
    following = end_page(call, "deliveries", records, lambda record: record.id)
    return DeliveryList(deliveries=[_delivery(record) for record in records], next=following)


@route("POST", "/v1/webhooks/{webhook}/deliveries/{delivery}/resend", right=Right.ADMINISTER, body=Empty)
async def resend_delivery(call: Call[Empty]) -> DeliveryView:
    """Deliver an event once more, now, whatever has become of it."""
    return _delivery(await call.context.webhooks.resend(_id(call), _number(call)))


def _id(call: Call[Any, Any]) -> WebhookId:
    return WebhookId(identifiers.parse(identifiers.WEBHOOK, call.request.match_info["webhook"]))


def _number(call: Call[Any, Any]) -> int:
    text = call.request.match_info["delivery"]
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MOST:
        raise NotFoundError("There is no such delivery.")
    return int(text)


def _view(record: WebhookRecord) -> WebhookView:
    return WebhookView(
        id=identifiers.show(identifiers.WEBHOOK, record.id),
        name=record.name,
        url=record.url,
        format=record.format,
        types=sorted(record.types),
        campaign=None if record.campaign is None else identifiers.show(identifiers.CAMPAIGN, record.campaign),
        is_enabled=record.is_enabled,
        why_not=record.why_not,
        cursor=record.cursor,
        attempts=record.attempts,
        failing_since=record.failing_since,
        next_attempt=record.next_attempt,
        created_by=record.created_by,
        created_at=record.created_at,
    )


def _delivery(record: DeliveryRecord) -> DeliveryView:
    return DeliveryView(
        id=record.id,
        event=identifiers.show("evt_", record.event_id),
        sequence=record.event_seq,
        type=record.type,
        at=record.at,
        attempt=record.attempt,
        outcome=record.outcome,
        status=record.status,
        why=record.why,
        milliseconds=record.milliseconds,
    )
