"""How lists, filters and a campaign's page answer with a small and with a large inventory; prints JSON.

Usage: ``nice python -m bench.inventory [--devices 10000 1000000] [--requests 200] [--out FILE]``. One server after the
other on databases of one PostgreSQL; requests come one after the other. Milliseconds at the client, the ratio of the
largest to the smallest fleet, and how long the server's start takes and what memory it needs.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bench.inventory_stage import COHORT, REGIONS, Stage
from bench.messages import counting
from server.cli.client import Client
from server.embedded import EmbeddedBroker, EmbeddedPostgres
from server.services.cursors import Cursors

RATIO_MOST: Final = 3.0
WARM: Final = 20
"""Requests before those that are counted."""

EVERY_S: Final = 0.05
"""One request so often, however quick it was: a campaign over the fleet is evaluated meanwhile, about once a second."""

OPEN_S: Final = 600.0
POLL_S: Final = 0.1

FILTERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "filter: region, version and label": "region = eu-west AND version < 1.10.0 AND labels.rack:*",
        "filter: not a label": "NOT labels.site = dock",
        "filter: a version that nobody runs": "version > 1.10.0",
        "filter: claimed and never seen": "claimed = true AND NOT last_seen:*",
        "filter: online": "online = false AND region = sa-east",
        "filter: an id's beginning": "id = gw-00000*",
    }
)
RARE: Final[Mapping[str, str]] = MappingProxyType(
    {"filter: a rare label": "labels.site = dock", "filter: long unseen": "last_seen < now-30d"}
)
"""A thousandth of a fleet: in pages that the small one fills as well, or pages of 10 and of 100 would be compared."""

PAGE: Final = 100
RARE_PAGE: Final = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(asyncio.run(measure(options.devices, options.requests)), indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


async def measure(sizes: Sequence[int], requests: int) -> dict[str, Any]:
    home = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    home.chmod(0o711)
    try:
        async with EmbeddedPostgres(home / "db") as postgres, EmbeddedBroker(home / "mq") as broker:
            fleets = {size: await _measure(Stage(home, postgres, broker, size), requests) for size in sizes}
    finally:
        shutil.rmtree(home)
    least, most = fleets[min(sizes)], fleets[max(sizes)]
    ratios = {name: round(most["ms"][name]["p99"] / least["ms"][name]["p99"], 2) for name in most["ms"]}
    return {
        "requests": requests,
        "fleets": {str(size): fleet for size, fleet in fleets.items()},
        "p99_ratio": ratios,
        "p99_ratio_most": max(ratios.values()),
        "within": max(ratios.values()) <= RATIO_MOST,
    }


async def _measure(stage: Stage, requests: int) -> dict[str, Any]:
    copy_s = await stage.seed()
    async with stage.serving() as server, Client(server.url, server.token) as client:
        started = {"start_s": round(server.start_s, 2), "memory_bytes": server.memory_bytes("VmRSS")}
        campaign = await begin_campaign(stage, client)
        cursors = await stage.cursors()
        times = {"list": await _timed(requests, _page(client, cursors, stage.devices, None))}
        for name, text in FILTERS.items():
            times[name] = await _timed(requests, _page(client, cursors, stage.devices, text))
        for name, text in RARE.items():
            times[name] = await _timed(requests, _first_page(client, text))
        times["campaign page"] = await _timed(requests, lambda _: client.get(f"/v1/campaigns/{campaign['id']}"))
        times["campaigns"] = await _timed(requests, lambda _: client.get("/v1/campaigns"))
        moved = await _operation(client)
        halted = await halt(stage, client, campaign["id"])
        most = server.memory_bytes("VmHWM")
    return {
        "devices": stage.devices,
        "copy_s": round(copy_s, 2),
        **started,
        "memory_most_bytes": most,
        "campaign_create_ms": campaign["create_ms"],
        "campaign_start_ms": campaign["start_ms"],
        "first_wave_s": campaign["first_wave_s"],
        "halt_ms": halted["ms"],
        "messages": {"opening a wave": campaign["messages"], "halting": halted["messages"]},
        "operation": moved,
        "ms": times,
    }


def _page(client: Client, cursors: Cursors, devices: int, text: str | None) -> Callable[[int], Awaitable[Any]]:
    """Ask for pages all over the fleet."""
    only = {} if text is None else {"filter": text}

    async def ask(number: int) -> Any:
        after = cursors.seal("devices", f"gw-{number * 7919 % devices:07d}")
        return await client.get("/v1/devices", limit=PAGE, cursor=after, **only)

    return ask


def _first_page(client: Client, text: str) -> Callable[[int], Awaitable[Any]]:
    async def ask(_number: int) -> Any:
        answer = await client.get("/v1/devices", limit=RARE_PAGE, filter=text)
        if len(answer["devices"]) != RARE_PAGE:
            raise SystemExit(f"{text}: {len(answer['devices'])} devices on a page of {RARE_PAGE}")
        return answer

    return ask


async def _timed(requests: int, ask: Callable[[int], Awaitable[Any]]) -> dict[str, float]:
    taken = []
    for number in range(-WARM, requests):
        began = time.perf_counter()
        await ask(number + WARM)
        took_s = time.perf_counter() - began
        if number >= 0:
            taken.append(took_s * 1000)
        await asyncio.sleep(max(0.0, EVERY_S - took_s))
    ordered = sorted(taken)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))], 2),
        "most": round(ordered[-1], 2),
    }


async def begin_campaign(stage: Stage, client: Client) -> dict[str, Any]:
    """Draft and start a campaign over all devices, wait until its first wave is open, and count what that published."""
    bundle = await stage.push_release(client)
    draft = {
        "name": "bench",
        "bundle": bundle,
        "cohort": COHORT,
        "regions": REGIONS,
        "plan": {"waves": [{"ratio": 0.2, "ramp_s": 3600, "soak_s": 86_400}, {"ratio": 1}]},
    }
    async with counting(stage) as messages:
        began = time.perf_counter()
        campaign = await client.post("/v1/campaigns", draft)
        drafted = time.perf_counter()
        await client.post(f"/v1/campaigns/{campaign['id']}/start", {"reason": "bench"})
        started = time.perf_counter()
        async with asyncio.timeout(OPEN_S):
            while (await client.get("/v1/campaigns"))["campaigns"][0]["wave"] is None:
                await asyncio.sleep(POLL_S)
        opened = time.perf_counter()
        count = await messages.taken(at_least=2 * len(REGIONS))  # the wave, and the first stretch of its line
    return {
        "id": campaign["id"],
        "create_ms": round((drafted - began) * 1000, 1),
        "start_ms": round((started - drafted) * 1000, 1),
        "first_wave_s": round(opened - started, 1),
        "messages": count,
    }


async def halt(stage: Stage, client: Client, campaign: str) -> dict[str, Any]:
    """Halt it, and count what that published."""
    async with counting(stage) as messages:
        began = time.perf_counter()
        await client.post(f"/v1/campaigns/{campaign}/halt", {"reason": "bench"})
        took_s = time.perf_counter() - began
        count = await messages.taken(at_least=len(REGIONS))
    return {"ms": round(took_s * 1000, 1), "messages": count}


async def _operation(client: Client) -> dict[str, Any]:
    """Label a fortieth of the fleet: how long it takes to be shown, to be accepted, and to be carried out."""
    wanted = {"filter": "labels.rack = 7", "change": {"labels": {"ring": "1"}}}
    began = time.perf_counter()
    plan = await client.post("/v1/operations?dry_run=true", wanted)
    shown = time.perf_counter()
    operation = await client.post("/v1/operations", {**wanted, "plan_hash": plan["plan_hash"]})
    accepted = time.perf_counter()
    while operation["state"] == "running":
        await asyncio.sleep(0.5)
        operation = await client.get(f"/v1/operations/{operation['id']}")
    if operation["state"] != "done":
        raise SystemExit(f"the operation is {operation['state']}: {operation['errors']}")
    return {
        "devices": operation["done"],
        "shown_s": round(shown - began, 2),
        "accepted_s": round(accepted - shown, 2),
        "carried_out_s": round(time.perf_counter() - accepted, 1),
    }


if __name__ == "__main__":
    main()
