"""Webhooks over HTTP and by the command line, against a real server and a real receiver."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.cli import webhook as cli
from server.services.tokens import Role
from tests.integration.test_rest import assert_problem, make_token
from tests.receiver import Receiver, receiving
from tests.servers import Api, ServerProcess, unique


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


async def hold(admin: Api, region: str) -> str:
    name = unique("gw")
    await admin.add_device(name, region)
    await admin.post(f"/v1/devices/{name}/hold", {"reason": "on the bench"})
    return name


async def test_an_event_is_delivered_and_looked_up(admin: Api, region: str, receiver: Receiver) -> None:
    body = {"name": "chat", "url": receiver.url, "types": ["device.held"]}
    made = (await admin.post("/v1/webhooks", body)).body
    path = f"/v1/webhooks/{made['webhook']['id']}"
    name = await hold(admin, region)
    await receiver.until(1)
    async with asyncio.timeout(20):
        while not (tries := (await admin.get(f"{path}/deliveries")).body["deliveries"]):
            await asyncio.sleep(0.1)

    assert made["secret"].startswith("whsec_")
    assert json.loads(receiver.taken[0].body)["subject"] == name
    assert [(one["type"], one["outcome"], one["status"]) for one in tries] == [("device.held", "delivered", 204)]
    assert made["secret"] not in str((await admin.get(path)).body)

    again = await admin.post(f"{path}/deliveries/{tries[0]['id']}/resend", {})
    assert (again.body["attempt"], len(receiver.taken)) == (2, 2)
    changed = await admin.call("PATCH", path, json={"is_enabled": False})
    assert (changed.body["is_enabled"], changed.body["why_not"]) == (False, "first-admin has disabled it.")
    assert (await admin.call("DELETE", path)).status == 200
    assert_problem(await admin.get(path), 404, "not-found")


async def test_only_an_administrator_sets_them_up(server: ServerProcess, admin: Api, receiver: Receiver) -> None:
    operator = Api(server.url, await make_token(admin, Role.OPERATOR))
    answer = await operator.post("/v1/webhooks", {"name": "chat", "url": receiver.url})
    await operator.close()

    assert_problem(answer, 403, "forbidden")


async def test_the_commands_do_the_same(
    server: ServerProcess, admin: Api, region: str, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"token": server.token, "server": server.url}
    name = unique("hook")

    async def run(command: Any, *arguments: Any, **options: Any) -> str:
        capsys.readouterr()
        await asyncio.to_thread(command, *arguments, **given, **options)
        return capsys.readouterr().out

    assert "whsec_" in await run(cli.add, name, receiver.url, type=["device.held"])
    hooks = json.loads(await run(cli.ls, output="json"))
    (made,) = [hook["id"] for hook in hooks if hook["name"] == name]
    await hold(admin, region)
    await receiver.until(1)
    async with asyncio.timeout(20):
        while not (tries := json.loads(await run(cli.deliveries, made, output="json"))):
            await asyncio.sleep(0.1)
    assert "delivered" in await run(cli.resend, made, tries[0]["id"])
    assert (await run(cli.rotate, made)).startswith("whsec_")
    assert "False" in await run(cli.disable, made)
    assert "True" in await run(cli.enable, made)
    await run(cli.rm, made)
    assert made not in await run(cli.ls)
