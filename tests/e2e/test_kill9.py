"""Kill -9 the server in the middle of a good campaign, again and again: nothing is lost and nothing happens twice."""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.embedded import EmbeddedPostgres
from tests.servers import HARDWARE, ROOT, VENDOR, Api, ServerProcess, make_bundle, open_folder

DEVICES = 20
VERSION = "1.1.0"
REGIONS = ("eu", "us")
POLICY = {"reboot_s": 2, "silence_deadline_s": 20, "trial_s": 3, "watch_s": 0}
WAVES = [{"ratio": 0.4, "ramp_s": 3, "soak_s": 0}, {"ratio": 1.0, "ramp_s": 3, "soak_s": 0}]
END_S = 150.0
STATES = {"downloading", "installing", "rebooting", "trial", "confirmed"}


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    process = ServerProcess(open_folder(), heartbeat_s="1")
    process.start()
    yield process
    if process.is_alive:
        process.stop()


@asynccontextmanager
async def calling(server: ServerProcess) -> AsyncIterator[Api]:
    api = Api(server.url, server.token)
    try:
        yield api
    finally:
        await api.close()


async def add_fleet(server: ServerProcess) -> Path:
    """Add the devices over REST; return the file that the simulator reads."""
    file = server.folder / "fleet.jsonl"
    async with calling(server) as api:
        lines = []
        for number in range(DEVICES):
            name, region = f"gw-{number:03}", REGIONS[number % len(REGIONS)]
            credential = await api.add_device(name, region)
            who = {"id": name, "region": region, "cohort": "main", "vendor": VENDOR, "hardware": HARDWARE}
            lines.append(json.dumps({**who, **credential}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@asynccontextmanager
async def fleet(server: ServerProcess, seed: int) -> AsyncIterator[Path]:
    """Run the devices in a process of their own; gives their ledger."""
    file, ledger = await add_fleet(server), server.folder / "ledger.jsonl"
    arguments = ["sim", "run", "--devices-file", file, "--root", server.keys / "root.cbor", "--ledger", ledger]
    arguments += ["--dir", server.folder / "devices", "--seed", str(seed), "--reboot-s", "0.5"]
    with (server.folder / "devices.log").open("ab") as log:
        devices = subprocess.Popen([sys.executable, "-m", "server", *map(str, arguments)], cwd=ROOT, stderr=log)
    try:
        yield ledger
    finally:
        devices.terminate()
        await asyncio.to_thread(devices.wait, 30)


async def start_campaign(server: ServerProcess) -> str:
    bundle = make_bundle(server.folder, server.keys)
    async with calling(server) as api:
        uploaded = await api.upload(bundle.read_bytes())
        draft = {"name": "good", "bundle": uploaded.body["id"], "cohort": "main", "regions": REGIONS}
        created = await api.post(
            "/v1/campaigns", {**draft, "plan": {"waves": WAVES}, "policy": POLICY, "reason": "test"}
        )
        started = await api.post(f"/v1/campaigns/{created.body['id']}/start", {"reason": "test"})
        assert started.status == 200, started
    return str(created.body["id"])


async def until(server: ServerProcess, campaign: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with calling(server) as api, asyncio.timeout(END_S):
        while True:
            answer = await api.get(f"/v1/campaigns/{campaign}")
            if answer.status == 200 and holds(answer.body):
                return dict(answer.body)
            await asyncio.sleep(0.05)


def progress(view: dict[str, Any]) -> int:
    """How many reports the server has of its devices, as far as their states tell."""
    worth = {"downloading": 1, "installing": 2, "rebooting": 3, "trial": 4, "confirmed": 5}
    return sum(worth.get(state, 0) * number for state, number in view["states"].items())


async def history(server: ServerProcess) -> dict[str, Counter[str]]:
    """Every report the database has, by device: read with the server gone."""
    async with EmbeddedPostgres(server.data_dir) as postgres:
        connection = await asyncpg.connect(postgres.database_url)
        rows = await connection.fetch("SELECT device_id, state FROM execution_event")
        await connection.close()
    reports: dict[str, Counter[str]] = {}
    for row in rows:
        reports.setdefault(row["device_id"], Counter())[row["state"]] += 1
    return reports


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_server_killed_at_random_moments_ends_its_campaign_right(server: ServerProcess, seed: int) -> None:
    moments = sorted(random.Random(seed).sample(range(1, DEVICES * 5 - 1), 4))
    async with fleet(server, seed) as ledger:
        async with calling(server) as api, asyncio.timeout(END_S):
            while sum(device["online"] for device in (await api.get("/v1/devices")).body["devices"]) < DEVICES:
                await asyncio.sleep(0.1)
        campaign = await start_campaign(server)
        for moment in moments:
            await until(server, campaign, lambda view, moment=moment: progress(view) >= moment)  # type: ignore[misc]
            server.kill()
            server.start()

        view = await until(server, campaign, lambda view: view["state"] in {"finished", "halted"})
        facts = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]

    server.stop()
    started = Counter(fact["device"] for fact in facts if fact["event"] == "started")
    confirmed = Counter(fact["device"] for fact in facts if fact["event"] == "confirmed")
    assert (view["state"], view["states"]) == ("finished", {"confirmed": DEVICES})
    assert set(started.values()) == {1}, "a device began twice"
    assert set(confirmed.values()) == {1}, "a device confirmed twice"
    assert len(confirmed) == DEVICES
    reports = await history(server)
    assert len(reports) == DEVICES
    for device, states in reports.items():
        assert states["confirmed"] == 1, device
        assert states["rebooting"] >= 1, device  # said again until it is acknowledged
