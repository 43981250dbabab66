"""A real server and real agents: who comes when the level has long passed it is let in by an admit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from device_sim.fleet import Fleet, FleetOptions
from device_sim.inventory import Added, Entry, add_devices
from device_sim.ledger import Ledger
from tests.lab_server import ends_with
from tests.servers import HARDWARE, QUICK_RULE, VENDOR, Api, ServerProcess, make_bundle, unique

WAIT_S = 60.0
PLAN = {"waves": [{"ratio": 1, "ramp_s": 0, "soak_s": 600}]}
POLICY = {"halt": QUICK_RULE, "trial_s": 1, "confirm_s": 120}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await asyncio.sleep(0.1)


@asynccontextmanager
async def living(entries: Sequence[Entry], root: bytes, folder: Path) -> AsyncIterator[Path]:
    """Let these devices live; gives the path of their ledger."""
    path = folder / f"{entries[0].id}.jsonl"
    configs = [entry.config(directory=folder / "devices", root_bytes=root, host=None, port=None) for entry in entries]
    ledger = Ledger(path)
    fleet = Fleet(configs, options=FleetOptions(reboot_s=0.1), ledger=ledger)
    task = asyncio.create_task(fleet.run())
    try:
        async with ends_with(task, fleet.stop):
            yield path
    finally:
        ledger.close()


async def test_a_device_that_comes_late_is_admitted_and_updates(
    server: ServerProcess, admin: Api, tmp_path: Path
) -> None:
    region = unique("late")
    wanted = Added(2, (region,), "main", (HARDWARE,), VENDOR, prefix=region)
    entries, root = await add_devices(server.url, server.token, wanted.newcomers())
    bundle = (await admin.upload(make_bundle(tmp_path, server.keys).read_bytes())).body["id"]
    draft = {"name": region, "bundle": bundle, "cohort": "main", "regions": [region], "plan": PLAN, "policy": POLICY}
    campaign = f"/v1/campaigns/{(await admin.post('/v1/campaigns', draft)).body['id']}"

    async def confirmed(number: int) -> bool:
        return bool((await admin.get(campaign)).body["states"].get("confirmed", 0) >= number)

    async with living(entries[:1], root, tmp_path):
        assert (await admin.post(f"{campaign}/start", {})).status == 200
        await until(lambda: confirmed(1))
        # From now on the ramp begins at its end, and does not show any more when it got there.
        assert (await admin.post(f"{campaign}/pause", {"reason": "lunch"})).status == 200
        assert (await admin.post(f"{campaign}/resume", {"reason": "lunch is over"})).status == 200
        async with living(entries[1:], root, tmp_path) as ledger:
            await until(lambda: confirmed(2))
    assert (await admin.post(f"{campaign}/cancel", {"reason": "the test is over"})).status == 200

    lines = ledger.read_text().splitlines()
    assert any('"late"' in line for line in lines)
    assert any('"confirmed"' in line for line in lines)
