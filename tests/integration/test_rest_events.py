"""Events over HTTP and by the command line."""

import asyncio
import json
from typing import Any

import pytest

from server.cli import events as events_cli
from server.cli.client import Client
from server.cli.events import read_events
from tests.integration.test_rest import assert_problem
from tests.servers import Api, ServerProcess, unique

WAIT_S = 20


async def hold(admin: Api, region: str) -> str:
    """Something that is told."""
    name = unique("gw")
    await admin.add_device(name, region)
    assert (await admin.post(f"/v1/devices/{name}/hold", {"reason": "on the bench"})).status == 200
    return name


async def told(server: ServerProcess, **query: Any) -> list[Any]:
    """All that was told until now."""
    async with Client(server.url, server.token) as client:
        pieces = client.get_pieces("/v1/events", follow="false", **query)
        return [event async for _, event in read_events(pieces) if event is not None]


async def test_what_happens_is_heard_as_it_happens(server: ServerProcess, admin: Api, region: str) -> None:
    async with Client(server.url, server.token) as client, asyncio.timeout(WAIT_S):
        following = read_events(client.get_pieces("/v1/events", type=["device.held"]))
        place, nothing = await anext(following)
        name = await hold(admin, region)
        while True:
            number, event = await anext(following)
            if event is not None and event["subject"] == name:
                break

    assert nothing is None
    assert number > place
    assert event["specversion"] == "1.0"
    assert (event["type"], event["sequence"]) == ("dev.tidegate.device.held", str(number))
    assert event["data"] == {"region": region, "cohort": "main", "who": "first-admin", "sentence": "on the bench"}


async def test_a_listener_goes_on_where_it_was(server: ServerProcess, admin: Api, region: str) -> None:
    names = [await hold(admin, region) for _ in range(3)]
    seen = [event for event in await told(server, after=0) if event["subject"] in names]
    assert [event["subject"] for event in seen] == names

    answer = await admin.call("GET", "/v1/events?follow=false", headers={"Last-Event-ID": seen[0]["sequence"]})

    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert [name for name in names if name in answer.body.decode()] == names[1:]


@pytest.mark.parametrize("place", ["x", "-1", "9" * 30])
async def test_a_place_that_is_none_is_refused(admin: Api, place: str) -> None:
    answer = await admin.call("GET", "/v1/events?follow=false", headers={"Last-Event-ID": place})

    assert_problem(answer, 422, "invalid-input")


async def test_a_place_that_was_never_reached_is_gone(admin: Api) -> None:
    assert_problem(await admin.get("/v1/events?after=999999999"), 410, "withdrawn")


async def test_the_command_prints_events(
    server: ServerProcess, admin: Api, region: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = await hold(admin, region)
    given: dict[str, Any] = {"token": server.token, "server": server.url, "after": 0, "follow": False}
    await asyncio.to_thread(events_cli.tail, type=["device.held"], output="jsonl", **given)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    await asyncio.to_thread(events_cli.tail, type=["device.held"], **given)
    lines = capsys.readouterr().out.splitlines()

    assert events[-1]["subject"] == name
    assert lines[-1].endswith(f"device.held ({name}) on the bench")
