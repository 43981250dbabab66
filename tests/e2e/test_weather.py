"""Good releases in bad weather, and what ``on_offline_spike`` makes of it: real devices on a real broker.

Outages begin when the first device of a region boots the release, wherever the campaign is then: in its middle.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.domain.halt import HaltPolicy
from tests.servers import QUICK_RULE, Api, make_bundle, shared_server, simulated, unique
from tests.stage import Stage, add_devices, until_ready
from tests.stage import simulated as devices_of

pytestmark = pytest.mark.slow

EACH = 30
FACTORY, RELEASE = b"the factory's app. " * 900, b"a better app. " * 1200
WAVE = {"ratio": 0.2, "ramp_s": 2, "soak_s": 1}
RULE = {
    **QUICK_RULE,
    "region_room": 1000,
    "class_room": 1000,
    "min_sentinels": 15,
    "spike_hold_s": HaltPolicy().scaled(1 / 600).spike_hold_s,
}
"""Nothing is said here of the pace, the regions are small, and half an hour is three seconds."""
POLICY = {"halt": RULE, "trial_s": 1, "confirm_s": 120, "watch_s": 0}
OVER = {"finished", "halted"}
WAIT_S = 90.0


class Release:
    """A campaign that is under way; ``facts`` are what the devices say has really happened to them."""

    def __init__(self, api: Api, path: str, ledger: Path) -> None:
        self._api, self._path, self._ledger = api, path, ledger

    async def until(self, holds: Callable[[Any], bool]) -> Any:
        seen = None
        try:
            async with asyncio.timeout(WAIT_S):
                while not holds(seen := (await self._api.get(self._path)).body):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            pytest.fail(f"It has come no further than this: {seen} {await self.decisions()}")
        return seen

    async def decisions(self) -> list[Any]:
        """The oldest first."""
        answer = await self._api.get(f"{self._path}/decisions")
        return list(reversed(answer.body["decisions"]))

    async def order(self, verb: str, reason: str) -> None:
        answer = await self._api.post(f"{self._path}/{verb}", {"reason": reason})
        assert answer.status == 200, answer

    def facts(self, event: str) -> list[Any]:
        facts = [json.loads(line) for line in self._ledger.read_text().splitlines()]
        return [fact for fact in facts if fact["event"] == event]


async def start(api: Api, bundle: Path, regions: list[str], waves: list[dict[str, Any]], **policy: Any) -> str:
    """Start a campaign, and return its path."""
    uploaded = (await api.upload(bundle.read_bytes())).body["id"]
    draft = {"name": "weather", "bundle": uploaded, "cohort": "main", "regions": regions}
    created = await api.post("/v1/campaigns", draft | {"plan": {"waves": waves}, "policy": POLICY | policy})
    path = f"/v1/campaigns/{created.body['id']}"
    assert (await api.post(f"{path}/start", {})).status == 200
    return path


@asynccontextmanager
async def release(
    folder: Path, regions: list[str], outages: list[str], waves: list[dict[str, Any]], **policy: Any
) -> AsyncIterator[Release]:
    """A good release, and 30 devices in each region, some of which an outage will take."""
    server, ledger = shared_server(), folder / "ledger.jsonl"
    api = Api(server.url, server.token)
    options = ["--ledger", str(ledger), "--prefix", unique("gw")]
    for outage in outages:
        options += ["--outage", outage]

    async def ready(region: str) -> bool:
        rows = (await api.get("/v1/devices", params={"region": region})).body["devices"]
        return sum(row["online"] and row["running_version"] == "1.0.0" for row in rows) == EACH

    with simulated(server, folder, devices=EACH * len(regions), regions=regions, factory=FACTORY, options=options):
        async with asyncio.timeout(WAIT_S):
            while not all([await ready(region) for region in regions]):
                await asyncio.sleep(0.2)
        bundle = make_bundle(folder, server.keys, content={"app": RELEASE})
        campaign = await start(api, bundle, regions, waves, **policy)
        yield Release(api, campaign, ledger)
        await api.post(f"{campaign}/cancel", {"reason": "the test is over"})  # the server is shared
    await api.close()


async def test_a_regional_outage_pauses_a_good_release_which_goes_on_by_itself(tmp_path: Path) -> None:
    eu, us = unique("eu"), unique("us")
    async with release(tmp_path, [eu, us], [f"{eu}:50%:@1.1.0:5s"], [WAVE], on_offline_spike="pause") as campaign:
        paused = await campaign.until(lambda seen: seen["causes"] == ["weather"])
        ended = await campaign.until(lambda seen: seen["state"] in OVER)
        decisions = await campaign.decisions()
    pause = next(decision for decision in decisions if decision["kind"] == "pause")

    assert len(campaign.facts("cut_off")) == EACH // 2
    assert [region["weather"] for region in paused["regions"]] == ["bad", "good"]
    assert [region["weather"] for region in ended["regions"]] == ["good", "good"]
    assert pause["sentence"] == (
        f"Paused: devices that only watch are dark in {eu}; it goes on by itself when they are back."
    )
    assert {decision["actor"] for decision in decisions[1:]} == {"orchestrator"}
    assert [decision["kind"] for decision in decisions[-2:]] == ["complete", "finish"]
    assert ended["state"] == "finished"
    assert set(ended["states"]) == {"confirmed"}


async def test_a_spike_that_lasts_is_held_for_a_person(tmp_path: Path) -> None:
    eu, us = unique("eu"), unique("us")
    async with release(tmp_path, [eu, us], [f"{eu}:50%:@1.1.0:8s"], [WAVE], on_offline_spike="hold") as campaign:
        await campaign.until(lambda seen: set(seen["causes"]) == {"weather", "evidence"})
        held = await campaign.until(lambda seen: "weather" not in seen["causes"])
        await campaign.order("resume", "the carrier had a fault")
        resumed = await campaign.until(lambda seen: seen["state"] != "paused")

    assert (held["state"], held["causes"]) == ("paused", ["evidence"])
    assert held["sentence"] == f"On hold: devices have been dark in {eu} for 3 s, whatever the reason."
    assert resumed["state"] == "running"


async def test_a_release_that_takes_its_neighbourhoods_down_is_halted(tmp_path: Path) -> None:
    """It goes to two regions of three: there most devices vanish, most of which it has not reached, and nowhere else.

    Nobody is silent at a deadline yet: it is the pattern that tells.
    """
    regions = [unique(name) for name in ("asia", "eu", "us")]
    struck = regions[1:]
    waves = [{**WAVE, "regions": struck}, {**WAVE, "regions": regions[:1]}]
    outages = [f"{region}:60%:@1.1.0:60s" for region in struck]
    async with release(tmp_path, regions, outages, waves, on_offline_spike="halt") as campaign:
        halted = await campaign.until(lambda seen: seen["state"] == "halted")
        decisions = await campaign.decisions()

    assert halted["sentence"].startswith("Halted after ")
    assert halted["sentence"].endswith(
        f": devices that were not updated went dark in {', '.join(struck)}, where the release is going out, and "
        "nowhere else."
    )
    assert (decisions[-1]["kind"], decisions[-1]["actor"]) == ("halt", "orchestrator")
    assert decisions[-1]["evidence"]["rule"]["bad_weather"] == struck
    assert decisions[-1]["evidence"]["rule"]["call"] != "halt"
    assert [region["level"] > 0 for region in halted["regions"]] == [False, True, True]


async def test_the_death_of_the_broker_does_not_count_against_the_release(stage: Stage, tmp_path: Path) -> None:
    """Killed while devices download and reboot, and started again on its port: all sessions drop and come back."""
    server = stage.node("server")
    await asyncio.to_thread(server.start)
    api = Api(server.url, server.token)
    lines = await add_devices(stage, api, count=2 * EACH)
    ledger = tmp_path / "ledger.jsonl"
    async with devices_of(lines, server.keys / "root.cbor", ledger):
        await until_ready(api, 2 * EACH)
        bundle = make_bundle(tmp_path, server.keys, content={"app": RELEASE})
        campaign = Release(api, await start(api, bundle, ["eu"], [WAVE]), ledger)
        await campaign.until(lambda seen: seen["states"].get("rebooting", 0) + seen["states"].get("trial", 0) >= 2)
        assert stage.broker._child is not None
        psutil.Process(stage.broker._child.pid).kill()
        await stage.broker.stop()
        await stage.broker.start()
        ended = await campaign.until(lambda seen: seen["state"] in OVER)
        decisions = await campaign.decisions()
    await api.close()
    sentences = [decision["sentence"] for decision in decisions if decision["kind"] == "pause"]

    assert "the server could not hear its devices for a while" in " ".join(sentences)
    assert [sentence for sentence in sentences if "goes on by itself" not in sentence] == []
    assert {decision["actor"] for decision in decisions[1:]} == {"orchestrator"}
    assert ended["state"] == "finished"
    assert set(ended["states"]) == {"confirmed"}
    judged = decisions[-1]["evidence"]["regions"]
    assert [(region["silent"], region["failed"]) for region in judged] == [(0, 0)]
    assert server.stop() == 0
