"""One trace in virtual time and with real agents: the same verdict, and the same victims."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.domain.halt import HaltPolicy, HaltRule
from server.domain.identity import CampaignId, Region
from server.domain.plan import Plan, Policy, Wave
from server.services import identifiers
from server.services.replay.run import replay
from server.services.replay.world import population_of
from server.traces.fates import Fate, Fates
from server.traces.format import Away, Devices, Expect, Fault, Head, Lognormal, Mqtt, Release, Trace, write_trace
from tests.servers import HARDWARE, Api, make_bundle, shared_server, simulated, unique

pytestmark = pytest.mark.slow

FACTOR = 180
DEVICES = 100
HOURS = 3
WAIT_S = 90.0


def bad_release(region: str) -> Trace:
    """Half of the devices that boot 1.1.0 never return; every tenth device is away for a while, again and again."""
    away = np.repeat(np.arange(0, DEVICES, 10), HOURS)
    start = np.tile(np.arange(HOURS) * 3600.0 + 1800, DEVICES // 10) + away
    return Trace(
        Head(
            name="half",
            seed=1,
            tick=60,
            duration=HOURS * 3600,
            t0=datetime(2025, 1, 6, 9, tzinfo=UTC),
            mqtt=Mqtt(heartbeat=180, keepalive=60, lwt=True),
            devices=DEVICES,
        ),
        Release(fw="1.1.0", reboot=Lognormal(median=60, sigma=0.3), faults=(Fault(kind="brick", p=0.5),)),
        Devices(
            ids=[f"{region}-{number:03}" for number in range(DEVICES)],
            regions=(region,),
            classes=(HARDWARE,),
            sites=("here",),
            region=np.zeros(DEVICES, np.int16),
            hardware=np.zeros(DEVICES, np.int16),
            site=np.zeros(DEVICES, np.int32),
            unsteady=np.zeros(DEVICES, np.bool_),
            wake_s=np.zeros(DEVICES),
        ),
        Away(away, start, start + 900),
        Expect(verdict="halt"),
    )


def policy_and_plan(region: str) -> tuple[Policy, Plan]:
    """Room for everybody, so that there is much to see at the first deadline, whatever the devices' order is.

    A reboot of 360 s is two seconds of ours: agents are not faster.
    """
    halt = HaltPolicy(reboot_s=360, region_room=100, class_room=100)
    wave = Wave(regions=(Region(region),), ratio=0.8, count=None, ramp_s=1800, soak_s=0)
    return Policy(halt=halt), Plan(waves=(wave,))


async def until_over(api: Api, campaign: str) -> Any:
    """Return the campaign when it has been stopped, or what has become of it when the time is over."""
    seen: Any = None
    with suppress(TimeoutError):
        async with asyncio.timeout(WAIT_S):
            while seen is None or not (seen["state"] in {"halted", "finished"} or "evidence" in seen["causes"]):
                await asyncio.sleep(0.2)
                seen = (await api.get(f"/v1/campaigns/{campaign}")).body
    return seen


async def test_a_bad_release_ends_for_real_as_its_replay_does_and_strikes_the_same_devices(tmp_path: Path) -> None:
    region, server = unique("eu"), shared_server()
    trace, file, ledger = bad_release(region), tmp_path / "trace.jsonl.gz", tmp_path / "ledger.jsonl"
    write_trace(file, trace)
    policy, plan = policy_and_plan(region)
    quick = {"halt": policy.halt.scaled(1 / FACTOR).model_dump(), "trial_s": 1, "watch_s": 60}
    options = ["--trace", str(file), "--factor", str(FACTOR), "--ledger", str(ledger)]
    api = Api(server.url, server.token)

    with simulated(server, tmp_path, devices=0, regions=[], factory=b"the factory's app. " * 900, options=options):
        async with asyncio.timeout(WAIT_S):
            while "READY" not in (tmp_path / "sim.log").read_text():
                await asyncio.sleep(0.1)
        bundle = (await api.upload(make_bundle(tmp_path, server.keys).read_bytes())).body["id"]
        draft = {"name": "half", "bundle": bundle, "cohort": "main", "regions": [region], "policy": quick}
        waves = [wave.model_dump(mode="json") | {"ramp_s": 10} for wave in plan.waves]
        campaign = (await api.post("/v1/campaigns", draft | {"plan": {"waves": waves}})).body["id"]
        assert (await api.post(f"/v1/campaigns/{campaign}/start", {})).status == 200
        seen = await until_over(api, campaign)
        decisions = (await api.get(f"/v1/campaigns/{campaign}/decisions")).body["decisions"]
    await api.close()
    population = population_of(trace, CampaignId(identifiers.parse(identifiers.CAMPAIGN, campaign)))
    played = replay(trace, HaltRule(population, policy.halt, 1), population, plan=plan, policy=policy)

    facts = [json.loads(line) for line in ledger.read_text().splitlines()]
    bricks = {name for name, fate in zip(trace.devices.ids, Fates(trace).fate, strict=True) if fate == Fate.BRICK}
    booted = {fact["device"] for fact in facts if fact["event"] in {"booted", "bricked"} and fact["version"] == "1.1.0"}
    assert {fact["device"] for fact in facts if fact["event"] == "bricked"} == booted & bricks
    assert played.verdict == "halt"
    assert seen["state"] == "halted", decisions
    assert decisions[0]["evidence"]["rule"]["channel"] == played.channel == "g1"
