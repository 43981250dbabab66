"""A real server, broker and device: an update to the next release, for which there is a delta."""

import asyncio
import random
from contextlib import closing
from pathlib import Path
from typing import Any

from device_sim.fleet import Fleet, FleetOptions
from device_sim.inventory import Added, add_devices
from device_sim.ledger import Ledger
from tests.lab_server import ends_with
from tests.servers import HARDWARE, QUICK_RULE, VENDOR, Api, ServerProcess, make_bundle, unique

WAIT_S = 60.0
PLAN = {"waves": [{"ratio": 1, "ramp_s": 0, "soak_s": 600}]}
POLICY = {"halt": QUICK_RULE, "trial_s": 1, "confirm_s": 120}
NUMBERS = random.Random(8)


async def test_a_device_takes_the_delta_from_the_release_before(
    server: ServerProcess, admin: Api, tmp_path: Path
) -> None:
    region = unique("delta")
    entries, root = await add_devices(
        server.url, server.token, Added(1, (region,), "main", (HARDWARE,), VENDOR, prefix=region).newcomers()
    )
    configs = [one.config(directory=tmp_path / "devices", root_bytes=root, host=None, port=None) for one in entries]
    ledger = Ledger(tmp_path / "ledger.jsonl")
    fleet = Fleet(configs, options=FleetOptions(reboot_s=0.1), ledger=ledger)

    async def update(image: bytes) -> dict[str, Any]:
        """Bring the device to a release of this image; gives the campaign as it is then."""
        file = make_bundle(tmp_path, server.keys, content={"app": image})
        bundle = (await admin.upload(file.read_bytes())).body["id"]
        draft = {
            "name": region,
            "bundle": bundle,
            "cohort": "main",
            "regions": [region],
            "plan": PLAN,
            "policy": POLICY,
        }
        campaign = f"/v1/campaigns/{(await admin.post('/v1/campaigns', draft)).body['id']}"
        assert (await admin.post(f"{campaign}/start", {})).status == 200
        async with asyncio.timeout(WAIT_S):
            while not (view := (await admin.get(campaign)).body)["states"].get("confirmed", 0):
                await asyncio.sleep(0.1)
        assert (await admin.post(f"{campaign}/cancel", {"reason": "it is there"})).status == 200
        return view

    with closing(ledger):
        async with ends_with(asyncio.create_task(fleet.run()), fleet.stop):
            first = NUMBERS.randbytes(200_000)
            assert (await update(first))["deltas"] == []
            (delta,) = (await update(b"moved by this" + first))["deltas"]

    assert (delta["component"], delta["state"], delta["devices"]) == ("app", "offered", 1)
    assert delta["bytes"] < 1000
    facts = (tmp_path / "ledger.jsonl").read_text()
    assert f"app, delta (zstd): {delta['bytes']} bytes" in facts
    assert "way_failed" not in facts
    assert delta["otherwise_bytes"] > 200_000
