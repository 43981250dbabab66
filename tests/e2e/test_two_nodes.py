"""Two servers on one database and one broker: one decides, the other takes over, and the first, woken, does nothing."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from firmware_store.documents import decode_payload, split
from server.domain.gate import DEAD_MAN_S, FULL
from server.protocol.orders import Directive, read_directive
from tests.servers import QUICK_RULE, Api, make_bundle
from tests.stage import REGION, Stage, add_devices, simulated, until_ready

pytestmark = pytest.mark.slow

DEVICES = 10
RELEASE = b"a better app. " * 1200
PLAN = {"waves": [{"ratio": ratio, "ramp_s": 3, "soak_s": 1} for ratio in (0.2, 0.6, 1)]}
POLICY = {"halt": QUICK_RULE, "trial_s": 2, "confirm_s": 120, "watch_s": 2}
WAIT_S = 60.0
TAKE_OVER_S = 120.0
"""The lease's life, and the time for which an open transaction of the former holder is waited for, at worst."""


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


async def start_campaign(api: Api, bundle: Path, plan: dict[str, Any]) -> str:
    uploaded = (await api.upload(bundle.read_bytes())).body["id"]
    draft = {"name": "two nodes", "bundle": uploaded, "cohort": "main", "regions": [REGION]}
    created = await api.post("/v1/campaigns", draft | {"plan": plan, "policy": POLICY})
    started = await api.post(f"/v1/campaigns/{created.body['id']}/start", {})
    assert started.status == 200, started
    return str(created.body["id"])


def read(body: bytes) -> Directive:
    payload, _ = split(body)
    return read_directive(decode_payload(payload))


async def test_a_standby_takes_over_from_a_frozen_node_which_then_changes_nothing(
    stage: Stage, ledger: Path, tmp_path: Path
) -> None:
    first = stage.node("first")
    await asyncio.to_thread(first.start)
    second = stage.node("second", standby="true")
    second.launch()
    await asyncio.to_thread(second.await_standby)
    api, standby = Api(first.url, first.token), Api(second.url, first.token)

    assert (await standby.get("/healthz")).status == 200
    readiness = await standby.get("/readyz")
    assert (readiness.status, readiness.body["ready"]) == (503, False)
    assert "standby: Node " in readiness.body["checks"][0]["text"]
    refused = await standby.get("/v1/devices")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")

    lines = await add_devices(stage, api, count=DEVICES)
    async with stage.watching() as published, simulated(lines, first.keys / "root.cbor", ledger):
        await until_ready(api, DEVICES)
        campaign = await start_campaign(api, make_bundle(tmp_path, first.keys, content={"app": RELEASE}), PLAN)
        await stage.until("SELECT 1 FROM decision WHERE kind = 'open_wave'")
        await api.close()

        first.freeze()
        frozen_with = await stage.read("SELECT id FROM decision WHERE generation = 1 ORDER BY id")
        await stage.until("SELECT 1 FROM lease WHERE generation = 2", TAKE_OVER_S)
        await asyncio.to_thread(second.await_serving)
        await stage.until("SELECT 1 FROM decision WHERE generation = 2")
        published_before = len(published)
        first.wake()
        code = await asyncio.to_thread(first.wait)

        await stage.until("SELECT 1 FROM campaign WHERE state = 'finished'", TAKE_OVER_S)
        ended = (await standby.get(f"/v1/campaigns/{campaign}")).body
        held = [body for (body,) in await stage.read("SELECT body FROM directive")]
        async with asyncio.timeout(WAIT_S):
            while published[-1].payload != held[0]:
                await asyncio.sleep(0.01)
    await standby.close()

    assert code == 1
    assert "Another node has taken over" in first.log.read_text()
    assert ended["states"] == {"confirmed": DEVICES}
    decided = await stage.read("SELECT kind FROM decision ORDER BY id")
    # The gap was bad weather: the campaign paused for it, and went on by itself.
    assert [kind for (kind,) in decided if "pause" not in kind] == [
        "start",
        "open_wave",
        "open_wave",
        "open_wave",
        "complete",
        "finish",
    ]
    assert await stage.read("SELECT id FROM decision WHERE generation = 1 ORDER BY id") == frozen_with

    counters = [read(message.payload).counter for message in published]
    assert counters == sorted(counters)
    assert len(counters) > published_before
    assert await stage.retained() == held
    done = Counter((fact["device"], fact["event"]) for fact in map(json.loads, ledger.read_text().splitlines()))
    assert {done[f"gw-{number:03}", event] for number in range(DEVICES) for event in ("started", "confirmed")} == {1}
    assert second.stop() == 0


async def test_a_second_node_that_is_not_a_standby_is_turned_away(stage: Stage) -> None:
    first = stage.node("first")
    await asyncio.to_thread(first.start)
    second = stage.node("second")
    second.launch()

    assert await asyncio.to_thread(second.wait) == 1
    assert "holds the lease of this database" in second.log.read_text()
    waiting = stage.node("third", standby="true")
    waiting.launch()
    await asyncio.to_thread(waiting.await_standby)
    assert waiting.stop() == 0
    assert first.stop() == 0
    await asyncio.to_thread(second.start)  # the first has given the lease back
    assert second.stop() == 0


async def test_a_level_stops_by_itself_when_its_server_does(stage: Stage, ledger: Path, tmp_path: Path) -> None:
    """Read off the broker, as every device reads it: no line reaches further than 120 s past its issue.

    Woken, the server goes on, since nobody has taken over; it begins a new session, in which it judges nobody at first.
    """
    server = stage.node("first")
    await asyncio.to_thread(server.start)
    api = Api(server.url, server.token)
    lines = await add_devices(stage, api, count=2)
    slow = {"waves": [{"ratio": 1, "ramp_s": 3600, "soak_s": 1}]}
    async with simulated(lines, server.keys / "root.cbor", ledger):
        await until_ready(api, 2)
        await start_campaign(api, make_bundle(tmp_path, server.keys), slow)
        rising = "JOIN campaign_region ON ramp_end = t1 WHERE l1 > 0"
        await stage.until(f"SELECT 1 FROM directive {rising} AND action = 1 AND published_counter = counter")
        server.freeze()
        (body,) = await stage.retained()

        await stage.until("SELECT 1 FROM lease WHERE until < clock_timestamp()")
        server.wake()
        async with asyncio.timeout(WAIT_S):
            while not (await api.get("/readyz")).body["ready"]:
                await asyncio.sleep(0.1)
    await api.close()

    directive = read(body)
    assert directive.ramp is not None
    assert directive.ramp.t1 <= directive.issued + DEAD_MAN_S
    assert 0 < directive.ramp.l1 < FULL // 20
    said = server.log.read_text()
    assert "lease_renewed_late" in said
    assert said.count("broker_up") > 1
    assert await stage.read("SELECT generation FROM lease") == [(1,)]
    assert server.stop() == 0
