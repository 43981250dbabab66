"""``/v1/freezes``: when nothing may go on in a region."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, Field, NaiveDatetime, WithJsonSchema

from server.api.parameters import Reason, RegionName
from server.api.routing import Call, Example, Model, route
from server.db.freezes import FreezeRecord
from server.services import identifiers
from server.services.tokens import Right

LocalTime = Annotated[
    NaiveDatetime,
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?$"}),
]
"""What a wall clock shows: no offset, which ``date-time`` would want."""


class FreezeAdd(Model):
    """``starts`` and ``ends``: what the wall clock of ``zone`` (an IANA name) shows. No ``region``: everywhere."""

    region: RegionName | None = None
    zone: Annotated[str, Field(min_length=1, max_length=64)]
    starts: LocalTime
    ends: LocalTime
    reason: Reason


class FreezeView(BaseModel):
    """``begins_at`` and ``is_over_at`` are the instants; ``holds``: now."""

    id: str
    region: str | None
    zone: str
    starts: LocalTime
    ends: LocalTime
    begins_at: datetime
    is_over_at: datetime
    holds: bool
    reason: str
    created_by: str
    created_at: datetime


class FreezeList(BaseModel):
    freezes: list[FreezeView]


@route(
    "POST",
    "/v1/freezes",
    right=Right.OPERATE,
    body=FreezeAdd,
    status=201,
    example=Example(
        body={
            "region": "eu",
            "zone": "Europe/Berlin",
            "starts": "2026-12-20T18:00:00",
            "ends": "2027-01-02T06:00:00",
            "reason": "the sales",
        }
    ),
)
async def add_freeze(call: Call[FreezeAdd]) -> FreezeView:
    """Say when nothing may go on, in a region or everywhere."""
    body = call.body
    record = await call.context.freezes.add(
        region=body.region,
        zone=body.zone,
        starts=body.starts,
        ends=body.ends,
        reason=body.reason,
        caller=call.caller.name,
    )
    return _view(record)


@route("GET", "/v1/freezes", right=Right.READ)
async def list_freezes(call: Call[None]) -> FreezeList:
    """List the freezes."""
    return FreezeList(freezes=[_view(record) for record in await call.context.freezes.all()])


@route("DELETE", "/v1/freezes/{freeze}", right=Right.OPERATE)
async def remove_freeze(call: Call[None]) -> FreezeView:
    """Take a freeze back."""
    named = identifiers.parse(identifiers.FREEZE, call.request.match_info["freeze"])
    return _view(await call.context.freezes.remove(named, caller=call.caller.name))


def _view(record: FreezeRecord) -> FreezeView:
    freeze = record.freeze
    return FreezeView(
        id=identifiers.show(identifiers.FREEZE, freeze.id),
        region=freeze.region,
        zone=freeze.zone,
        starts=freeze.starts,
        ends=freeze.ends,
        begins_at=freeze.begins_at,
        is_over_at=freeze.is_over_at,
        holds=freeze.begins_at <= datetime.now(UTC) < freeze.is_over_at,
        reason=freeze.reason,
        created_by=record.created_by,
        created_at=record.created_at,
    )
