"""The demo's play: set the stage, roll the good release out, let the bad one halt, judge."""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from firmware_store.errors import StoreUnavailableError
from firmware_store.root import init_dev_keys
from server.cli.client import BUNDLE_MEDIA_TYPE, Client
from server.cli.demo import stage
from server.cli.demo.releases import HARDWARE, VENDOR, Release, find_files, release, write_images
from server.cli.demo.verdict import Bad, Fate, judge
from server.cli.progress import follow
from server.domain.halt import HaltPolicy

REGIONS: Final = ("eu-north", "eu-west", "us-east", "us-west")
COHORT: Final = "gateways"
FACTORY, GOOD, BAD = "1.0.0", "1.1.0", "1.2.0"
FAULT: Final = f"brick@{BAD}=30%"

HEARTBEAT_S: Final = 2
CANARIES: Final = 48
"""How many devices the first wave is for: as many as a brick rate of 30 % needs to show with near certainty."""

RATE_PER_S: Final = 16
LAB: Final = 60
"""The halt rule's hour is a minute here."""
SCALE_FROM: Final = 400
ONLINE_S: Final = 120.0
CAMPAIGN_S: Final = 600.0
REST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Good:
    """The good campaign, counted."""

    devices: int
    confirmed: int
    seconds: float


async def run(*, devices: int, seed: int, keep: bool) -> dict[str, Any]:
    """Play it all; return the figures, whose ``problems`` are empty if all went as it must."""
    stage.end_when_told()
    console = Console(stderr=True)
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    try:
        async with AsyncExitStack() as stack:
            good_release, bad_release, factory = _prepare(folder, console)
            served = await stack.enter_async_context(
                stage.server(folder / "server", heartbeat_s=HEARTBEAT_S, keep=keep)
            )
            client = await stack.enter_async_context(Client(served.url, served.token))
            _write_fleet_file(folder / "fleet.jsonl", await _add_devices(client, devices))
            console.print(f"{devices} devices in {len(REGIONS)} regions are coming online ...", highlight=False)
            simulated = await stack.enter_async_context(
                stage.fleet(folder, seed=seed, factory=factory, fault=FAULT, keep=keep)
            )
            await _until_online(client, devices)
            online_s = time.monotonic() - begun
            console.print(f"All online after {online_s:.0f} s. Now release {GOOD}, a good one.", highlight=False)
            good = await _roll_out(client, good_release, devices, simulated.ledger)
            console.print(f"Now release {BAD}, which bricks 30 % of the devices that boot it.", highlight=False)
            campaign = await _campaign(client, bad_release, devices)
            view = await _follow(client, campaign)
            bad = await _at_rest(client, campaign, simulated.ledger, _instant(view["ended_at"]))
            by_rule = await _halted_by_rule(client, campaign)
            problems = _problems(good, bad, view, by_rule=by_rule)
            _print_verdict(good, bad, view, problems)
            if keep:
                _say_how_to_look_around(served, simulated, campaign, folder)
            return _figures(good, bad, view, problems, seconds=time.monotonic() - begun, by_rule=by_rule)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _instant(text: str | None) -> float:
    return time.time() if text is None else datetime.fromisoformat(text).timestamp()


def _prepare(folder: Path, console: Console) -> tuple[Release, Release, dict[str, Path]]:
    keys = folder / "server" / "keys"
    init_dev_keys(keys, fleet=None, now=int(time.time()))
    base = find_files()
    factory = write_images(base, FACTORY, folder / FACTORY)
    releases = []
    for sequence, version in ((1, GOOD), (2, BAD)):
        images = write_images(base, version, folder / version)
        bundle = folder / f"{version}.tgb"
        releases.append(release(images, version=version, sequence=sequence, keys=keys, output=bundle))
    sizes = ", ".join(f"{name} {path.stat().st_size:,} bytes ({path.name})" for name, path in base.items())
    console.print(f"Built {GOOD} and {BAD}, each signed by two release keys: {sizes}.", highlight=False)
    return releases[0], releases[1], factory


async def _add_devices(client: Client, count: int) -> list[dict[str, Any]]:
    """Add the devices over REST; return what the simulator needs of each."""
    wanted = [
        {"id": f"gw-{number:04}", "region": REGIONS[number % len(REGIONS)], "cohort": COHORT} for number in range(count)
    ]
    added = []
    for start in range(0, count, 500):
        answer = await client.post("/v1/devices", {"devices": wanted[start : start + 500]})
        for device in answer["devices"]:
            hardware = HARDWARE[int(device["id"][3:]) // len(REGIONS) % len(HARDWARE)]
            who = {"id": device["id"], "region": device["region"], "cohort": device["cohort"]}
            added.append({**who, "vendor": VENDOR, "hardware": hardware, **device["credential"]})
    return added


def _write_fleet_file(file: Path, devices: Sequence[Mapping[str, Any]]) -> None:
    file.touch(mode=0o600)  # it holds credentials
    file.write_text("".join(json.dumps(device) + "\n" for device in devices), encoding="utf-8")


async def _until_online(client: Client, count: int) -> None:
    deadline = time.monotonic() + ONLINE_S
    while True:
        found = await client.get_all("/v1/devices", "devices")
        online = sum(device["online"] for device in found)
        if online == count:
            return
        if time.monotonic() > deadline:
            raise StoreUnavailableError(f"Only {online} of {count} devices came online within {ONLINE_S:.0f} s.")
        await asyncio.sleep(0.3)


def _plan(devices: int) -> dict[str, Any]:
    """A canary, then everybody, at a rate that one process of simulated devices can follow."""
    canary = {"ratio": max(0.1, CANARIES / devices), "ramp_s": 10, "soak_s": 1}
    return {"waves": [canary, {"ratio": 1.0, "ramp_s": max(6, devices // RATE_PER_S), "soak_s": 1}]}


def _policy(devices: int) -> dict[str, Any]:
    """A lab's policy: the default one with its times scaled down, less so where many devices share two processors.

    What decides (tolerance, wealths, rails) is the default. A trial is longer than it takes to see a device fall
    silent, so that the halt finds devices in trial. A campaign is watched until its last devices are through theirs.
    """
    scale = max(1.0, devices / SCALE_FROM)
    trial_s = round(40 * scale)
    return {
        "halt": {**HaltPolicy().scaled(scale / LAB).model_dump(), "reboot_s": 3, "min_sentinels": 10, "slow_room": 8},
        "trial_s": trial_s,
        "watch_s": trial_s + 5,
    }


async def _campaign(client: Client, offered: Release, devices: int) -> str:
    """Upload the bundle, draft a campaign and start it; return its id."""
    bundle = await client.upload("/v1/bundles", offered.bundle, BUNDLE_MEDIA_TYPE)
    draft = {
        "name": f"gateways to {offered.version}",
        "bundle": bundle["id"],
        "cohort": COHORT,
        "regions": REGIONS,
        "plan": _plan(devices),
        "policy": _policy(devices),
        "reason": "demo",
    }
    campaign = await client.post("/v1/campaigns", draft)
    await client.post(f"/v1/campaigns/{campaign['id']}/start", {"reason": "demo"})
    return str(campaign["id"])


async def _follow(client: Client, campaign: str) -> dict[str, Any]:
    try:
        async with asyncio.timeout(CAMPAIGN_S):
            return await follow(client, campaign, until=("finished", "halted", "cancelled"))
    except TimeoutError:
        return dict(await client.get(f"/v1/campaigns/{campaign}"))


async def _roll_out(client: Client, offered: Release, devices: int, ledger: Path) -> Good:
    begun = time.monotonic()
    await _follow(client, await _campaign(client, offered, devices))
    confirmed = {
        event["device"]
        for event in stage.read_ledger(ledger)
        if event["event"] == "confirmed" and event["version"] == offered.version
    }
    found = await client.get_all("/v1/devices", "devices")
    running = sum(device["id"] in confirmed and device["running_version"] == offered.version for device in found)
    return Good(devices, running, round(time.monotonic() - begun, 1))


async def _at_rest(client: Client, campaign: str, ledger: Path, halted_at: float) -> Bad:
    """Wait until every device has come to rest after the halt, then judge; what never does shows in the verdict."""
    deadline = time.monotonic() + REST_S
    while True:
        view = await client.get(f"/v1/campaigns/{campaign}")
        devices = await client.get_all("/v1/devices", "devices")
        bad = judge(
            ledger=stage.read_ledger(ledger), campaign=view, devices=devices, halted_at=halted_at, good_version=GOOD
        )
        settled = not bad.count(Fate.UNEXPLAINED) and not bad.misplaced
        if settled or time.monotonic() > deadline:
            return bad
        await asyncio.sleep(0.5)


async def _halted_by_rule(client: Client, campaign: str) -> bool:
    answer = await client.get(f"/v1/campaigns/{campaign}/decisions")
    halts = [decision for decision in answer["decisions"] if decision["kind"] == "halt"]
    return len(halts) == 1 and halts[0]["actor"] == "orchestrator" and halts[0]["evidence"]["rule"]["call"] == "halt"


def _problems(good: Good, bad: Bad, view: Mapping[str, Any], *, by_rule: bool) -> list[str]:
    checks = (
        (good.confirmed == good.devices, f"{good.devices - good.confirmed} devices did not confirm {GOOD}"),
        (view["state"] == "halted", f"the campaign to {BAD} is {view['state']}, not halted"),
        (by_rule, "the halt was not the rule's"),
        (not bad.late_starts, f"started more than 1 s after receiving the halt: {_some(bad.late_starts)}"),
        (not bad.count(Fate.UNEXPLAINED), f"{bad.count(Fate.UNEXPLAINED)} devices are in no state that is explained"),
        (bad.count(Fate.REVERTED) >= 1, "no device reverted"),
        (not bad.misplaced, f"spared, but not online on {GOOD}: {_some(bad.misplaced)}"),
    )
    return [text for holds, text in checks if not holds]


def _some(devices: Sequence[str]) -> str:
    rest = f" and {len(devices) - 5} more" if len(devices) > 5 else ""
    return ", ".join(devices[:5]) + rest


def _figures(
    good: Good, bad: Bad, view: Mapping[str, Any], problems: Sequence[str], *, seconds: float, by_rule: bool
) -> dict[str, Any]:
    return {
        "good": {"devices": good.devices, "confirmed": good.confirmed, "seconds": good.seconds},
        "bad": {
            "halted": view["state"] == "halted" and by_rule,
            "sentence": view["sentence"],
            "due_at_halt": bad.due_at_halt,
            "started": bad.started,
            "never_started": bad.count(Fate.NEVER_STARTED),
            "stopped": bad.count(Fate.STOPPED),
            "bricked": bad.count(Fate.BRICKED),
            "reverted": bad.count(Fate.REVERTED),
            "confirmed": bad.count(Fate.CONFIRMED),
            "confirmed_devices": sorted(device for device, fate in bad.fates.items() if fate is Fate.CONFIRMED),
            "started_late": list(bad.late_starts),
            "halt_to_last_stop_ms": bad.halt_to_last_stop_ms,
        },
        "problems": list(problems),
        "seconds": round(seconds, 1),
    }


def _print_verdict(good: Good, bad: Bad, view: Mapping[str, Any], problems: Sequence[str]) -> None:
    console = Console()
    table = Table("what became of the devices", "devices", box=None, pad_edge=False)
    table.add_row(
        f"confirmed {GOOD} by their own report, in {good.seconds:.0f} s", f"{good.confirmed} of {good.devices}"
    )
    for fate in Fate:
        if fate is not Fate.UNEXPLAINED or bad.count(fate):
            table.add_row(f"{BAD}: {fate}", str(bad.count(fate)))
    table.add_row(f"{BAD}: from the halt to the last device's stop", f"{bad.halt_to_last_stop_ms} ms")
    console.print(table)
    confirmed = sorted(device for device, fate in bad.fates.items() if fate is Fate.CONFIRMED)
    if confirmed:
        console.print(f"confirmed {BAD} before the halt: {', '.join(confirmed)}", soft_wrap=True, highlight=False)
    console.print(view["sentence"] or f"{BAD} was not halted.", soft_wrap=True, highlight=False)
    if problems:
        console.print("FAILED: " + "; ".join(problems) + ".", style="bold red", soft_wrap=True, highlight=False)
    else:
        spared = good.devices - bad.count(Fate.BRICKED)
        text = f"PASSED: {good.devices} devices took {GOOD}; {BAD} was halted by the rule and {spared} were spared."
        console.print(text, style="bold green", soft_wrap=True, highlight=False)


def _say_how_to_look_around(served: stage.Served, simulated: stage.Simulated, campaign: str, folder: Path) -> None:
    command = Path(sys.executable).parent / "tidegate"
    print(f"\nStill running, with its files in {folder}. Try:")
    print(f"  export TIDEGATE_URL={served.url} TIDEGATE_TOKEN={served.token}")
    print(f"  {command} campaign show {campaign}")
    print(f"  {command} campaign decisions {campaign}")
    print(f"  {command} device ls --region {REGIONS[0]}")
    print(f"  kill {simulated.process.pid} {served.process.pid}  # ends the devices and the server")
