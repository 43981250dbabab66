"""A release that does not fit the broker's budget reaches real devices by HTTP alone."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.servers import QUICK_RULE, Api, ServerProcess, make_bundle, open_folder, simulated

pytestmark = pytest.mark.slow

DEVICES = 3
WAIT_S = 60.0
PLAN = {"waves": [{"ratio": 1, "ramp_s": 0, "soak_s": 0}]}
POLICY = {"halt": QUICK_RULE, "trial_s": 1, "confirm_s": 60, "watch_s": 0}


async def test_what_does_not_fit_the_broker_is_fetched_by_http_and_nothing_is_published(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = ServerProcess(open_folder(), port=port, heartbeat_s="1", blob_budget_bytes="0", public_url=url)
    server.start()
    api = Api(server.url, server.token)
    try:
        with simulated(server, tmp_path, devices=DEVICES, regions=("eu",), factory=b"the factory's app. " * 900):
            bundle = (await api.upload(make_bundle(tmp_path, server.keys).read_bytes())).body["id"]
            campaign = await confirmed_by_all(api, bundle)
        metrics = (await api.get("/metrics")).body.decode()
    finally:
        await api.close()
        server.stop()
        shutil.rmtree(server.folder)

    assert campaign["publication"]["transport"] == "http"
    assert campaign["publication"]["sentence"].startswith("HTTP only: ")
    assert campaign["publication"]["published_blobs"] == 0
    assert "tidegate_blobs_published_total 0.0" in metrics


async def confirmed_by_all(api: Api, bundle: str) -> Any:
    """Start a campaign when the devices are there, and return it when all of them have confirmed it."""
    draft = {"name": "spring", "bundle": bundle, "cohort": "main", "regions": ["eu"], "plan": PLAN, "policy": POLICY}
    seen: Any = None
    try:
        async with asyncio.timeout(WAIT_S):
            while (
                len(seen := [row for row in (await api.get("/v1/devices")).body["devices"] if row["online"]]) < DEVICES
            ):
                await asyncio.sleep(0.2)
            path = f"/v1/campaigns/{(await api.post('/v1/campaigns', draft)).body['id']}"
            await api.post(f"{path}/start")
            while (seen := (await api.get(path)).body)["states"].get("confirmed") != DEVICES:
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"It has come no further than this: {seen}")
    return seen


async def online(api: Api) -> list[Any]:
    return [row for row in (await api.get("/v1/devices")).body["devices"] if row["online"]]
