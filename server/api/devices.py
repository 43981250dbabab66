"""``/v1/devices``: add, list, look at."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from server.api.conditions import device_tag
from server.api.lists import FilterQuery, Page
from server.api.parameters import CohortName, DeviceName, Reason, RegionName
from server.api.routing import Call, Empty, Example, Model, route
from server.db.devices import DeviceRecord, NewDevice
from server.domain.filter import DEVICES, Compare, Conjunction, Expression, Relation
from server.domain.identity import DeviceId, device_id
from server.services.inventory import BrokerCredential
from server.services.tokens import Right

ADD_MOST = 1000


class DeviceAdd(Model):
    """One device to add."""

    id: DeviceName
    region: RegionName
    cohort: CohortName


class DevicesAdd(Model):
    """Devices to add, all or none."""

    devices: tuple[DeviceAdd, ...] = Field(min_length=1, max_length=ADD_MOST)


class Credential(BaseModel):
    """How a device reaches the broker; the password is shown once and not kept."""

    host: str
    port: int
    tls: bool
    username: str
    password: str
    client_id: str
    expires_at: datetime
    topic_root: str


class DeviceAdded(BaseModel):
    """``credential`` is null where an external broker's operator gives credentials out."""

    id: str
    region: str
    cohort: str
    credential: Credential | None


class DevicesAdded(BaseModel):
    devices: list[DeviceAdded]


class DeviceView(BaseModel):
    """A device as it is known; what it says of itself is null until its first hello.

    ``held_until`` is null where it is not held, or until somebody releases it. ``wake_interval_s`` is null where it
    does not sleep; one that does is ``asleep`` while it is offline and has missed no wake. ``labels`` are what it says
    of itself and ``operator_labels``, what people say of it, together: the latter outweigh.
    """

    id: str
    region: str
    cohort: str
    online: bool
    asleep: bool
    wake_interval_s: int | None
    held: bool
    held_until: datetime | None
    held_reason: str
    revoked: bool
    hardware: str | None
    running_version: str | None
    booted_slot: str | None
    agent_version: str | None
    labels: dict[str, str]
    operator_labels: dict[str, str]
    last_seen: datetime | None
    member_since: datetime


class DeviceList(Page):
    """``next`` is the cursor of the following page, null on the last.

    With a filter on ``online`` a page may be short, or empty, and not the last.
    """

    devices: list[DeviceView]


class DeviceQuery(FilterQuery):
    """Which devices are listed."""

    region: RegionName | None = Field(None, description="those of one region")
    cohort: CohortName | None = Field(None, description="those of one cohort")


@route(
    "POST",
    "/v1/devices",
    right=Right.OPERATE,
    body=DevicesAdd,
    status=201,
    problems=(409,),
    secret=True,
    example=Example(body={"devices": [{"id": "gw-17", "region": "eu", "cohort": "main"}]}),
)
async def add_devices(call: Call[DevicesAdd]) -> DevicesAdded:
    """Add devices, all or none, each with its credential for the embedded broker."""
    devices = [NewDevice(entry.id, entry.region, entry.cohort) for entry in call.body.devices]
    await call.context.inventory.add(devices)
    given = await call.context.inventory.credentials([device.id for device in devices])
    return DevicesAdded(
        devices=[
            DeviceAdded(
                id=device.id, region=device.region, cohort=device.cohort, credential=_credential(call, given, device.id)
            )
            for device in devices
        ]
    )


@route("POST", "/v1/devices/{device}/credential", right=Right.OPERATE, body=Empty, problems=(409,), secret=True)
async def renew_credential(call: Call[Empty]) -> DeviceAdded:
    """Make a new credential for a device; the one before is good until it expires."""
    record = await call.context.devices.get(named_device(call))
    given = await call.context.inventory.credentials([record.id])
    return DeviceAdded(
        id=record.id, region=record.region, cohort=record.cohort, credential=_credential(call, given, record.id)
    )


@route("GET", "/v1/devices", right=Right.READ, query=DeviceQuery, example=Example(query={"region": "eu", "limit": 50}))
async def list_devices(call: Call[None, DeviceQuery]) -> DeviceList:
    """List devices by their ids."""
    limit, only = call.query.limit, device_filter(call.query)
    after = call.after("devices", call.query.cursor)
    if only is None:
        records = await call.context.devices.page(after=after, limit=limit)
        following: str | None = records[-1].id if len(records) == limit else None
    else:
        page = await call.context.search.page(only, after=after, limit=limit, now=time.time())
        records, following = page.devices, page.after
    return DeviceList(
        devices=[view_device(call, record) for record in records], next=call.following("devices", following)
    )


def device_filter(query: DeviceQuery) -> Expression | None:
    """Return what ``?filter=``, ``?region=`` and ``?cohort=`` let through together; None: everything.

    Raises:
        InvalidInputError: the filter is none.
    """
    given = query.only(DEVICES)
    parts = [] if given is None else [given]
    for name, value in (("region", query.region), ("cohort", query.cohort)):
        if value is not None:
            parts.append(Compare(name, Relation.EQUAL, value))
    return Conjunction(tuple(parts)) if parts else None


@route("GET", "/v1/devices/{device}", right=Right.READ)
async def get_device(call: Call[None]) -> DeviceView:
    """Get a device as it is known."""
    return show_device(call, await call.context.devices.get(named_device(call)))


class Hold(Model):
    """``for_seconds`` null: until it is released."""

    reason: Reason
    for_seconds: int | None = Field(None, ge=1, le=366 * 86_400)


@route(
    "POST",
    "/v1/devices/{device}/hold",
    right=Right.OPERATE,
    body=Hold,
    example=Example(body={"reason": "on the bench", "for_seconds": 3600}),
)
async def hold_device(call: Call[Hold]) -> DeviceView:
    """Keep a device out of campaigns, for a time or until it is released."""
    body = call.body
    record = await call.context.quarantine.hold(
        named_device(call), for_s=body.for_seconds, reason=body.reason, caller=call.caller.name
    )
    return show_device(call, record)


@route("POST", "/v1/devices/{device}/release", right=Right.OPERATE, body=Empty)
async def release_device(call: Call[Empty]) -> DeviceView:
    """End a hold."""
    return show_device(call, await call.context.quarantine.release(named_device(call), caller=call.caller.name))


def named_device(call: Call[Any, Any]) -> DeviceId:
    """Return the device in the path. Raises: InvalidInputError."""
    return device_id(call.request.match_info["device"])


def view_credential(call: Call[Any], given: BrokerCredential) -> Credential:
    return Credential(
        host=given.host,
        port=given.port,
        tls=given.tls,
        username=given.username,
        password=given.password,
        client_id=given.client_id,
        expires_at=given.expires_at,
        topic_root=call.context.topic_root,
    )


def _credential(call: Call[Any], given: Mapping[DeviceId, BrokerCredential], device: DeviceId) -> Credential | None:
    return view_credential(call, given[device]) if device in given else None


def show_device(call: Call[Any, Any], record: DeviceRecord) -> DeviceView:
    """Return the view of one device, and give the answer its tag."""
    call.tag(device_tag(record))
    return view_device(call, record)


def view_device(call: Call[Any, Any], record: DeviceRecord) -> DeviceView:
    now = datetime.now(UTC)
    device = call.context.fleet.get(record.id)
    heard = device.last_seen if device is not None else 0.0
    return DeviceView(
        id=record.id,
        region=record.region,
        cohort=record.cohort,
        online=device is not None and call.context.fleet.is_online(device, now.timestamp()),
        asleep=device is not None and call.context.fleet.is_asleep(device, now.timestamp()),
        wake_interval_s=record.wake_interval_s,
        held=record.held,
        held_until=record.held_until,
        held_reason=record.held_reason,
        revoked=device is not None and device.revoked,
        hardware=record.hardware,
        running_version=record.running_version,
        booted_slot=record.booted_slot,
        agent_version=record.agent_version,
        labels=dict(record.all_labels),
        operator_labels=dict(record.operator_labels),
        last_seen=datetime.fromtimestamp(heard, UTC) if heard else record.last_seen,
        member_since=record.member_since,
    )
