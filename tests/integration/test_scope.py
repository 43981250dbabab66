"""Whoever is limited to regions or cohorts finds nothing of the others, on any route.

``ROWS`` has a row for each operation of the OpenAPI document that takes a token, and ``ASKED`` one for each parameter
of a list: what somebody adds without a row fails here.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from server.api.application import document
from tests.integration.test_rest import HEX, assert_problem
from tests.integration.test_rest_campaigns import bundle, create, order
from tests.servers import ROOT, Api, ServerProcess, make_bundle, unique

__all__ = ["bundle"]


@dataclass(frozen=True)
class Hidden:
    """It names one object, which is not found. ``by_cohort``: the status for whoever is limited to cohorts."""

    body: Mapping[str, Any] | None = None
    by_cohort: int = 404


@dataclass(frozen=True)
class Absent:
    """It lists objects, and those elsewhere are not among them. ``of_region``: they have no cohort."""

    of_region: bool = False


@dataclass(frozen=True)
class Refused:
    """It makes something elsewhere."""

    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Closed:
    """It concerns the whole fleet, and nobody with limits gets in."""

    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Open:
    """What it answers has no place: the same for everybody."""

    body: Mapping[str, Any] | None = None


WHY = {"reason": "because"}

ROWS: dict[str, Hidden | Absent | Refused | Closed | Open] = {
    "POST /v1/devices": Refused({"devices": [{"id": "{new}", "region": "{region}", "cohort": "{cohort}"}]}),
    "GET /v1/devices": Absent(),
    "GET /v1/devices/{device}": Hidden(),
    "GET /v1/devices/{device}/why": Hidden(),
    "POST /v1/devices/{device}/credential": Hidden({}),
    "POST /v1/devices/{device}/hold": Hidden(WHY),
    "POST /v1/devices/{device}/release": Hidden({}),
    "POST /v1/devices/{device}/claim": Hidden({}),
    "POST /v1/devices/{device}/revoke": Hidden(WHY),
    "PATCH /v1/devices/{device}": Hidden({"labels": {"ring": "1"}}),
    "GET /v1/inventory/drift": Open(),
    "GET /v1/inventory/drift/summary": Open(),
    "GET /v1/inventory/export": Absent(),
    "POST /v1/inventory/import": Refused(),
    "POST /v1/operations": Refused({"filter": "held = true", "change": {"region": "{region}", "cohort": "{cohort}"}}),
    "GET /v1/operations": Absent(),
    "GET /v1/operations/{operation}": Hidden(),
    "POST /v1/operations/{operation}/cancel": Hidden({}),
    "GET /v1/regions": Absent(),
    "GET /v1/cohorts": Absent(),
    "POST /v1/campaigns": Refused(
        {"name": "x", "bundle": "{bundle}", "cohort": "{cohort}", "regions": ["{mine}", "{region}"]}
    ),
    "GET /v1/campaigns": Absent(),
    "GET /v1/campaigns/{campaign}": Hidden(),
    "GET /v1/campaigns/{campaign}/decisions": Hidden(),
    "GET /v1/campaigns/{campaign}/executions": Hidden(),
    "GET /v1/executions": Open(),
    "GET /v1/campaigns/{campaign}/windows": Hidden(),
    "GET /v1/campaigns/{campaign}/explain": Hidden(),
    **{
        f"POST /v1/campaigns/{{campaign}}/{verb}": Hidden(WHY)
        for verb in ("submit", "approve", "start", "pause", "resume", "rollback", "halt", "cancel")
    },
    "POST /v1/campaigns/{campaign}/rehearse": Hidden({}),
    "POST /v1/rehearsals": Refused({"cohort": "{cohort}", "regions": ["{mine}", "{region}"]}),
    "POST /v1/campaigns/{campaign}/advance": Hidden({"wave": 1}),
    "POST /v1/freezes": Refused(
        {
            "region": "{region}",
            "zone": "UTC",
            "starts": "2030-01-01T00:00:00",
            "ends": "2030-01-02T00:00:00",
            "reason": "x",
        }
    ),
    "GET /v1/freezes": Absent(of_region=True),
    "DELETE /v1/freezes/{freeze}": Hidden(by_cohort=403),
    "POST /v1/tokens": Refused(
        {"name": "x", "role": "viewer", "regions": ["{region}", "{mine}"], "cohorts": ["{cohort}"]}
    ),
    "GET /v1/tokens": Absent(),
    "DELETE /v1/tokens/{token_id}": Hidden(),
    "GET /v1/audit": Closed(),
    "POST /v1/audit/verify": Closed({}),
    "GET /v1/audit/export": Closed(),
    "GET /v1/events": Absent(),
    "POST /v1/webhooks": Closed({"name": "x", "url": "https://hooks.example/x"}),
    "GET /v1/webhooks": Closed(),
    "GET /v1/webhooks/{webhook}": Closed(),
    "PATCH /v1/webhooks/{webhook}": Closed({}),
    "DELETE /v1/webhooks/{webhook}": Closed(),
    "POST /v1/webhooks/{webhook}/rotate": Closed({}),
    "GET /v1/webhooks/{webhook}/deliveries": Closed(),
    "POST /v1/webhooks/{webhook}/deliveries/{delivery}/resend": Closed({}),
    "GET /v1/me": Open(),
    "POST /v1/bundles": Closed(),
    "GET /v1/policies": Open(),
    "GET /v1/policies/{policy}": Open(),
    "POST /v1/policies": Closed({"name": "x", "policy": {}}),
    "PUT /v1/policies/{policy}": Closed({"policy": {}}),
    "GET /v1/bundles": Open(),
    "GET /v1/bundles/{bundle}": Open(),
    "POST /v1/blobs/missing": Closed({"digests": []}),
    "GET /v1/blobs/{sha256}": Open(),
    "GET /v1/images/{sha256}": Open(),
    "POST /v1/tickets": Open(),
    "POST /v1/store/verify": Closed({}),
    "POST /v1/store/gc": Closed({}),
    "POST /v1/trust/root": Closed(),
    "GET /v1/trust/root": Open(),
    "GET /v1/trust/root/{version}": Open(),
    "POST /v1/trust/status": Closed(),
    "GET /v1/trust/status": Open(),
    "GET /v1/trust/events": Closed(),
    "GET /v1/trust/revocations": Absent(),
    "POST /v1/trust/revocations/{revocation}/decline": Closed(WHY),
}

ASKED: dict[tuple[str, str], list[str]] = {
    ("GET /v1/devices", "region"): ["{region}"],
    ("GET /v1/devices", "cohort"): ["{cohort}"],
    ("GET /v1/devices", "filter"): [
        "region={region}",
        "online=false AND cohort={cohort}",
        "region={region} OR id={device} OR labels.site=x",
        "NOT (region=nowhere AND cohort=nowhere)",
    ],
    ("GET /v1/inventory/export", "filter"): ["region={region}", "NOT (region=nowhere AND cohort=nowhere)"],
    ("GET /v1/campaigns", "filter"): ["cohort={cohort}", "NOT name=x"],
    ("GET /v1/trust/revocations", "state"): ["proposed"],
    ("GET /v1/events", "type"): ["campaign.created"],
    ("GET /v1/events", "campaign"): ["{campaign}"],
}
"""What would find something elsewhere, by the parameters of lists."""

PACES = frozenset({"limit", "cursor", "after", "follow"})
"""Parameters that say how much of a list, and not of what."""

QUERY = {
    "GET /v1/events": "?after=0&follow=false",
    **{f"GET /v1/{name}": "?limit=1000" for name in ("devices", "campaigns", "operations", "tokens")},
}
"""What has to be said for an answer that ends, and has everything: the server is shared."""

MEDIA = {
    "POST /v1/bundles": "application/vnd.tidegate.bundle",
    "POST /v1/trust/root": "application/cbor",
    "POST /v1/trust/status": "application/cbor",
}
"""Routes whose body is no JSON."""

TABLES = {"POST /v1/inventory/import": "id,region,cohort\n{new},{region},{cohort}\n"}
"""Routes whose body is a table."""


@dataclass(frozen=True)
class World:
    """What there is elsewhere, by the name of the path parameter, and somebody who should see nothing of it.

    ``own``: a device that they see.
    """

    limited: Api
    names: Mapping[str, str]
    by_cohort: bool
    own: str


@pytest.fixture(params=["limited to a region", "limited to a cohort"])
async def world(
    request: pytest.FixtureRequest, server: ServerProcess, admin: Api, tmp_path: Path
) -> AsyncIterator[World]:
    bundle = (await admin.upload(make_bundle(tmp_path, server.keys).read_bytes())).body["id"]
    by_cohort = "cohort" in request.param
    mine, lab, cohort = unique("mine"), unique("lab"), unique("cohort")
    limits = {"cohorts": [lab]} if by_cohort else {"regions": [mine]}
    region, device, own = unique("there"), unique("gw"), unique("own")
    await admin.add_device(device, region, cohort)
    await admin.add_device(own, mine, lab if by_cohort else cohort)
    campaign = await create(admin, bundle, cohort=cohort, regions=[region], plan=None)
    assert (await order(admin, campaign, "start")).status == 200
    assert (await order(admin, campaign, "halt")).status == 200
    freeze = await admin.post(
        "/v1/freezes",
        {
            "region": region,
            "zone": "UTC",
            "starts": "2030-01-01T00:00:00",
            "ends": "2030-01-02T00:00:00",
            "reason": "quiet",
        },
    )
    token = await admin.post("/v1/tokens", {"name": unique("other"), "role": "viewer", "regions": [region]})
    change = {"filter": f"id = {device}", "change": {"labels": {"ring": "1"}}}
    operation = await admin.post("/v1/operations", change)
    revocations = (await admin.get("/v1/trust/revocations")).body["revocations"]
    names = {
        "mine": mine,
        "new": unique("gw"),
        "region": region,
        "cohort": cohort,
        "device": device,
        "campaign": campaign,
        "freeze": freeze.body["id"],
        "operation": operation.body["id"],
        "token_id": token.body["id"],
        "revocation": next(one["id"] for one in revocations if one["campaign"] == campaign),
        "bundle": bundle,
        "webhook": f"whk_{HEX}",
        "delivery": "1",
        "sha256": HEX * 2,
        "version": "1",
        "policy": "careful",
    }
    given = await admin.post("/v1/tokens", {"name": unique("limited"), "role": "admin", **limits})
    api = Api(server.url, given.body["token"])
    yield World(api, names, by_cohort, own)
    await api.close()


def filled(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, Mapping):
        return {key: filled(one, names) for key, one in value.items()}
    return [filled(one, names) for one in value] if isinstance(value, list) else value


async def call(api: Api, route: str, world: World) -> Any:
    method, path = route.split()
    row = ROWS[route]
    if route in TABLES:
        table = filled(TABLES[route], world.names)
        return await api.call(method, path, data=table.encode(), headers={"Content-Type": "text/csv"})
    if route in MEDIA:
        return await api.call(method, path, data=b"x", headers={"Content-Type": MEDIA[route]})
    body = None if isinstance(row, Absent) else row.body
    options = {} if body is None else {"json": filled(body, world.names)}
    return await api.call(method, filled(path, world.names) + QUERY.get(route, ""), **options)


def operations() -> dict[str, dict[str, Any]]:
    """The operations that take a token, by method and path; HEAD is answered by what answers GET."""
    return {
        f"{method.upper()} {path}": operation
        for path, item in json.loads(document())["paths"].items()
        for method, operation in item.items()
        if method != "head" and any("token" in one for one in operation["security"])
    }


def test_every_operation_that_takes_a_token_has_a_row() -> None:
    assert operations().keys() == ROWS.keys()


def test_every_operation_that_names_something_says_what_becomes_of_it() -> None:
    fleet_wide = {"bundle", "policy", "sha256", "version"}
    for route, operation in operations().items():
        named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        if named - fleet_wide:
            assert isinstance(ROWS[route], Hidden | Closed), route


def test_every_parameter_of_a_list_is_asked_for_what_is_elsewhere() -> None:
    asked = {
        (route, one["name"])
        for route, operation in operations().items()
        if isinstance(ROWS[route], Absent)
        for one in operation.get("parameters", [])
        if one["name"] not in PACES
    }

    assert asked == ASKED.keys()


def test_the_context_without_limits_is_reached_from_one_place() -> None:
    """What a route is given is limited; what it could take from the application is not."""
    users = {file.name for file in (ROOT / "server" / "api").glob("*.py") if "[CONTEXT]" in file.read_text()}

    assert users == {"application.py", "routing.py"}


async def test_what_is_elsewhere_is_not_there_on_any_route(admin: Api, world: World) -> None:
    wrong = {}
    for route, row in ROWS.items():
        answer = await call(world.limited, route, world)
        if isinstance(row, Hidden):
            as_it_should = answer.status == (row.by_cohort if world.by_cohort else 404)
        elif isinstance(row, Absent):
            found = str(answer.body)
            shown = {
                name
                for name in (
                    "region",
                    *(["cohort"] if world.by_cohort else []),
                    "device",
                    "campaign",
                    "freeze",
                    "token_id",
                )
                if world.names[name] in found
            }
            as_it_should = answer.status == 200 and (not shown or (row.of_region and world.by_cohort))
        elif isinstance(row, Open):
            as_it_should = answer.status == (await call(admin, route, world)).status != 403
        else:
            as_it_should = answer.status == 403
        if not as_it_should:
            wrong[route] = (answer.status, answer.body)

    assert wrong == {}


async def test_the_same_requests_find_it_where_nobody_is_limited(admin: Api, world: World) -> None:
    """Or the test above could not fail."""
    for route, row in ROWS.items():
        if isinstance(row, Absent):
            answer = await call(admin, route, world)
            assert any(
                world.names[name] in str(answer.body)
                for name in ("region", "cohort", "device", "campaign", "freeze", "token_id")
            ), route
        elif isinstance(row, Hidden) and route.startswith("GET"):
            assert (await call(admin, route, world)).status == 200


async def test_what_is_hidden_reads_as_what_does_not_exist(world: World) -> None:
    nothing = {"{device}": "no-such-device", "{campaign}": f"cmp_{HEX}"}
    for path in ("/v1/devices/{device}", "/v1/campaigns/{campaign}"):
        name = path.split("/")[-1]
        hidden = await world.limited.get(filled(path, world.names))
        unknown = await world.limited.get(path.replace(name, nothing[name]))

        assert_problem(hidden, 404, "not-found")
        told = hidden.body["detail"].replace(world.names["device"], nothing["{device}"])
        assert told == unknown.body["detail"]


@pytest.mark.parametrize(("route", "parameter"), ASKED, ids=str)
async def test_no_parameter_of_a_list_shows_what_is_elsewhere(
    admin: Api, world: World, route: str, parameter: str
) -> None:
    path = route.split()[1] + QUERY.get(route, "")
    for value in ASKED[route, parameter]:
        query = {parameter: filled(value, world.names)}
        limited, whole = [(await api.get(path, params=query)).body for api in (world.limited, admin)]
        kinds = ("device", "campaign")

        assert any(world.names[kind] in str(whole) for kind in kinds), (value, whole)
        assert not any(world.names[kind] in str(limited) for kind in kinds), (value, limited)


async def test_what_is_within_the_limits_is_listed(world: World) -> None:
    for query in ({}, {"filter": f"id={world.own}"}, {"filter": f"id={world.own} OR id={world.names['device']}"}):
        listed = (await world.limited.get("/v1/devices", params=query)).body["devices"]

        assert [device["id"] for device in listed] == [world.own]


async def test_a_device_of_ones_own_tells_nothing_of_a_campaign_elsewhere(admin: Api, world: World) -> None:
    path = f"/v1/devices/{world.own}/why"
    query = {"campaign": world.names["campaign"]}

    assert_problem(await world.limited.get(path, params=query), 404, "not-found")
    assert (await admin.get(path, params=query)).status == 200


async def test_a_change_of_many_devices_reaches_nobody_elsewhere(admin: Api, world: World) -> None:
    named = f"id={world.own} OR id={world.names['device']}"
    body = {"filter": named, "change": {"labels": {"seen": "yes"}}}

    plan = (await world.limited.post("/v1/operations?dry_run=true", body)).body
    assert (plan["devices"], plan["sample"]) == (1, [world.own])
    begun = (await world.limited.post("/v1/operations", body | {"plan_hash": plan["plan_hash"]})).body
    async with asyncio.timeout(20):
        while (await world.limited.get(f"/v1/operations/{begun['id']}")).body["state"] == "running":
            await asyncio.sleep(0.05)

    own, other = [(await admin.get(f"/v1/devices/{name}")).body for name in (world.own, world.names["device"])]
    assert own["operator_labels"] == {"seen": "yes"}
    assert "seen" not in other["operator_labels"]


# --- a campaign that is partly within the limits ---


@dataclass(frozen=True)
class Shared:
    """A campaign over two regions, and an administrator of one of them."""

    limited: Api
    campaign: str
    mine: str
    other: str
    devices: Mapping[str, str]


@pytest.fixture
async def shared(server: ServerProcess, admin: Api, bundle: str) -> AsyncIterator[Shared]:
    mine, other, cohort = unique("mine"), unique("other"), unique("cohort")
    devices = {region: unique("gw") for region in (mine, other)}
    for region, device in devices.items():
        await admin.add_device(device, region, cohort)
    waves = [{"devices": list(devices.values())}, {"ratio": 1.0}]
    campaign = await create(admin, bundle, cohort=cohort, regions=[other, mine], plan={"waves": waves})
    given = await admin.post("/v1/tokens", {"name": unique("limited"), "role": "admin", "regions": [mine]})
    api = Api(server.url, given.body["token"])
    yield Shared(api, campaign, mine, other, devices)
    await api.close()


async def test_of_a_campaign_over_more_regions_the_own_part_is_shown(admin: Api, shared: Shared) -> None:
    path = f"/v1/campaigns/{shared.campaign}"
    detail, whole = (await shared.limited.get(path)).body, (await admin.get(path)).body

    assert [region["region"] for region in detail["regions"]] == [shared.mine]
    assert [region["region"] for region in whole["regions"]] == [shared.other, shared.mine]
    assert detail["plan"]["waves"][0]["devices"] == [shared.devices[shared.mine]]
    assert "more regions" in detail["sentence"]
    assert shared.devices[shared.other] not in str(detail)
    assert [window["region"] for window in (await shared.limited.get(f"{path}/windows")).body["openings"]] == [
        shared.mine
    ]
    listed = (await shared.limited.get("/v1/campaigns")).body["campaigns"]
    assert [one["id"] for one in listed] == [shared.campaign]


def over_a_campaign(*methods: str) -> list[str]:
    return [route for route in ROWS if "{campaign}" in route and route.split()[0] in methods]


@pytest.mark.parametrize("route", over_a_campaign("GET"))
async def test_nothing_that_is_told_of_it_names_or_counts_what_is_elsewhere(
    admin: Api, shared: Shared, route: str
) -> None:
    path = route.split()[1].replace("{campaign}", shared.campaign)
    limited, whole = await shared.limited.get(path), await admin.get(path)

    assert limited.status in {200, 403}
    assert whole.status == 200
    assert shared.devices[shared.other] not in str(limited.body)
    regions = limited.body.get("regions", [])
    assert {entry["region"] for entry in regions if isinstance(entry, dict)} <= {shared.mine}


@pytest.mark.parametrize("route", over_a_campaign("POST", "PATCH", "PUT", "DELETE"))
async def test_an_order_takes_all_of_its_regions(admin: Api, shared: Shared, route: str) -> None:
    row, (method, path) = ROWS[route], route.split()
    assert isinstance(row, Hidden | Closed)
    options = {} if row.body is None else {"json": row.body}

    answer = await shared.limited.call(method, path.replace("{campaign}", shared.campaign), **options)

    assert_problem(answer, 403, "forbidden")
    assert (await admin.get(f"/v1/campaigns/{shared.campaign}")).body["state"] == "draft"


async def test_what_was_decided_is_told_to_whoever_sees_all_of_it(admin: Api, shared: Shared) -> None:
    path = f"/v1/campaigns/{shared.campaign}/decisions"

    assert_problem(await shared.limited.get(path), 403, "forbidden")
    assert (await admin.get(path)).status == 200


async def test_nobody_supersedes_what_reaches_beyond_them(admin: Api, shared: Shared, bundle: str) -> None:
    assert (await order(admin, shared.campaign, "start")).status == 200
    cohort = (await admin.get(f"/v1/campaigns/{shared.campaign}")).body["cohort"]
    own = await create(shared.limited, bundle, cohort=cohort, regions=[shared.mine], plan=None)

    answer = await shared.limited.post(f"/v1/campaigns/{own}/start", {"supersede": True})

    assert_problem(answer, 403, "forbidden")
    assert (await admin.get(f"/v1/campaigns/{shared.campaign}")).body["state"] == "running"
    assert (await order(admin, shared.campaign, "cancel")).status == 200


async def test_within_the_limits_everything_is_as_for_anybody(admin: Api, shared: Shared, bundle: str) -> None:
    device, cohort = unique("gw"), unique("cohort")
    await shared.limited.add_device(device, shared.mine, cohort)
    campaign = await create(shared.limited, bundle, cohort=cohort, regions=[shared.mine], plan=None)

    assert (await shared.limited.post(f"/v1/devices/{device}/hold", WHY)).body["held"] is True
    assert (await order(shared.limited, campaign, "start")).body["state"] == "running"
    assert (await shared.limited.get(f"/v1/campaigns/{campaign}/decisions")).status == 200
    assert (await order(shared.limited, campaign, "cancel")).body["state"] == "cancelled"
    own, whole = [(await api.get(f"/v1/campaigns/{campaign}")).body for api in (shared.limited, admin)]
    assert own == whole


async def test_whoever_is_limited_makes_tokens_with_the_same_limits(server: ServerProcess, shared: Shared) -> None:
    made = await shared.limited.post("/v1/tokens", {"name": "x", "role": "viewer"})
    assert made.body["regions"] == [shared.mine]

    api = Api(server.url, made.body["token"])
    try:
        me = (await api.get("/v1/me")).body
        assert (me["role"], me["rights"], me["regions"], me["token"]) == (
            "viewer",
            ["read"],
            [shared.mine],
            made.body["id"],
        )
        assert (await shared.limited.call("DELETE", f"/v1/tokens/{me['token']}")).body["is_good"] is False
        assert_problem(await api.get("/v1/me"), 401, "not-authenticated")
    finally:
        await api.close()
