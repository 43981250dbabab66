"""Devices that sleep, on a real broker: they are updated as they wake, and one that does not wake again is found."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from device_sim.faults import DeviceFaults, Fault
from device_sim.naps import draw_sleepers
from server.domain.identity import DeviceId, HardwareClass
from tests.servers import HARDWARE, QUICK_RULE, Api, make_bundle, shared_server, simulated, unique

pytestmark = pytest.mark.slow

DEVICES, SHARE = 52, 0.25
INTERVAL_S, AWAKE_S = 3, 1
FACTORY, RELEASE = b"the factory's app. " * 900, b"a better app. " * 1200
BRICK = "brick@1.1.0=2%"
RULE = {**QUICK_RULE, "region_room": 1000, "class_room": 1000, "sleeper_room": 1000, "slow_room": 1000}
POLICY = {"halt": RULE, "trial_s": 1, "confirm_s": 120, "watch_s": 600}
WAVE = {"ratio": 1.0, "ramp_s": 1, "soak_s": 1, "gate": {"failure_ratio": 1}}
SEED = 1  # the simulator's in these tests
WAIT_S = 90.0


def prefix_with_one_bricked_sleeper() -> tuple[str, str]:
    """Return a prefix of names of which one has the fault, and that it sleeps; and its name."""
    fault = [Fault.parse(BRICK)]
    for number in range(10_000):
        prefix = f"nap{number}"
        names = [f"{prefix}-{each:05}" for each in range(DEVICES)]
        faults = {name: DeviceFaults.of(fault, DeviceId(name), HardwareClass(HARDWARE), seed=SEED) for name in names}
        bricked = [name for name in names if faults[name].bricks("1.1.0")]
        if len(bricked) == 1 and bricked[0] in draw_sleepers(names, SHARE, INTERVAL_S, AWAKE_S, seed=SEED):
            return prefix, bricked[0]
    raise AssertionError("no prefix bricks one sleeper alone")


async def test_sleeping_devices_are_updated_and_only_one_that_never_wakes_again_is_silent(tmp_path: Path) -> None:
    server, region = shared_server(), unique("eu")
    prefix, victim = prefix_with_one_bricked_sleeper()
    options = ["--prefix", prefix, "--fault", BRICK, "--wake-interval", str(INTERVAL_S)]
    options += ["--awake", str(AWAKE_S), "--sleepers", str(SHARE)]
    api = Api(server.url, server.token)

    async def devices() -> list[Any]:
        rows: list[Any] = (await api.get("/v1/devices", params={"region": region})).body["devices"]
        return rows

    async def are_there() -> bool:
        rows = await devices()
        return all(row["running_version"] for row in rows) and any(row["asleep"] for row in rows)

    with simulated(server, tmp_path, devices=DEVICES, regions=[region], factory=FACTORY, options=options):
        async with asyncio.timeout(WAIT_S):
            while not await are_there():
                await asyncio.sleep(0.1)
        bundle = make_bundle(tmp_path, server.keys, content={"app": RELEASE})
        uploaded = (await api.upload(bundle.read_bytes())).body["id"]
        draft = {"name": "naps", "bundle": uploaded, "cohort": "main", "regions": [region]}
        created = await api.post("/v1/campaigns", draft | {"plan": {"waves": [WAVE]}, "policy": POLICY})
        path = f"/v1/campaigns/{created.body['id']}"
        assert (await api.post(f"{path}/start", {})).status == 200
        seen: Any = None
        try:
            async with asyncio.timeout(WAIT_S):
                while not (seen := (await api.get(path)).body)["states"].get("silent"):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            pytest.fail(f"It has come no further than this: {seen}")
        silent = (await api.get(f"{path}/executions", params={"state": "silent"})).body["executions"]
        rows = await devices()
        await api.post(f"{path}/cancel", {"reason": "the test is over"})  # the server is shared
    await api.close()
    waited = datetime.fromisoformat(silent[0]["updated_at"]) - datetime.fromisoformat(silent[0]["started_at"])

    assert sum(row["wake_interval_s"] == INTERVAL_S for row in rows) == SHARE * DEVICES
    assert [row["device"] for row in silent] == [victim]
    assert waited.total_seconds() >= QUICK_RULE["g1_s"] + 3 * INTERVAL_S
    assert (seen["state"], seen["states"]) == ("watching", {"confirmed": DEVICES - 1, "silent": 1})
