"""What many devices with sockets in one process cost, and what a good campaign for all of them takes.

    python -m bench.wire_fleet --devices 10000 --out bench/results

One process plays the devices of a scenario (agents, sessions, files in memory) and follows the campaign by REST; the
server, its PostgreSQL and its broker are processes of their own. ``wire_fleet.json`` says how long the fleet took to
come up and the campaign to finish, how much memory a device costs here and at the server's side, and how much processor
time each side used.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import psutil

from device_sim.scenario.model import Scenario
from device_sim.scenario.outcome import Outcome
from device_sim.serve import log_to_stderr
from server.cli.lab import wire

ROOT: Final = Path(__file__).parent.parent
NAME: Final = "wire_fleet"
SAMPLE_S: Final = 1.0
STARTS_PER_S: Final = 12
"""How many devices begin their update each real second: a third of what two processors can carry in all."""
SPEED: Final = 10.0
HEARTBEAT_S: Final = 30.0


def scenario(devices: int) -> Scenario:
    """Return a good release for so many devices in four regions: a canary, then everybody at an even rate."""
    ramp_s = max(60, round(devices / STARTS_PER_S))
    gate = {"confirmed_ratio": 0.9, "failure_ratio": 1}
    halt = {
        "block_s": 60,
        "reboot_s": 30,
        "g1_s": 90,
        "g2_s": 180,
        "slow_room": 200,
        "region_room": 2000,
        "class_room": 2000,
    }
    document: dict[str, Any] = {
        "name": "wire-fleet",
        "story": "A good release for everybody, with sockets.",
        "devices": devices,
        "duration": f"{round(4 * ramp_s * SPEED + 6 * 3600)}s",
        "heartbeat": f"{round(HEARTBEAT_S * SPEED)}s",
        "speed": SPEED,
        "fleet": [
            {"share": "25%", "region": region, "hardware": "gw100-rev-b", "sites": 100}
            for region in ("eu-north", "eu-west", "us-east", "us-west")
        ],
        "releases": [{"version": "1.1.0", "size": "64KiB"}],
        "campaigns": [
            {
                "release": "1.1.0",
                "plan": {
                    "waves": [
                        {"ratio": 0.02, "ramp_s": 10 * SPEED, "soak_s": 0, "gate": gate},
                        {"ratio": 1.0, "ramp_s": ramp_s * SPEED, "soak_s": 0, "gate": gate},
                    ]
                },
                "policy": {
                    "halt": {name: value * SPEED if name.endswith("_s") else value for name, value in halt.items()},
                    "trial_s": round(5 * SPEED),
                    "watch_s": round(30 * SPEED),
                },
            }
        ],
        "expect": {"false_halt": False, "all_confirmed": True, "max_bricked": 0, "state": "finished"},
    }
    return Scenario.model_validate(document)


@dataclass(slots=True)
class Usage:
    """Of this process and of those below it, each second: resident bytes; processor seconds at the last look."""

    own_bytes: list[int] = field(default_factory=list)
    server_bytes: list[int] = field(default_factory=list)
    own_s: float = 0.0
    server_s: float = 0.0
    open_files_most: int = 0


@contextmanager
def watched() -> Iterator[Usage]:
    """Look on for the block, from a thread: the event loop is what is measured."""
    usage, over = Usage(), Event()
    me = psutil.Process()

    def look() -> None:
        while not over.wait(SAMPLE_S):
            usage.own_bytes.append(me.memory_info().rss)
            usage.own_s = _cpu_s(me)
            usage.open_files_most = max(usage.open_files_most, me.num_fds())
            below = me.children(recursive=True)
            usage.server_bytes.append(sum(_rss(process) for process in below))
            usage.server_s = max(usage.server_s, sum(_cpu_s(process) for process in below))

    thread = Thread(target=look, name="usage")
    thread.start()
    try:
        yield usage
    finally:
        over.set()
        thread.join()


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def figures(outcome: Outcome, usage: Usage) -> dict[str, Any]:
    """Return what was measured. Memory of a device: the growth of its process from before the first one, divided."""
    (campaign,) = outcome.campaigns
    devices = outcome.devices
    updated_s = [moment.at for moment in outcome.course if moment.updated]
    confirmed_s = [moment.at for moment in outcome.course if moment.confirmed >= devices]
    grown = max(usage.own_bytes) - usage.own_bytes[0]
    return {
        "devices": devices,
        "campaign": {"state": campaign.state, "confirmed": campaign.confirmed, "sentence": campaign.sentence},
        "real_s": outcome.real_s,
        "up_s": round(outcome.real_s - outcome.fleet_s / SPEED, 1),
        "campaign_s": round((confirmed_s[0] - updated_s[0]) / SPEED, 1) if confirmed_s and updated_s else None,
        "device_kib": round(grown / devices / 1024, 1),
        "process_mib": round(max(usage.own_bytes) / 2**20),
        "open_files_most": usage.open_files_most,
        "devices_cpu_s": round(usage.own_s, 1),
        "server_cpu_s": round(usage.server_s, 1),
        "server_share": round(usage.server_s / (usage.server_s + usage.own_s), 3),
        "server_mib": round(max(usage.server_bytes) / 2**20),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for wire_fleet.json; without it nothing is written")
    arguments = parser.parse_args()
    log_to_stderr(logging.WARNING)
    with watched() as usage:
        outcome = asyncio.run(wire.run(scenario(arguments.devices), seed=arguments.seed))
    machine = {"processors": os.cpu_count(), "python": platform.python_version()}
    document = json.dumps(figures(outcome, usage) | machine, indent=2) + "\n"
    print(document, end="")
    if arguments.out is not None:
        (arguments.out / f"{NAME}.json").write_text(document)
    return 0 if outcome.campaigns[0].confirmed == arguments.devices else 1


if __name__ == "__main__":
    raise SystemExit(main())
