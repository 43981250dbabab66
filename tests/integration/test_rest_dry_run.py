"""What a campaign would do is shown before it is stored, and what is created or started is what was shown."""

import asyncio
from typing import Any

import pytest

from firmware_store.errors import ConflictError
from server.cli import campaign as campaign_cli
from tests.integration.test_rest import assert_problem
from tests.integration.test_rest_campaigns import bundle, draft, order
from tests.servers import Answer, Api, ServerProcess, unique

__all__ = ["bundle"]


async def dry(admin: Api, body: dict[str, Any], **headers: str) -> Answer:
    return await admin.post("/v1/campaigns?dry_run=true", body, headers=headers)


async def populated(admin: Api, *, eu: int, us: int = 0) -> str:
    cohort = unique("c")
    devices = [{"id": unique("gw"), "region": where, "cohort": cohort} for where in ["eu"] * eu + ["us"] * us]
    assert (await admin.post("/v1/devices", {"devices": devices})).status == 201
    return cohort


async def test_a_dry_run_shows_the_plan_and_stores_nothing(admin: Api, bundle: str) -> None:
    cohort = await populated(admin, eu=8, us=4)
    waves = [{"count": 2}, {"regions": ["eu"], "ratio": 0.5}, {"ratio": 1.0, "gate": {"manual": True}}]
    body = draft(bundle, cohort=cohort, regions=["eu", "us", "asia"], plan={"waves": waves})
    body["policy"] = {"approvals": 2, "holdout": 0.25}

    answer = await dry(admin, body)

    assert answer.status == 200
    assert [(one["region"], one["devices"]) for one in answer.body["regions"]] == [("eu", 8), ("us", 4), ("asia", 0)]
    assert [one["devices"] for one in answer.body["waves"]] == [4, 4, 9]
    assert answer.body["warnings"] == [
        f"There is no device of {cohort} in asia.",
        "It needs approvals before its start: 2.",
        "A person lets these waves through: 3.",
    ]
    listed = await admin.get("/v1/campaigns", params={"filter": f"cohort = {cohort}"})
    assert listed.body["campaigns"] == []


async def test_what_is_created_and_started_is_what_was_shown(admin: Api, bundle: str) -> None:
    body = draft(bundle, cohort=await populated(admin, eu=3))
    shown = (await dry(admin, body)).body["plan_hash"]

    created = await admin.post("/v1/campaigns", body | {"plan_hash": shown})
    assert created.status == 201
    path = f"/v1/campaigns/{created.body['id']}"
    assert (await admin.get(path)).body["plan_hash"] == shown
    assert_problem(await admin.post(f"{path}/start", {"plan_hash": "0" * 64}), 409, "conflict")
    assert (await admin.get(path)).body["state"] == "draft"

    assert (await admin.post(f"{path}/start", {"plan_hash": shown})).body["state"] == "running"
    again = await dry(admin, body)
    assert again.body["warnings"] == [
        f"spring ({created.body['id']}) is active on these devices: it has to end first, or be superseded."
    ]
    await order(admin, created.body["id"], "cancel")


async def test_a_plan_that_is_another_one_by_now_is_not_created(admin: Api, bundle: str) -> None:
    """The default plan of a fleet that has grown has other waves."""
    cohort = await populated(admin, eu=1)
    shown = (await dry(admin, draft(bundle, cohort=cohort))).body["plan_hash"]
    devices = [{"id": unique("gw"), "region": "eu", "cohort": cohort} for _ in range(20)]
    await admin.post("/v1/devices", {"devices": devices})

    assert_problem(await admin.post("/v1/campaigns", draft(bundle, cohort=cohort, plan_hash=shown)), 409, "conflict")


async def test_a_dry_run_may_be_sent_again_under_its_key(admin: Api, bundle: str) -> None:
    body, key = draft(bundle), {"Idempotency-Key": unique("key")}

    first, second = await dry(admin, body, **key), await dry(admin, body, **key)

    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body


async def test_a_plan_is_shown_and_held_to_by_the_command_line(
    admin: Api, bundle: str, server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {"server": server.url, "token": server.token}
    given = {"bundle": bundle, "cohort": await populated(admin, eu=3), "region": ["eu"], **where}

    await asyncio.to_thread(campaign_cli.show_plan, "spring", **given)
    shown = capsys.readouterr().out
    plan_hash = shown.splitlines()[-1].removeprefix("Plan hash: ")
    assert "1 devices" in shown
    with pytest.raises(ConflictError, match="not what was shown"):
        await asyncio.to_thread(campaign_cli.create, "spring", **given, reason="x", plan_hash="0" * 64)
    await asyncio.to_thread(campaign_cli.create, "spring", **given, reason="x", plan_hash=plan_hash)
    campaign = capsys.readouterr().out.strip()
    await asyncio.to_thread(campaign_cli.start, campaign, **where, plan_hash=plan_hash)

    assert capsys.readouterr().out == "running\n"
    await order(admin, campaign, "cancel")
