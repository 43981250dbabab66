"""``/v1/operations``: changes of many devices, shown first, then carried out; ``PATCH /v1/devices/{device}`` of one."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, Field

from firmware_store.errors import InvalidInputError
from server.api.devices import DeviceView, named_device, show_device
from server.api.lists import Page, PageQuery, begin_page, end_page
from server.api.parameters import NO_NUL, CohortName, Flag, Reason, RegionName
from server.api.routing import Call, Empty, Example, Model, route
from server.db.operations import OperationRecord
from server.domain.campaign import NO_REASON
from server.domain.change import LABELS_MOST, Change, Name, Text
from server.domain.filter import DEVICES, read_filter
from server.domain.filter.grammar import CHARACTERS_MOST
from server.services import identifiers
from server.services.tokens import Right


class OperationCreate(Model):
    """``filter``: whose devices. ``plan_hash``: what a dry run has answered; 409 if those are other devices by now."""

    filter: Annotated[str, Field(min_length=1, max_length=CHARACTERS_MOST, pattern=NO_NUL)]
    change: Change
    reason: Reason = NO_REASON
    plan_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class Place(BaseModel):
    """How many of the devices belong to a region and a cohort now."""

    region: str
    cohort: str
    devices: int


class OperationPlan(BaseModel):
    """What a change would do; nothing has changed. ``refused``: how many are under way in a campaign, and not moved."""

    devices: int
    refused: int
    places: list[Place]
    sample: list[str]
    plan_hash: str


class OperationError(BaseModel):
    """A device that was not changed; an empty ``device`` is the operation itself."""

    device: str
    detail: str


class OperationView(BaseModel):
    """``done`` and ``refused`` of ``total`` devices are dealt with; ``errors`` names the first hundred refused ones."""

    id: str
    state: Literal["running", "done", "failed", "cancelled"]
    filter: str
    change: Change
    reason: str
    created_by: str
    created_at: datetime
    ended_at: datetime | None
    total: int
    done: int
    refused: int
    errors: list[OperationError]


class OperationList(Page):
    operations: list[OperationView]


class DevicePatch(Model):
    """What is not named stays. ``labels``: what people say of it; null takes a label of theirs away."""

    region: RegionName | None = None
    cohort: CohortName | None = None
    labels: dict[Name, Text | None] = Field(default_factory=dict, max_length=LABELS_MOST)


class DryRunQuery(Model):
    """Whether it is only asked for."""

    dry_run: Flag = Field(False, description="change nothing, and answer with what would be changed")


@route(
    "POST",
    "/v1/operations",
    right=Right.OPERATE,
    body=OperationCreate,
    query=DryRunQuery,
    gives=OperationView,
    status=202,
    also={200: OperationPlan},
    problems=(409,),
    example=Example(
        query={"dry_run": True},
        body={
            "filter": "region = eu AND labels.ring = canary",
            "change": {"cohort": "canary"},
            "reason": "the first ones to get the next release",
        },
    ),
)
async def create_operation(call: Call[OperationCreate, DryRunQuery]) -> web.Response:
    """Change many devices in the background, or show what would be changed."""
    body, now = call.body, datetime.now(UTC)
    try:
        expression = read_filter(body.filter, DEVICES, now)
    except InvalidInputError as exc:
        raise InvalidInputError(str(exc), pointer="/filter") from None
    if call.query.dry_run:
        plan = await call.context.operations.plan(expression, body.change)
        return _answer(
            200,
            OperationPlan(
                devices=plan.devices,
                refused=plan.refused,
                places=[Place(region=where, cohort=whose, devices=n) for (where, whose), n in plan.places.items()],
                sample=list(plan.sample),
                plan_hash=plan.digest,
            ),
        )
    begun = await call.context.operations.begin(
        expression, body.change, text=body.filter, caller=call.caller.name, reason=body.reason, digest=body.plan_hash
    )
    return _answer(202, _view(begun))


@route("GET", "/v1/operations", right=Right.READ, query=PageQuery)
async def list_operations(call: Call[None, PageQuery]) -> OperationList:
    """List changes of many devices, the newest first."""
    records = await call.context.operations.newest(call.query.limit, before=begin_page(call, "operations", UUID))
    following = end_page(call, "operations", records, lambda record: record.id)
    return OperationList(operations=[_view(record) for record in records], next=following)


@route("GET", "/v1/operations/{operation}", right=Right.READ)
async def get_operation(call: Call[None]) -> OperationView:
    """See how far a change of many devices is."""
    return _view(await call.context.operations.get(_id(call)))


@route("POST", "/v1/operations/{operation}/cancel", right=Right.OPERATE, body=Empty)
async def cancel_operation(call: Call[Empty]) -> OperationView:
    """End a change of many devices: what has been changed stays so."""
    return _view(await call.context.operations.cancel(_id(call), caller=call.caller.name))


@route(
    "PATCH",
    "/v1/devices/{device}",
    right=Right.OPERATE,
    body=DevicePatch,
    matched=True,
    problems=(409,),
    example=Example(body={"cohort": "canary", "labels": {"site": "hamburg", "ring": None}}),
)
async def change_device(call: Call[DevicePatch]) -> DeviceView:
    """Move a device, or change what people say of it."""
    device, body = named_device(call), call.body
    if not (body.region or body.cohort or body.labels):
        raise InvalidInputError("It changes nothing: name region, cohort or labels.")
    change = Change(region=body.region, cohort=body.cohort, labels=body.labels)
    await call.context.operations.change(device, change, caller=call.caller.name, seen=call.match.device)
    return show_device(call, await call.context.devices.get(device))


def _id(call: Call[Any]) -> UUID:
    return identifiers.parse(identifiers.OPERATION, call.request.match_info["operation"])


def _answer(status: int, answer: BaseModel) -> web.Response:
    return web.Response(status=status, body=answer.model_dump_json().encode(), content_type="application/json")


def _view(record: OperationRecord) -> OperationView:
    return OperationView(
        id=identifiers.show(identifiers.OPERATION, record.id),
        state=record.state,
        filter=record.filter,
        change=record.change,
        reason=record.reason,
        created_by=record.created_by,
        created_at=record.created_at,
        ended_at=record.ended_at,
        total=record.total,
        done=record.done,
        refused=record.refused,
        errors=[OperationError(device=device, detail=why) for device, why in record.errors],
    )
