"""kill -9 of the server in the middle of a good campaign, again and again: nothing is lost, nothing happens twice."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.embedded import EmbeddedPostgres
from tests.servers import QUICK_RULE, Api, ServerProcess, make_bundle, simulated

pytestmark = pytest.mark.slow

DEVICES, REGIONS = 20, ("eu", "us")
KILLS = 3
FACTORY, RELEASE = b"the factory's app. " * 9000, b"a better app. " * 12_000
PLAN = {"waves": [{"ratio": ratio, "ramp_s": 3, "soak_s": 1} for ratio in (0.2, 0.6, 1)]}
POLICY = {"halt": QUICK_RULE, "trial_s": 2, "confirm_s": 120, "watch_s": 2}
CAMPAIGN_S = 90.0


@pytest.fixture
def ledger(server: ServerProcess, tmp_path: Path) -> Iterator[Path]:
    """The devices run, each by itself, and write down what really happens to them."""
    path = tmp_path / "ledger.jsonl"
    with simulated(
        server, tmp_path, devices=DEVICES, regions=REGIONS, factory=FACTORY, options=("--ledger", str(path))
    ):
        yield path


def facts(ledger: Path) -> list[dict[str, Any]]:
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_campaign_survives_the_death_of_its_server_at_any_moment(
    server: ServerProcess, ledger: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    campaign = await start_campaign(server, make_bundle(tmp_path, server.keys, content={"app": RELEASE}))

    for _ in range(KILLS):
        await asyncio.sleep(rng.uniform(0.2, 4))  # the moment is the point: any will do
        server.kill()
        server.start()
    ended = await until_over(server, campaign)
    decisions = await ask(server, f"/v1/campaigns/{campaign}/decisions")
    assert server.stop() == 0
    stored = await read_history(server)

    assert ended["state"] == "finished"
    assert ended["states"] == {"confirmed": DEVICES}
    # Each gap is bad weather: the campaign pauses for it, or says that a wave waits, and goes on by itself.
    stood_still = {"pause", "unpause", "wait"}
    kinds = [decision["kind"] for decision in decisions["decisions"] if decision["kind"] not in stood_still][::-1]
    assert kinds == ["start", "open_wave", "open_wave", "open_wave", "complete", "finish"]

    done = Counter((fact["device"], fact["event"]) for fact in facts(ledger))
    devices = {device for device, _ in done}
    assert len(devices) == DEVICES
    for device in devices:
        assert {event: done[device, event] for event in ("started", "written", "trial", "confirmed")} == {
            "started": 1,
            "written": 1,
            "trial": 1,
            "confirmed": 1,
        }, device
        states = stored[device]
        assert states[-1] == ("confirmed", 1)
        assert Counter(states)["confirmed", 1] == 1
        # A device does not reboot before it has been told that this report of its is stored.
        assert ("rebooting", 1) in states


async def start_campaign(server: ServerProcess, bundle: Path) -> str:
    """Wait for the devices, upload and start."""
    api = Api(server.url, server.token)
    try:
        async with asyncio.timeout(60):
            while await count_ready(api) < DEVICES:
                assert server.is_alive
                await asyncio.sleep(0.2)
        uploaded = (await api.upload(bundle.read_bytes())).body["id"]
        draft = {"name": "kill -9", "bundle": uploaded, "cohort": "main", "regions": REGIONS}
        created = await api.post("/v1/campaigns", draft | {"plan": PLAN, "policy": POLICY})
        started = await api.post(f"/v1/campaigns/{created.body['id']}/start", {})
        assert started.status == 200, started
        return str(created.body["id"])
    finally:
        await api.close()


async def count_ready(api: Api) -> int:
    """How many devices are online and have said what they run."""
    devices = (await api.get("/v1/devices")).body["devices"]
    return sum(device["online"] and device["running_version"] == "1.0.0" for device in devices)


async def ask(server: ServerProcess, path: str) -> Any:
    api = Api(server.url, server.token)
    try:
        return (await api.get(path)).body
    finally:
        await api.close()


async def until_over(server: ServerProcess, campaign: str) -> Any:
    try:
        async with asyncio.timeout(CAMPAIGN_S):
            while (seen := await ask(server, f"/v1/campaigns/{campaign}"))["state"] in {
                "running",
                "paused",
                "watching",
            }:
                await asyncio.sleep(0.2)
    except TimeoutError:
        seen["readiness"] = await ask(server, "/readyz")
        raise AssertionError(json.dumps(seen, indent=1) + server.log.read_text()[-5000:]) from None
    return seen


async def read_history(server: ServerProcess) -> dict[str, list[tuple[str, int]]]:
    """Return what each device's history has, as (state, attempt) in order, from the database that was left behind."""
    history = defaultdict(list)
    async with EmbeddedPostgres(server.data_dir) as postgres:
        connection = await asyncpg.connect(postgres.database_url)
        try:
            for row in await connection.fetch("SELECT device_id, state, attempt FROM execution_event ORDER BY id"):
                history[row["device_id"]].append((row["state"], row["attempt"]))
        finally:
            await connection.close()
    return history
