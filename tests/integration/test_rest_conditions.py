"""Two people act on what they have seen: the second, whose screen is stale, is told so and changes nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from firmware_store.errors import StaleError
from server.cli.client import Client
from tests.integration.test_rest import assert_problem
from tests.integration.test_rest_campaigns import bundle, create, order
from tests.servers import Answer, Api, ServerProcess, unique

__all__ = ["bundle"]


@pytest.fixture
async def careless(server: ServerProcess) -> AsyncIterator[aiohttp.ClientSession]:
    """Says nothing of what it has seen."""
    async with aiohttp.ClientSession(server.url, headers={"Authorization": f"Bearer {server.token}"}) as session:
        yield session


async def post(session: aiohttp.ClientSession, method: str, path: str, body: Any) -> Answer:
    async with session.request(method, path, json=body) as response:
        return Answer(response.status, await response.json(content_type=None), response.headers)


async def test_of_two_on_a_stale_screen_one_is_told_so(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    for verb in ("start", "pause"):
        await order(admin, campaign, verb)
    path = f"/v1/campaigns/{campaign}"
    seen = [(await admin.get(path)).headers["ETag"] for _ in range(2)]

    answers = await asyncio.gather(
        *(admin.post(f"{path}/resume", {"reason": "go on"}, headers={"If-Match": tag}) for tag in seen)
    )

    assert sorted(answer.status for answer in answers) == [200, 412]
    refused = max(answers, key=lambda answer: answer.status)
    assert_problem(refused, 412, "stale")
    done = min(answers, key=lambda answer: answer.status)
    assert done.headers["ETag"] != seen[0]
    await order(admin, campaign, "cancel")


async def test_a_rollback_on_a_stale_screen_does_nothing(admin: Api, bundle: str) -> None:
    campaign = await create(admin, bundle)
    path = f"/v1/campaigns/{campaign}"
    await order(admin, campaign, "start")
    running = (await admin.get(path)).headers["ETag"]
    await order(admin, campaign, "halt")

    answer = await admin.post(f"{path}/rollback", {"reason": "down"}, headers={"If-Match": running})

    assert_problem(answer, 412, "stale")
    detail = await admin.get(path)
    assert detail.body["state"] == "halted"
    again = await admin.post(f"{path}/rollback", {"reason": "down"}, headers={"If-Match": detail.headers["ETag"]})
    assert again.status == 200


@pytest.mark.parametrize("verb", ["resume", "rollback", "advance"])
async def test_whoever_does_not_say_what_they_have_seen_is_asked(
    careless: aiohttp.ClientSession, admin: Api, bundle: str, verb: str
) -> None:
    path = f"/v1/campaigns/{await create(admin, bundle)}/{verb}"

    body = {"wave": 1} if verb == "advance" else {}

    assert_problem(await post(careless, "POST", path, body), 428, "precondition-missing")
    unquoted = await admin.post(path, body, headers={"If-Match": "paused"})
    assert_problem(unquoted, 422, "invalid-input")


async def test_a_device_is_changed_by_whoever_has_seen_it_as_it_is(admin: Api, careless: aiohttp.ClientSession) -> None:
    path = f"/v1/devices/{unique('gw')}"
    await admin.add_device(path.rsplit("/", 1)[1], "eu")
    tag = (await admin.get(path)).headers["ETag"]

    answers = await asyncio.gather(
        *(admin.call("PATCH", path, json={"labels": {"who": who}}, headers={"If-Match": tag}) for who in ("ann", "bob"))
    )

    assert sorted(answer.status for answer in answers) == [200, 412]
    assert_problem(await post(careless, "PATCH", path, {"labels": {"who": "eve"}}), 428, "precondition-missing")
    shown = await admin.get(path)
    assert shown.headers["ETag"] == min(answers, key=lambda answer: answer.status).headers["ETag"]


async def test_a_webhook_is_changed_by_whoever_has_seen_its_last_secret(
    admin: Api, careless: aiohttp.ClientSession
) -> None:
    made = await admin.post("/v1/webhooks", {"name": unique("hook"), "url": "https://hooks.invalid/"})
    path = f"/v1/webhooks/{made.body['webhook']['id']}"
    tag = (await admin.get(path)).headers["ETag"]

    rotated = await admin.post(f"{path}/rotate", {}, headers={"If-Match": tag})

    assert rotated.status == 200
    for method, where in (("POST", f"{path}/rotate"), ("DELETE", path)):
        body = {} if method == "POST" else None
        assert_problem(await post(careless, method, where, body), 428, "precondition-missing")
        assert_problem(await admin.call(method, where, json=body, headers={"If-Match": tag}), 412, "stale")
    assert (await admin.call("DELETE", path, headers={"If-Match": rotated.headers["ETag"]})).status == 200


async def test_the_tag_of_a_running_campaign_stays_while_its_numbers_change(admin: Api, bundle: str) -> None:
    plan = {"waves": [{"ratio": 1.0, "ramp_s": 60}]}
    campaign = await create(admin, bundle, plan=plan)
    await order(admin, campaign, "start")
    path = f"/v1/campaigns/{campaign}"
    async with asyncio.timeout(20):
        while not 0 < (first := await admin.get(path)).body["regions"][0]["level"] < 1:
            await asyncio.sleep(0.05)
        while (second := await admin.get(path)).body["regions"][0]["level"] == first.body["regions"][0]["level"]:
            await asyncio.sleep(0.05)

    assert first.headers["ETag"] == second.headers["ETag"]
    await order(admin, campaign, "cancel")


async def test_the_client_of_the_commands_sends_what_it_has_shown(
    admin: Api, server: ServerProcess, bundle: str
) -> None:
    campaign = await create(admin, bundle)
    for verb in ("start", "pause"):
        await order(admin, campaign, verb)
    path = f"/v1/campaigns/{campaign}"

    async with Client(server.url, server.token) as client:
        seen, tag = await client.look(path)
        await order(admin, campaign, "halt")

        assert seen["state"] == "paused"
        with pytest.raises(StaleError, match="has changed since you looked at it"):
            await client.post(f"{path}/resume", {"reason": "go on"}, seen=tag)
