"""``/v1/campaigns`` over HTTP: from a draft to its end, and every order that the machine does not allow."""

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from server.domain.campaign import Event, State, allowed
from tests.integration.test_rest import assert_problem
from tests.servers import Api, ServerProcess, make_bundle, unique

WAIT_S = 20


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bundle(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a bundle that is there."""
    api = Api(server.url, server.token)
    try:
        answer = await api.upload(make_bundle(tmp_path_factory.mktemp("bundle"), server.keys).read_bytes())
    finally:
        await api.close()
    return str(answer.body["id"])


def draft(bundle: str, **members: Any) -> dict[str, Any]:
    """A campaign that has its audience for itself."""
    return {"name": "spring", "bundle": bundle, "cohort": unique("c"), "regions": ["eu"]} | members


async def create(admin: Api, bundle: str, **members: Any) -> str:
    answer = await admin.post("/v1/campaigns", draft(bundle, **members))
    assert answer.status == 201, answer
    return str(answer.body["id"])


async def order(admin: Api, campaign: str, verb: str, reason: str = "because") -> Any:
    return await admin.post(f"/v1/campaigns/{campaign}/{verb}", {"reason": reason})


async def test_a_draft_has_the_default_plan_and_does_nothing(admin: Api, bundle: str) -> None:
    answer = await admin.post("/v1/campaigns", draft(bundle, regions=["eu", "us"], reason="CVE-1"))

    assert answer.status == 201
    assert (answer.body["state"], answer.body["reason"], answer.body["started_at"]) == ("draft", "CVE-1", None)
    detail = (await admin.get(f"/v1/campaigns/{answer.body['id']}")).body
    assert [wave["state"] for wave in detail["waves"]] == ["planned"] * 3
    assert [region["region"] for region in detail["regions"]] == ["eu", "us"]
    assert detail["plan"]["waves"][0]["count"] == 1


async def test_a_campaign_that_is_started_runs_and_opens_its_first_wave(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle, plan={"waves": [{"ratio": 1, "ramp_s": 0}]})

    assert (await order(admin, campaign, "start", "go")).body["state"] == "running"

    async with asyncio.timeout(WAIT_S):
        while (detail := (await admin.get(f"/v1/campaigns/{campaign}")).body)["waves"][0]["state"] != "open":
            await asyncio.sleep(0.1)
    assert detail["regions"][0]["target"] == 1
    decisions = (await admin.get(f"/v1/campaigns/{campaign}/decisions")).body["decisions"]
    assert [(d["kind"], d["actor"], d["sentence"]) for d in decisions] == [
        ("open_wave", "orchestrator", "Wave 1 of 1 opens: eu to 100.0%."),
        ("start", "first-admin", "go"),
    ]
    await order(admin, campaign, "cancel")


async def test_how_far_the_blobs_of_a_campaign_are_is_shown_and_counted(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    await order(admin, campaign, "start")

    async with asyncio.timeout(WAIT_S):
        while True:
            seen = (await admin.get(f"/v1/campaigns/{campaign}")).body["publication"]
            if seen["transport"] and seen["published_blobs"] == seen["blobs"] > 0:
                break
            await asyncio.sleep(0.1)

    assert (seen["transport"], seen["published_bytes"]) == ("mqtt", seen["bytes"])
    assert seen["sentence"].startswith("published ")
    metrics = (await admin.get("/metrics")).body.decode()
    assert "tidegate_broker_blob_budget_bytes 5.36870912e+08" in metrics


async def test_a_pause_holds_a_resume_goes_on_and_a_halt_is_the_end(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    states = []
    for verb in ("start", "pause", "resume", "pause", "halt", "cancel"):
        answer = await order(admin, campaign, verb)
        assert answer.status == 200, answer
        states.append(answer.body["state"])

    assert states == ["running", "paused", "running", "paused", "halted", "cancelled"]


async def test_a_paused_campaign_says_for_which_cause(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    await order(admin, campaign, "start")

    assert (await order(admin, campaign, "pause")).body["causes"] == ["operator"]
    assert (await order(admin, campaign, "resume")).body["causes"] == []
    await order(admin, campaign, "cancel")


async def test_a_halt_by_hand_says_by_whose(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    await order(admin, campaign, "start")

    answer = await order(admin, campaign, "halt", "smoke on the water")

    assert answer.body["sentence"] == "Halted by first-admin: smoke on the water"
    assert answer.body["ended_at"] is not None


WAYS = {
    State.DRAFT: [],
    State.RUNNING: ["start"],
    State.PAUSED: ["start", "pause"],
    State.HALTED: ["start", "halt"],
    State.CANCELLED: ["cancel"],
}
VERBS = {
    "start": {State.DRAFT},
    "pause": {State.RUNNING, State.PAUSED},
    "resume": {State.PAUSED, State.HALTED},
    "halt": {State.RUNNING, State.PAUSED},
    "rollback": {State.PAUSED, State.HALTED},
    "submit": {State.DRAFT},
    "cancel": {State.DRAFT, State.RUNNING, State.PAUSED, State.HALTED},
}


@pytest.mark.parametrize("state", WAYS, ids=str)
async def test_what_the_machine_does_not_allow_is_refused_with_what_it_does(
    admin: Api, bundle: str, state: State
) -> None:
    campaign = await create(admin, bundle)
    for verb in WAYS[state]:
        await order(admin, campaign, verb)

    for verb in sorted(set(VERBS) - {verb for verb, states in VERBS.items() if state in states}):
        answer = await order(admin, campaign, verb)

        assert_problem(answer, 409, "illegal-transition")
        assert answer.body["state"] == state
        assert [Event(event) for event in answer.body["allowed"]] == list(allowed(state))
    assert (await admin.get(f"/v1/campaigns/{campaign}")).body["state"] == state
    await order(admin, campaign, "cancel")


async def test_two_campaigns_do_not_run_on_the_same_devices(admin: Api, bundle: str) -> None:
    cohort = unique("c")
    first = await create(admin, bundle, cohort=cohort, regions=["eu", "us"])
    second = await create(admin, bundle, cohort=cohort, regions=["us"])
    await order(admin, first, "start")

    assert_problem(await order(admin, second, "start"), 409, "conflict")

    assert (await admin.get(f"/v1/campaigns/{second}")).body["state"] == "draft"
    await order(admin, first, "cancel")
    assert (await order(admin, second, "start")).status == 200
    await order(admin, second, "cancel")


async def test_orders_that_come_together_are_all_carried_out_or_refused(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    await order(admin, campaign, "start")

    answers = await asyncio.gather(
        *(order(admin, campaign, verb) for verb in ("pause", "resume", "halt", "cancel") * 3)
    )

    assert {answer.status for answer in answers} <= {200, 409}
    assert (await admin.get(f"/v1/campaigns/{campaign}")).body["state"] == "cancelled"


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"regions": []}, "/regions"),
        ({"regions": ["eu", "eu"]}, "/regions"),
        ({"plan": {"waves": []}}, "/plan/waves"),
        ({"plan": {"waves": [{"ratio": 0.5, "count": 5}]}}, "/plan/waves/0"),
        ({"plan": {"waves": [{"ratio": 0.5, "regions": ["asia"]}]}}, "/plan/waves"),
        ({"plan": {"waves": [{"ratio": 0.5, "regions": ["+"]}]}}, "/plan/waves/0"),
        ({"policy": {"halt": {"reboot_s": 100, "g1_s": 50}}}, "/policy/halt"),
        ({"policy": {"halt": {"g1_s": 1e300}}}, "/policy/halt/g1_s"),
        ({"policy": {"halt": {"d0": 0}}}, "/policy/halt/d0"),
        ({"policy": {"alhpa": 0.1}}, "/policy/alhpa"),
        ({"name": ""}, "/name"),
    ],
    ids=str,
)
async def test_a_campaign_that_cannot_be_is_refused_where_it_is_wrong(
    admin: Api, bundle: str, members: dict[str, Any], pointer: str
) -> None:
    answer = await admin.post("/v1/campaigns", draft(bundle, **members))

    assert_problem(answer, 422, "invalid-input")
    assert answer.body["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_number_that_is_none_is_refused(admin: Api, bundle: str, number: str) -> None:
    """Python's JSON reader takes them all; stored, they would stop every evaluation."""
    body = (
        f'{{"name": "x", "bundle": "{bundle}", "cohort": "c", "regions": ["eu"], '
        f'"policy": {{"halt": {{"g1_s": {number}}}}}}}'
    )

    answer = await admin.call("POST", "/v1/campaigns", data=body, headers={"Content-Type": "application/json"})

    assert answer.status in {400, 422}, answer


async def test_a_campaign_needs_a_bundle_that_is_there(admin: Api) -> None:
    assert_problem(await admin.post("/v1/campaigns", draft("bun_" + "0" * 32)), 404, "not-found")
    assert_problem(await admin.post("/v1/campaigns", draft("bun_x")), 422, "invalid-input")


async def test_an_order_may_be_given_without_a_word(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)

    answer = await admin.call("POST", f"/v1/campaigns/{campaign}/cancel")

    assert (answer.status, answer.body["state"]) == (200, "cancelled")


async def test_executions_are_listed_by_state(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    path = f"/v1/campaigns/{campaign}/executions"

    assert (await admin.get(path, params={"state": "confirmed"})).body == {"executions": [], "next": None}
    assert_problem(await admin.get(path, params={"state": "happy"}), 422, "invalid-input")


async def test_the_newest_campaign_comes_first(admin: Api, bundle: str) -> None:
    created = [await create(admin, bundle) for _ in range(3)]

    listed = (await admin.get("/v1/campaigns", params={"limit": "3"})).body["campaigns"]

    assert [found["id"] for found in listed] == created[::-1]
