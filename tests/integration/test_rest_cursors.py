"""Lists go on where the page before ended, by cursors that nobody can make."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from firmware_store.errors import InvalidInputError
from server.api.application import document
from server.services.cursors import Cursors
from server.services.tokens import Role
from tests.integration.test_rest import assert_problem, make_token
from tests.integration.test_rest_campaigns import bundle, create, order
from tests.servers import Api, ServerProcess, make_bundle, unique

__all__ = ["bundle"]

DOCUMENT: dict[str, Any] = json.loads(document())


def _asked(operation: dict[str, Any]) -> set[str]:
    return {parameter["name"] for parameter in operation.get("parameters", [])}


def _answered(operation: dict[str, Any]) -> dict[str, Any]:
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    properties: dict[str, Any] = DOCUMENT["components"]["schemas"][schema]["properties"]
    return properties


async def test_campaigns_are_listed_page_by_page_the_newest_first(admin: Api, bundle: str) -> None:
    cohort = unique("c")
    made = [await create(admin, bundle, cohort=cohort) for _ in range(5)]
    path, seen = f"/v1/campaigns?limit=2&filter=cohort%20%3D%20{cohort}", []
    while path:
        answer = await admin.get(path)
        assert answer.status == 200, answer
        seen.append([row["id"] for row in answer.body["campaigns"]])
        link = answer.headers.get("Link", "")
        assert (answer.body["next"] is not None) == link.endswith('; rel="next"')
        path = link.removeprefix("<").partition(">")[0]

    assert seen == [made[4:2:-1], made[2:0:-1], made[0:1]]


LISTS = {
    path: next(name for name, schema in _answered(operations["get"]).items() if schema.get("type") == "array")
    for path, operations in DOCUMENT["paths"].items()
    if "cursor" in _asked(operations.get("get", {}))
}
"""Every list that goes on by a cursor, and the member that has its rows."""

SHORT = {"/v1/executions", "/v1/campaigns/{campaign}/executions", "/v1/inventory/drift"}
"""What only devices fill."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def names(
    server: ServerProcess, bundle: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, str]]:
    """What paths name, where there are two of everything that lists show."""
    admin = Api(server.url, server.token)
    other = make_bundle(tmp_path_factory.mktemp("other"), server.keys)
    device, cohort = unique("gw"), unique("c")
    bundles = (bundle, (await admin.upload(other.read_bytes())).body["id"])
    campaigns = [await create(admin, one, cohort=cohort) for one in bundles]
    for campaign in campaigns:
        for verb in ("start", "halt"):
            assert (await order(admin, campaign, verb)).status == 200
    hook = (await admin.post("/v1/webhooks", {"name": unique("hook"), "url": "https://hooks.invalid/"})).body["webhook"]
    for _ in range(2):
        await admin.add_device(unique("gw"), "eu", cohort)
        await make_token(admin, Role.VIEWER)
        assert (await admin.post("/v1/policies", {"name": unique("policy"), "policy": {}})).status == 201
        refused = await admin.call(
            "POST", "/v1/trust/root", data=b"none", headers={"Content-Type": "application/tidegate-root+cbor"}
        )
        assert refused.status >= 400, refused
        change = {"filter": f"cohort = {cohort}", "change": {"labels": {"site": device}}}
        begun = await admin.post("/v1/operations", change)
        assert begun.status == 202, begun
        async with asyncio.timeout(20):
            while (await admin.get(f"/v1/operations/{begun.body['id']}")).body["state"] == "running":
                await asyncio.sleep(0.1)
    deliveries = f"/v1/webhooks/{hook['id']}/deliveries"
    await admin.post(f"/v1/campaigns/{campaigns[1]}/rollback", {"reason": "again"}, headers={"If-Match": "*"})
    async with asyncio.timeout(20):
        while not (tries := (await admin.get(deliveries)).body["deliveries"]):
            await asyncio.sleep(0.1)
    assert (await admin.post(f"{deliveries}/{tries[0]['id']}/resend", {})).status == 200
    yield {"campaign": campaigns[0], "webhook": hook["id"]}
    await admin.call("DELETE", f"/v1/webhooks/{hook['id']}", headers={"If-Match": "*"})
    await admin.close()


@pytest.mark.parametrize("path", LISTS)
async def test_every_list_goes_on_by_a_cursor_of_its_own(admin: Api, names: dict[str, str], path: str) -> None:
    at, member = path.format_map(names), LISTS[path]
    rows, cursor = [], ""
    for _ in range(3):
        page = await admin.get(at, params={"limit": "1", "cursor": cursor})
        rows += page.body[member]
        cursor = page.body["next"]
        assert (cursor is None) == ("Link" not in page.headers)
        if cursor is None:
            break
    whole = (await admin.get(at, params={"limit": "1000"})).body[member]  # others may have begun it anew meanwhile

    assert len(rows) >= (0 if path in SHORT else 2)
    begin = whole.index(rows[0]) if rows else 0
    assert rows == whole[begin : begin + len(rows)]


@pytest.mark.parametrize("path", LISTS)
async def test_a_cursor_that_was_touched_or_is_anothers_is_refused(
    admin: Api, names: dict[str, str], path: str
) -> None:
    at, other = path.format_map(names), "/v1/campaigns" if path == "/v1/devices" else "/v1/devices"
    cursor = (await admin.get(at, params={"limit": "1"})).body["next"] or "AAAA"
    anothers = (await admin.get(other, params={"limit": "1"})).body["next"]

    for text in (cursor[:-1] + ("A" if cursor[-1] != "A" else "B"), cursor[1:], anothers, "gw-1", "17", "~", "é"):
        answer = await admin.get(at, params={"cursor": text})

        assert_problem(answer, 422, "invalid-input")
        assert answer.body["errors"][0]["pointer"] == "?cursor"


def test_no_list_is_cut_without_a_cursor() -> None:
    for path, operations in DOCUMENT["paths"].items():
        asked = _asked(operations.get("get", {}))

        assert ("limit" in asked) == ("cursor" in asked), path
    assert len(LISTS) >= 11


def test_another_fleets_cursor_is_none_of_ours() -> None:
    ours, theirs = Cursors(b"ours"), Cursors(b"theirs")

    assert ours.open("devices", ours.seal("devices", "gw-é~")) == "gw-é~"
    with pytest.raises(InvalidInputError, match="no cursor"):
        ours.open("devices", theirs.seal("devices", "gw-1"))
