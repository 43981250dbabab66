"""``/v1/operations`` and ``PATCH /v1/devices``: a dry run, the change it names, and its progress."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.cli import change
from tests.integration.test_rest import assert_problem
from tests.servers import Api, ServerProcess, make_bundle, simulated, unique

WAIT_S = 60.0


@pytest.fixture
async def region(admin: Api) -> str:
    """With three devices."""
    where = unique("r")
    for _ in range(3):
        await admin.add_device(unique("gw"), where)
    return where


async def until(look: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    seen = None
    try:
        async with asyncio.timeout(WAIT_S):
            while not holds(seen := (await look()).body):
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"It has come no further than this: {seen}")
    return seen


async def test_a_dry_run_changes_nothing_and_names_what_a_run_may_change(admin: Api, region: str) -> None:
    wanted = {"filter": f"region = {region}", "change": {"cohort": "canary", "labels": {"ring": "1"}}}
    shown = await admin.post("/v1/operations?dry_run=true", wanted)
    assert shown.status == 200
    assert (await admin.get("/v1/devices", params={"region": region, "cohort": "canary"})).body["devices"] == []

    begun = await admin.post("/v1/operations", {**wanted, "plan_hash": shown.body["plan_hash"]})
    assert begun.status == 202
    path = f"/v1/operations/{begun.body['id']}"
    done = await until(lambda: admin.get(path), lambda seen: seen["state"] != "running")

    assert shown.body["devices"] == len(shown.body["sample"]) == 3
    assert shown.body["places"] == [{"region": region, "cohort": "main", "devices": 3}]
    assert (done["state"], done["total"], done["done"], done["errors"]) == ("done", 3, 3, [])
    found = await admin.get("/v1/devices", params={"filter": f"region = {region} AND labels.ring = 1"})
    assert [one["cohort"] for one in found.body["devices"]] == ["canary"] * 3
    again = await admin.post("/v1/operations", {**wanted, "plan_hash": "0" * 64})
    assert_problem(again, 409, "conflict")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"filter": "colour = red", "change": {"cohort": "x"}}, "/filter"),
        ({"filter": "held = true", "change": {}}, "/change"),
        ({"filter": "held = true", "change": {"cohort": "a/b"}}, "/change/cohort"),
        ({"filter": "held = true", "change": {"labels": {"": "x"}}}, "/change/labels//[key]"),
        ({"filter": "held = true", "change": {"labels": {"x": "a\u0000"}}}, "/change/labels/x"),
        ({"filter": "online = true", "change": {"release": True}}, "?filter"),
    ],
)
async def test_a_change_that_is_none_is_refused(admin: Api, body: dict[str, Any], pointer: str) -> None:
    answer = await admin.post("/v1/operations", body)

    assert_problem(answer, 422, "invalid-input")
    assert answer.body["errors"][0]["pointer"] == pointer


async def test_one_device_is_moved_and_labelled(admin: Api, region: str) -> None:
    device = (await admin.get("/v1/devices", params={"region": region})).body["devices"][0]["id"]

    changed = await admin.call("PATCH", f"/v1/devices/{device}", json={"cohort": "lab", "labels": {"site": "hamburg"}})
    taken = await admin.call("PATCH", f"/v1/devices/{device}", json={"labels": {"site": None}})

    assert (changed.body["cohort"], changed.body["operator_labels"]) == ("lab", {"site": "hamburg"})
    assert (taken.body["cohort"], taken.body["labels"]) == ("lab", {})
    assert_problem(await admin.call("PATCH", "/v1/devices/nobody", json={"cohort": "lab"}), 404, "not-found")
    assert_problem(await admin.call("PATCH", f"/v1/devices/{device}", json={}), 422, "invalid-input")


async def test_a_real_device_that_is_moved_hears_its_new_cohorts_orders(
    admin: Api, server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is online, in no campaign; the campaign of the other cohort has begun before it comes."""
    region, cohort, bundle = unique("r"), unique("c"), make_bundle(tmp_path, server.keys)
    uploaded = (await admin.upload(bundle.read_bytes())).body
    plan = {"waves": [{"ratio": 1, "ramp_s": 0, "soak_s": 0}]}
    draft = {"name": "moved", "bundle": uploaded["id"], "cohort": cohort, "regions": [region], "plan": plan}
    campaign = (await admin.post("/v1/campaigns", draft)).body["id"]
    await admin.post(f"/v1/campaigns/{campaign}/start", {"reason": "a test"})
    prefix = unique("mv")
    options = ("--prefix", prefix)
    with simulated(server, tmp_path, devices=1, regions=(region,), factory=b"factory" * 9000, options=options):
        query = {"filter": f"region = {region} AND version = 1.0.0 AND online = true"}
        there = await until(lambda: admin.get("/v1/devices", params=query), lambda seen: seen["devices"])
        device = there["devices"][0]["id"]

        code = await asyncio.to_thread(
            change.change,
            f"id = {device}",
            cohort=cohort,
            token=server.token,
            server=server.url,
            yes=True,
        )
        path = f"/v1/campaigns/{campaign}/executions"
        executions = await until(lambda: admin.get(path), lambda seen: seen["executions"])

    assert code == 0
    assert f"such as {device}" in capsys.readouterr().err
    assert [one["device"] for one in executions["executions"]] == [device]
