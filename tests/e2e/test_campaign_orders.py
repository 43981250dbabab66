"""Real devices under a person's orders: a halt, a resume in a second run, another halt, and the way back."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import QUICK_RULE, ROOT, Api, ServerProcess, make_bundle, simulated

pytestmark = pytest.mark.slow

DEVICES = 10
FACTORY, RELEASE = b"the factory's app. " * 9000, b"an app that drains the battery. " * 6000
CANARY, OTHER = "sim-00007", "sim-00001"
PLAN = {
    "waves": [
        {"devices": [CANARY], "soak_s": 1, "gate": {"manual": True}},
        {"ratio": 0.5, "ramp_s": 2, "soak_s": 3},
        {"ratio": 1, "ramp_s": 2, "soak_s": 1},
    ]
}
POLICY = {"halt": QUICK_RULE, "trial_s": 2, "confirm_s": 120, "watch_s": 600, "site_reboots_most": 1}
WAIT_S = 60.0


@pytest.fixture
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    api = Api(server.url, server.token)
    yield api
    await api.close()


@pytest.fixture
def devices(server: ServerProcess, tmp_path: Path) -> Iterator[None]:
    with simulated(server, tmp_path, devices=DEVICES, regions=("eu",), factory=FACTORY):
        yield


async def until(look: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    seen = None
    try:
        async with asyncio.timeout(WAIT_S):
            while not holds(seen := await look()):
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"It has come no further than this: {seen}")
    return seen


@pytest.mark.usefixtures("devices")
async def test_what_was_halted_is_resumed_and_what_was_confirmed_goes_back(
    server: ServerProcess, api: Api, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path, server.keys, content={"app": RELEASE})

    async def versions() -> list[str]:
        rows = (await api.get("/v1/devices")).body["devices"]
        return [row["running_version"] for row in rows if row["online"] and row["running_version"]]

    await until(versions, lambda found: found == ["1.0.0"] * DEVICES)
    uploaded = (await api.upload(bundle.read_bytes())).body
    draft = {"name": "spring", "bundle": uploaded["id"], "cohort": "main", "regions": ["eu"]}
    campaign = (await api.post("/v1/campaigns", draft | {"plan": PLAN, "policy": POLICY})).body["id"]
    path = f"/v1/campaigns/{campaign}"

    async def look() -> Any:
        return (await api.get(path)).body

    async def order(verb: str) -> None:
        answer = await api.post(f"{path}/{verb}", {"reason": "the battery"})
        assert answer.status == 200, answer

    await order("start")
    await until(look, lambda seen: seen["awaits"] == "advance")
    begun = (await api.get(f"{path}/executions")).body["executions"]
    assert [(one["device"], one["state"]) for one in begun] == [(CANARY, "confirmed")]
    whys = {name: (await api.get(f"/v1/devices/{name}/why")).body["sentence"] for name in (CANARY, OTHER)}
    assert whys[CANARY] == f"{CANARY} does not update because it runs 1.1.0 already."
    assert whys[OTHER].startswith(f"{OTHER} does not update because its height is ")
    shown = await said(server, "device", "why", OTHER)
    assert shown.startswith(whys[OTHER])
    rehearsed = await said(server, "campaign", "rehearse", campaign)
    assert rehearsed.startswith(f"Rehearsed for {DEVICES} devices (all of them)")
    assert "A release that bricks 30% is stopped" in rehearsed
    assert {"ok    online", "FAIL  level"} <= {line[:12].strip() for line in shown.splitlines()}
    assert (await api.post(f"{path}/advance", {"wave": 1})).status == 200
    await until(look, lambda seen: seen["states"].get("confirmed", 0) >= 2)
    await order("halt")
    await order("resume")
    watched = await until(look, lambda seen: seen["state"] == "watching")
    assert watched["run"] == 2
    confirmed = watched["states"]["confirmed"]
    assert watched["states"] in ({"confirmed": DEVICES}, {"confirmed": confirmed, "rolled_back": DEVICES - confirmed})

    await order("halt")
    await order("rollback")
    ended = await until(look, lambda seen: seen["state"] == "rolled_back")

    assert ended["sentence"].startswith("Rolled back in ")
    assert ended["sentence"].endswith(f": {confirmed} of {confirmed} devices run their previous release.")
    assert ended["rollback"]["returned"] == confirmed
    assert 0 < ended["rollback"]["seconds"] < WAIT_S
    await until(versions, lambda found: found == ["1.0.0"] * DEVICES)

    told = await said(server, "halt", "explain", campaign)
    assert "open_wave by orchestrator: Wave 2 of 3 opens: eu to 50.0%." in told
    assert "    odds 1 to 1, 0 under way; largest: " in told
    assert "halt by first-admin: Halted by first-admin: the battery" in told


async def said(server: ServerProcess, *arguments: str) -> str:
    command = [sys.executable, "-m", "server", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, "--server", server.url, "--token", server.token, cwd=ROOT, stdout=subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()
