"""``/v1/inventory``: devices as a table, and those that do not run what they should."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from aiohttp import web
from pydantic import BaseModel, Field

from firmware_store.errors import InvalidInputError, TooLargeError
from server.api.lists import FilterQuery, Page, begin_page
from server.api.routing import Call, Media, Model, route
from server.domain.filter import DEVICES, POINTER, Conjunction, Expression, read_filter
from server.domain.identity import CAMPAIGN, show
from server.services.drift import Brought, knows
from server.services.tokens import Right

MEDIA_TYPE: Final = "text/csv"
TABLE_MOST_BYTES: Final = 64 << 20

TABLE: Final = Media(
    MEDIA_TYPE,
    "a line for each device, after one with the names of the columns",
    shown='id,region,cohort,labels\r\ngw-17,eu,main,"{""site"": ""bremen""}"\r\n',
)


class DriftingView(BaseModel):
    """A device and what it should run: the release that ``campaign`` has brought to it."""

    device: str
    region: str
    cohort: str
    runs: str | None
    should_run: str
    campaign: str
    campaign_name: str
    last_seen: datetime | None


class DriftList(Page):
    """A page may be short, or empty, and not the last: ``next`` is null on that one."""

    devices: list[DriftingView]


class DriftPart(BaseModel):
    """Of the devices that a campaign has reached in a region, ``drifting`` run something else."""

    region: str
    cohort: str
    should_run: str
    campaign: str
    campaign_name: str
    devices: int
    drifting: int


class DriftSummary(BaseModel):
    """``devices`` are those that any campaign has reached."""

    devices: int
    drifting: int
    parts: list[DriftPart]


class ExportQuery(Model):
    """Which devices."""

    filter: str | None = Field(None, min_length=1, max_length=2000, description="those that this lets through")


class Imported(BaseModel):
    devices: int


@route("GET", "/v1/inventory/drift", right=Right.READ, query=FilterQuery)
async def list_drift(call: Call[None, FilterQuery]) -> DriftList:
    """List devices that do not run what the newest campaign that reaches them has brought."""
    found, following = await call.context.drift.page(
        _stored(call.query.only(DEVICES)), after=begin_page(call, "drift", str) or "", limit=call.query.limit
    )
    return DriftList(
        devices=[
            DriftingView(
                device=one.record.id,
                region=one.record.region,
                cohort=one.record.cohort,
                runs=one.record.running_version,
                last_seen=one.record.last_seen,
                **_named(one.expected),
            )
            for one in found
        ],
        next=call.following("drift", following),
    )


@route("GET", "/v1/inventory/drift/summary", right=Right.READ)
async def count_drift(call: Call[None]) -> DriftSummary:
    """Count devices that do not run what they should."""
    parts = await call.context.drift.count()
    return DriftSummary(
        devices=sum(part.devices for part in parts),
        drifting=sum(part.drifting for part in parts),
        parts=[
            DriftPart(
                region=part.expected.region.region,
                cohort=part.expected.campaign.cohort,
                devices=part.devices,
                drifting=part.drifting,
                **_named(part.expected),
            )
            for part in parts
        ],
    )


@route("GET", "/v1/inventory/export", right=Right.READ, query=ExportQuery, gives=TABLE)
async def export_devices(call: Call[None, ExportQuery]) -> web.StreamResponse:
    """Get devices as a table."""
    text = call.query.filter
    only = None if text is None else read_filter(text, DEVICES, datetime.now().astimezone())
    lines = call.context.tables.write(_stored(only) or Conjunction(()))
    response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE})
    await response.prepare(call.request)
    async for some in lines:
        await response.write(some)
    await response.write_eof()
    return response


@route(
    "POST",
    "/v1/inventory/import",
    right=Right.OPERATE,
    takes=Media(MEDIA_TYPE, "the columns id, region and cohort, and labels (JSON) where there are any"),
    status=201,
)
async def import_devices(call: Call[None]) -> Imported:
    """Add the devices of a table, all or none; bad rows are named with their lines."""
    if call.request.content_type != MEDIA_TYPE:
        raise web.HTTPUnsupportedMediaType(reason=f"The body must be {MEDIA_TYPE}.")
    return Imported(devices=await call.context.tables.read(_pieces(call.request)))


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    taken = 0
    try:
        async for piece in request.content.iter_any():
            taken += len(piece)
            if taken > TABLE_MOST_BYTES:
                raise TooLargeError(f"A table may have {TABLE_MOST_BYTES} bytes.", limit_bytes=TABLE_MOST_BYTES)
            yield piece
    except (ConnectionResetError, web.RequestPayloadError) as exc:
        raise InvalidInputError("The upload broke off; nothing was added.") from exc


def _stored(expression: Expression | None) -> Expression | None:
    if not knows(expression):
        raise InvalidInputError("online is only known to lists of devices; leave it out here.", pointer=POINTER)
    return expression


def _named(expected: Brought) -> dict[str, str]:
    campaign = expected.campaign
    return {"should_run": expected.version, "campaign": show(CAMPAIGN, campaign.id), "campaign_name": campaign.name}
