"""What people order of campaigns and devices over HTTP and by the command line, who may, and what is answered."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from firmware_store.errors import ConflictError
from server.cli import campaign as campaign_cli
from server.cli import device as device_cli
from server.cli import freeze as freeze_cli
from server.services.tokens import Role
from tests.integration.test_campaign_gates import Hook, hook
from tests.integration.test_rest import assert_problem, make_token
from tests.integration.test_rest_campaigns import bundle, create, order
from tests.servers import Api, ServerProcess, unique

__all__ = ["bundle", "hook"]

WAIT_S = 20


@pytest.fixture
async def approvers(server: ServerProcess, admin: Api) -> AsyncIterator[list[Api]]:
    found = [Api(server.url, await make_token(admin, Role.APPROVER)) for _ in range(2)]
    yield found
    for api in found:
        await api.close()


async def until(admin: Api, campaign: str, state: str) -> Any:
    async with asyncio.timeout(WAIT_S):
        while (answer := await admin.get(f"/v1/campaigns/{campaign}")).body["state"] != state:
            await asyncio.sleep(0.1)
    return answer.body


# --- approvals ---


async def test_a_campaign_that_wants_approvals_starts_with_them(admin: Api, bundle: str, approvers: list[Api]) -> None:
    campaign = await create(admin, bundle, policy={"approvals": 2})
    answer = await order(admin, campaign, "start")
    assert_problem(answer, 409, "illegal-transition")
    assert answer.body["allowed"] == ["submit", "cancel"]

    assert (await order(admin, campaign, "submit")).body["approvals_missing"] == 2
    assert_problem(await order(admin, campaign, "approve"), 403, "forbidden")
    assert (await order(approvers[0], campaign, "approve")).body["state"] == "awaiting_approval"
    assert_problem(await order(approvers[0], campaign, "approve"), 409, "conflict")
    assert (await order(approvers[1], campaign, "approve")).body["state"] == "scheduled"
    assert (await order(admin, campaign, "start")).body["state"] == "running"

    detail = (await admin.get(f"/v1/campaigns/{campaign}")).body
    assert [(entry["run"], entry["reason"]) for entry in detail["approvals"]] == [(1, "because")] * 2
    await order(admin, campaign, "cancel")


async def test_an_approver_does_not_start_and_an_emergency_is_approved_afterwards(
    admin: Api, bundle: str, approvers: list[Api]
) -> None:
    campaign = await create(admin, bundle, policy={"approvals": 1})
    path = f"/v1/campaigns/{campaign}"
    assert_problem(await order(approvers[0], campaign, "start"), 403, "forbidden")
    assert_problem(await admin.post(f"{path}/start", {"emergency": True}), 422, "invalid-input")

    started = await admin.post(f"{path}/start", {"emergency": True, "reason": "it burns"})
    assert (started.body["state"], started.body["emergency"], started.body["approvals_missing"]) == (
        "running",
        "it burns",
        1,
    )
    assert (await order(approvers[0], campaign, "approve")).body["approvals_missing"] == 0
    await order(admin, campaign, "cancel")


# --- taking over, resuming, rolling back ---


async def test_a_campaign_that_is_in_the_way_is_named_and_may_be_superseded(admin: Api, bundle: str) -> None:
    cohort = unique("c")
    first = await create(admin, bundle, cohort=cohort)
    second = await create(admin, bundle, cohort=cohort)
    await order(admin, first, "start")

    refused = await order(admin, second, "start")
    assert_problem(refused, 409, "conflict")
    assert first in refused.body["detail"]
    answer = await admin.post(f"/v1/campaigns/{second}/start", {"supersede": True, "reason": "better"})

    assert answer.body["state"] == "running"
    ended = (await admin.get(f"/v1/campaigns/{first}")).body
    assert (ended["state"], ended["sentence"]) == ("cancelled", f"Superseded by spring ({second}).")
    await order(admin, second, "cancel")


async def test_a_halted_campaign_is_resumed_with_a_reason_in_its_second_run(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    for verb in ("start", "halt"):
        await order(admin, campaign, verb)
    answer = await admin.post(f"/v1/campaigns/{campaign}/resume", {})
    assert_problem(answer, 422, "invalid-input")
    assert answer.body["errors"][0]["pointer"] == "/reason"

    resumed = await order(admin, campaign, "resume", "a crane had cut the cable")

    assert (resumed.body["state"], resumed.body["run"], resumed.body["ended_at"]) == ("running", 2, None)
    decisions = (await admin.get(f"/v1/campaigns/{campaign}/decisions")).body["decisions"]
    assert {(entry["kind"], entry["run"]) for entry in decisions} >= {("halt", 1), ("resume", 2)}
    await order(admin, campaign, "cancel")


async def test_a_rollback_ends_by_itself(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    for verb in ("start", "halt"):
        await order(admin, campaign, verb)

    assert (await order(admin, campaign, "rollback")).body["state"] in {"rolling_back", "rolled_back"}

    detail = await until(admin, campaign, "rolled_back")
    assert detail["sentence"] == "Rolled back: no device ran the release."
    assert (detail["rollback"]["returned"], detail["rollback"]["hint"]) == (0, "")


async def test_executions_are_listed_by_reason(admin: Api, bundle: str) -> None:
    path = f"/v1/campaigns/{await create(admin, bundle)}/executions"

    assert (await admin.get(path, params={"reason": "no_way_back"})).body["executions"] == []
    assert_problem(await admin.get(path, params={"reason": "bad_mood"}), 422, "invalid-input")


async def test_a_step_that_is_too_large_is_refused_where_it_stands(admin: Api, bundle: str) -> None:
    body = {
        "name": "spring",
        "bundle": bundle,
        "cohort": unique("c"),
        "regions": ["eu"],
        "policy": {"largest_step": 0.2},
    }

    answer = await admin.post("/v1/campaigns", body | {"plan": {"waves": [{"ratio": 0.2}, {"ratio": 0.9}]}})
    assert_problem(answer, 422, "invalid-input")
    assert answer.body["errors"][0]["pointer"] == "/plan/waves/1"

    assert (await admin.post("/v1/campaigns", body)).status == 201


# --- freezes ---


def sales(**members: Any) -> dict[str, Any]:
    given = {"zone": "Europe/Berlin", "starts": "2026-12-20T18:00", "ends": "2027-01-02T06:00", "reason": "the sales"}
    return given | {"region": unique("r")} | members


async def test_a_freeze_is_added_listed_and_removed(admin: Api) -> None:
    added = await admin.post("/v1/freezes", sales())
    assert added.status == 201
    assert (added.body["begins_at"], added.body["is_over_at"]) == ("2026-12-20T17:00:00Z", "2027-01-02T05:00:00Z")
    assert added.body in (await admin.get("/v1/freezes")).body["freezes"]

    removed = await admin.call("DELETE", f"/v1/freezes/{added.body['id']}")

    assert removed.body["id"] == added.body["id"]
    assert added.body not in (await admin.get("/v1/freezes")).body["freezes"]
    assert_problem(await admin.call("DELETE", f"/v1/freezes/{added.body['id']}"), 404, "not-found")


@pytest.mark.parametrize(
    "members",
    [
        {"zone": "Mars/Olympus"},
        {"zone": "../etc/passwd"},
        {"zone": "a\0b"},
        {"region": "EU"},
        {"starts": "2027-01-02T06:00"},
        {"starts": "2026-12-20T18:00Z"},
        {"starts": "0001-01-01T00:00"},
        {"ends": "9999-12-31T23:59"},
        {"reason": ""},
        {"reason": "a\0b"},
    ],
    ids=str,
)
async def test_a_freeze_that_cannot_be_is_refused(admin: Api, members: dict[str, Any]) -> None:
    assert_problem(await admin.post("/v1/freezes", sales(**members)), 422, "invalid-input")


async def test_a_frozen_region_holds_its_campaign(admin: Api, bundle: str) -> None:
    region = unique("r")
    freeze = await admin.post("/v1/freezes", sales(region=region, starts="2020-01-01T00:00", ends="2100-01-01T00:00"))
    campaign = await create(admin, bundle, regions=[region])
    await order(admin, campaign, "start")

    detail = await until(admin, campaign, "paused")
    assert (detail["causes"], detail["sentence"]) == (
        ["freeze"],
        "Held by a freeze until 2100-01-01 00:00 Europe/Berlin: the sales",
    )
    await admin.call("DELETE", f"/v1/freezes/{freeze.body['id']}")

    await until(admin, campaign, "running")
    await order(admin, campaign, "cancel")


# --- devices that are held ---


async def test_a_device_is_held_with_a_visible_end_and_released(admin: Api) -> None:
    name = unique("gw")
    await admin.post("/v1/devices", {"devices": [{"id": name, "region": "eu", "cohort": unique("c")}]})

    held = await admin.post(f"/v1/devices/{name}/hold", {"reason": "on the bench", "for_seconds": 3600})
    assert (held.body["held"], held.body["held_reason"]) == (True, "on the bench")
    assert held.body["held_until"] is not None
    assert (await admin.get(f"/v1/devices/{name}")).body == held.body
    released = await admin.post(f"/v1/devices/{name}/release")

    assert (released.body["held"], released.body["held_until"], released.body["held_reason"]) == (False, None, "")
    assert_problem(await admin.post(f"/v1/devices/{unique('gw')}/release"), 404, "not-found")
    assert_problem(await admin.post(f"/v1/devices/{name}/hold", {}), 422, "invalid-input")


# --- the command line ---


@pytest.fixture
def run(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command as a person would; what it prints on standard output is returned."""

    async def run_command(command: Callable[..., Any], *arguments: Any, **options: Any) -> str:
        capsys.readouterr()
        await asyncio.to_thread(command, *arguments, server=server.url, token=server.token, **options)
        return capsys.readouterr().out

    return run_command


async def test_campaigns_are_ordered_by_the_command_line(
    bundle: str, approvers: list[Api], run: Callable[..., Any], tmp_path: Any
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"approvals": 1}))
    cohort = unique("c")

    async def make(**options: Any) -> str:
        given = {"bundle": bundle, "cohort": cohort, "region": ["eu"], "reason": "CVE-1", "membership": "snapshot"}
        return str(await run(campaign_cli.create, "spring", **given, **options)).strip()

    first, second = await make(policy=policy), await make()
    assert (await run(campaign_cli.submit, first)).strip() == "awaiting_approval"
    assert "Approvals missing: 1." in await run(campaign_cli.show_one, first)
    await order(approvers[0], first, "approve")
    assert (await run(campaign_cli.start, first)).strip() == "running"
    assert (await run(campaign_cli.start, second, supersede=True)).strip() == "running"
    assert (await run(campaign_cli.halt, second, reason="smoke")).strip() == "halted"
    assert (await run(campaign_cli.resume, second, reason="no smoke")).strip() == "running"
    assert (await run(campaign_cli.halt, second, reason="smoke")).strip() == "halted"
    assert (await run(campaign_cli.rollback, second)).strip() in {"rolling_back", "rolled_back"}

    listed = await run(campaign_cli.executions, second, state="confirmed", reason="no_way_back", output="json")
    assert json.loads(listed) == []

    third = await make(policy=policy)
    with pytest.raises(ConflictError, match="cannot start; it can submit, cancel"):
        await run(campaign_cli.start, third)
    await run(campaign_cli.start, third, emergency=True, reason="it burns", supersede=True)
    assert "Approvals missing after the fact" in await run(campaign_cli.show_one, third)
    await run(campaign_cli.cancel, third)


async def test_freezes_are_kept_by_the_command_line(run: Callable[..., Any]) -> None:
    clock = {"starts": "2026-12-20T18:00", "ends": "2027-01-02T06:00", "zone": "Europe/Berlin"}
    added = json.loads(await run(freeze_cli.add, **clock, reason="the sales", region=unique("r"), output="json"))[0]

    listed = json.loads(await run(freeze_cli.ls, output="json"))
    assert added["id"] in {row["id"] for row in listed}
    await run(freeze_cli.rm, added["id"])

    assert added["id"] not in {row["id"] for row in json.loads(await run(freeze_cli.ls, output="json"))}


async def test_devices_are_held_and_released_by_the_command_line(admin: Api, run: Callable[..., Any]) -> None:
    name = unique("gw")
    await admin.post("/v1/devices", {"devices": [{"id": name, "region": "eu", "cohort": unique("c")}]})

    assert "on the bench" in await run(device_cli.hold, name, reason="on the bench", hours=1.5)
    assert "on the bench" in await run(device_cli.show_one, name)
    await run(device_cli.release, name)

    assert "on the bench" not in await run(device_cli.show_one, name)


# --- gates ---


async def test_a_wave_waits_for_a_person_who_lets_it_through_by_its_number_and_then_for_its_webhook(
    admin: Api, bundle: str, server: ServerProcess, capsys: pytest.CaptureFixture[str], hook: tuple[Hook, str]
) -> None:
    hook[0].say("go", "bread")
    wave = {"ratio": 1.0, "ramp_s": 0, "soak_s": 0, "gate": {"manual": True, "webhook": hook[1]}}
    plan, policy = {"waves": [wave, {"ratio": 1.0}]}, {"halt": {"block_s": 1}}
    campaign = await create(admin, bundle, cohort=unique("c"), plan=plan, policy=policy)
    path = f"/v1/campaigns/{campaign}"
    assert_problem(await admin.post(f"{path}/advance", {"wave": 1}), 409, "illegal-transition")
    assert_problem(await admin.post(f"{path}/advance", {}), 422, "invalid-input")
    await order(admin, campaign, "start")
    async with asyncio.timeout(WAIT_S):
        while (answer := await admin.get(path)).body["awaits"] != "advance":
            await asyncio.sleep(0.1)

    assert (answer.body["wave"], answer.body["state"]) == (1, "running")
    assert_problem(await admin.post(f"{path}/advance", {"wave": 2}), 409, "conflict")
    given = {"token": server.token, "server": server.url, "reason": "looks good"}
    await asyncio.to_thread(campaign_cli.advance, campaign, wave=1, **given)
    assert capsys.readouterr().out == "running\n"
    async with asyncio.timeout(WAIT_S):
        while (await admin.get(path)).body["wave"] != 2:
            await asyncio.sleep(0.1)
    assert [(asked["campaign"], asked["wave"]) for asked in hook[0].asked] == [(campaign, 1)]
    await order(admin, campaign, "cancel")


# --- maintenance windows ---


async def test_windows_are_shown_by_the_offsets_of_devices_or_by_a_zones_clock(
    admin: Api, bundle: str, server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = unique("c")
    await admin.add_device(unique("gw"), "eu", cohort)
    policy = {"windows": [{"opens": "0 2 * * *", "duration_s": 3600}], "trial_s": 60}
    campaign = await create(admin, bundle, cohort=cohort, regions=["eu", "us"], policy=policy)
    path = f"/v1/campaigns/{campaign}/windows"

    answer = (await admin.get(f"{path}?zone=us=Asia/Kolkata&count=2")).body
    assert answer["needed_seconds"] == 180
    assert answer["windows"] == policy["windows"]
    shown = [(one["region"], one["zone"], one["utc_offset_minutes"], one["devices"]) for one in answer["openings"]]
    assert shown == [("eu", None, None, 1), ("us", "Asia/Kolkata", 330, 0)]
    times = [[at[10:] for at in one["opens_at"]] for one in answer["openings"]]
    assert times == [["T02:00:00Z"] * 2, ["T20:30:00Z"] * 2]

    for query in (
        "zone=eu",
        "zone=eu=Europe/Atlantis",
        "zone=asia=Asia/Kolkata",
        "zone=eu=../../etc/passwd",
        "count=11",
    ):
        assert_problem(await admin.get(f"{path}?{query}"), 422, "invalid-input")
    await asyncio.to_thread(campaign_cli.windows, campaign, server=server.url, token=server.token, zone=["eu=UTC"])
    assert "02:00:00Z" in capsys.readouterr().out
