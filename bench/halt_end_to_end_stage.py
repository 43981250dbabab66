"""One campaign for real: a server process with its database and broker, and a process of agents that follow a trace."""

import asyncio
import json
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Final

from bench.halt_end_to_end_cases import VERSION, make_plan, make_policy, scaled
from device_sim.inventory import add_devices, newcomers_of
from firmware_store.bundle import build_bundle, read_envelope, replace_envelope
from firmware_store.keys import load_key
from firmware_store.root import init_dev_keys
from firmware_store.suit import parse_version, sign_envelope
from server.cli.client import BUNDLE_MEDIA_TYPE, Client
from server.cli.demo import stage
from server.traces.fates import Fate, Fates
from server.traces.format import Trace, read_trace

VENDOR: Final = "bench.tidegate.dev"
COHORT: Final = "bench"
FACTORY: Final = "1.0.0"
IMAGE_BYTES: Final = 8_192
CONNECTS_PER_S: Final = 100
READY_S: Final = 120.0
POLL_S: Final = 0.5
MARGIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How it ended, in the words of a replay; ``after_s`` in the trace's time, ``cores`` that all processes kept busy.

    ``bricked``: dark or flapping because of the release, of the ``rebooted`` ones, at the decision.
    ``pauses`` of the whole campaign: one that waits for the weather of a single region is not paused, and a replay
    counts that, too.
    """

    campaign: str
    verdict: str
    channel: str
    scope: str
    sentence: str
    started: int
    rebooted: int
    bricked: int
    after_s: float
    pauses: int
    real_s: float
    cores: float


async def run(trace_file: Path, folder: Path, *, factor: float, heartbeat_s: int) -> Ran:
    """Run the trace's release as a campaign, ``factor`` times faster than the trace.

    Raises:
        StoreUnavailableError: a process did not start.
    """
    stage.end_when_told()
    trace = read_trace(trace_file)
    before, began = _cpu_s(), time.monotonic()
    keys = folder / "server" / "keys"
    init_dev_keys(keys, fleet=None, now=int(time.time()))
    factory = _image(folder / "factory.img", 1)
    async with (
        stage.server(folder / "server", heartbeat_s=heartbeat_s, keep=False) as served,
        Client(served.url, served.token) as client,
    ):
        wanted = newcomers_of(trace, cohort=COHORT, vendor=VENDOR)
        entries, _ = await add_devices(served.url, served.token, wanted)
        lines = [
            json.dumps({name: value for name, value in asdict(one).items() if value is not None}) for one in entries
        ]
        (folder / "fleet.jsonl").write_text("\n".join(lines) + "\n")
        bundle = await client.upload("/v1/bundles", _bundle(trace, folder, keys), BUNDLE_MEDIA_TYPE)
        options = ("--trace", str(trace_file), "--factor", str(factor), "--connects-per-s", str(CONNECTS_PER_S))
        async with stage.fleet(folder, seed=1, factory={"app": factory}, options=options) as simulated:
            await _until_ready(folder / "devices.log", len(trace.devices))
            ready_at = time.time()
            campaign = await _start(client, bundle["id"], trace, factor)
            view, pauses = await _follow(client, campaign, until=ready_at + trace.head.duration / factor + MARGIN_S)
            decisions = (await client.get(f"/v1/campaigns/{campaign}/decisions?limit=1000"))["decisions"]
            ended_at = _decided_at(decisions, view)
            counts = count(simulated.ledger, trace, until=ended_at)
    verdict, channel, scope = verdict_of(view, decisions)
    real_s = time.monotonic() - began
    return Ran(
        campaign=campaign,
        verdict=verdict,
        channel=channel,
        scope=scope,
        sentence=view["sentence"],
        started=counts["started"],
        rebooted=counts["rebooted"],
        bricked=counts["bricked"],
        after_s=round((ended_at - ready_at) * factor),
        pauses=pauses,
        real_s=round(real_s, 1),
        cores=round((_cpu_s() - before) / real_s, 2),
    )


def _image(path: Path, seed: int) -> Path:
    path.write_bytes(Random(seed).randbytes(IMAGE_BYTES))
    return path


def _bundle(trace: Trace, folder: Path, keys: Path) -> Path:
    output = folder / "release.tgb"
    build_bundle(
        output,
        images={"app": _image(folder / "release.img", 2)},
        vendor=VENDOR,
        models=list(trace.devices.classes),
        version=parse_version(VERSION),
        sequence_number=1,
        description=trace.head.name,
    )
    envelope = read_envelope(output)
    for name in ("release-1.pem", "release-2.pem"):
        envelope = sign_envelope(envelope, load_key(keys / name, None))
    replace_envelope(output, envelope)
    return output


async def _until_ready(log: Path, count: int) -> None:
    async with asyncio.timeout(READY_S + count / CONNECTS_PER_S):
        while f"READY {count}" not in log.read_text(encoding="utf-8", errors="replace"):
            await asyncio.sleep(0.1)


async def _start(client: Client, bundle: str, trace: Trace, factor: float) -> str:
    plan, policy = scaled(make_plan(trace), make_policy(), factor)
    draft = {
        "name": trace.head.name,
        "bundle": bundle,
        "cohort": COHORT,
        "regions": list(trace.devices.regions),
        "plan": plan,
        "policy": policy,
        "reason": "bench",
    }
    campaign = (await client.post("/v1/campaigns", draft))["id"]
    await client.post(f"/v1/campaigns/{campaign}/start", {"reason": "bench"})
    return str(campaign)


async def _follow(client: Client, campaign: str, *, until: float) -> tuple[dict[str, Any], int]:
    """Return the campaign's last view, when it has stopped or at ``until``, and how often it was paused."""
    pauses, was_paused = 0, False
    while True:
        view = await client.get(f"/v1/campaigns/{campaign}")
        is_paused = view["state"] == "paused"
        pauses += is_paused and not was_paused
        was_paused = is_paused
        if view["state"] in {"halted", "finished"} or "evidence" in view["causes"] or time.time() >= until:
            return view, pauses
        await asyncio.sleep(POLL_S)


def verdict_of(view: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Return the replay's words for a campaign's end: verdict, channel, scope. ``decisions``: the newest first."""
    if view["state"] == "halted" or "evidence" in view["causes"]:
        last = next(one for one in decisions if one["kind"] in {"halt", "pause"})
        rule = last["evidence"].get("rule", {})
        return "halt" if view["state"] == "halted" else "hold", rule.get("channel", ""), rule.get("scope", "")
    if "gate" in view["causes"]:
        return "hold", "gate", "fleet"
    return "complete" if view["state"] in {"watching", "finished"} else "unfinished", "", ""


def _decided_at(decisions: list[dict[str, Any]], view: Mapping[str, Any]) -> float:
    """Return when the verdict fell (Unix seconds): the halt, the pause, or the end of the last wave."""
    kinds = {"halt", "pause"} if view["state"] in {"halted", "paused"} else {"complete"}
    at = next((one["at"] for one in decisions if one["kind"] in kinds), None)
    return time.time() if at is None else datetime.fromisoformat(at).timestamp()


def count(ledger: Path, trace: Trace, *, until: float) -> dict[str, int]:
    """Count the devices to which it had really happened by then (Unix seconds), as a replay counts them."""
    fates = dict(zip(trace.devices.ids, Fates(trace).fate, strict=True))
    found: dict[str, set[str]] = {"started": set(), "rebooted": set(), "bricked": set()}
    for fact in stage.read_ledger(ledger):
        device, event = fact["device"], fact["event"]
        if fact["t"] > until:
            continue
        if event == "started":
            found["started"].add(device)
        elif event == "rebooting":
            found["rebooted"].add(device)
            if fates[device] == Fate.BRICK:
                found["bricked"].add(device)
        elif event == "died" or (event == "confirmed" and fates[device] == Fate.FLAP):
            found["bricked"].add(device)
    return {name: len(devices) for name, devices in found.items()}


def _cpu_s() -> float:
    """Processor seconds of this process and of all that have ended below it."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
