"""A day of many devices in virtual time: how long it takes, what it costs, and what came of it.

    python -m bench.virtual_fleet --devices 100000 --out bench/results

One process: the agents' cores, the server's decisions, and every signature. ``virtual_fleet.json`` says how long it
took, how many things happened, and how much memory and processor time a device costs.
"""

import argparse
import json
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any, Final

from device_sim.scenario.model import Scenario
from device_sim.scenario.outcome import Outcome
from server.cli.lab import virtual

NAME: Final = "virtual_fleet"


def scenario(devices: int) -> Scenario:
    """Return a good release for a fleet on mobile lines, with naps, nights, sites that fail, and a day to do it in."""
    document: dict[str, Any] = {
        "name": "virtual-fleet",
        "story": "A good release for everybody, in a day.",
        "devices": devices,
        "duration": "24h",
        "links": {"lte": {"latency": "80ms", "jitter": "40ms", "loss": "0.5%", "bandwidth": "512KiB/s"}},
        "fleet": [
            {
                "share": "50%",
                "region": "eu",
                "hardware": "gw100-rev-b",
                "link": "lte",
                "sites": max(1, devices // 50),
                "offline": {"naps_per_day": 0.3, "nap": "10m", "site_outages_per_day": 0.02, "site_outage": "30m"},
            },
            {
                "share": "50%",
                "region": "us",
                "hardware": "gw100-rev-c",
                "offline": {"naps_per_day": 0.2, "nap": "30m", "diurnal": "5%"},
            },
        ],
        "releases": [{"version": "1.1.0", "size": "2MiB"}],
        "campaigns": [{"release": "1.1.0", "policy": {"confirm_s": 43200, "watch_s": 43200}}],
        "expect": {"false_halt": False, "max_bricked": 0},
    }
    return Scenario.model_validate(document)


def figures(outcome: Outcome, cpu_s: float) -> dict[str, Any]:
    """Return what was measured; memory is the most that the process had, all of it."""
    (campaign,) = outcome.campaigns
    most_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "devices": outcome.devices,
        "fleet_h": outcome.fleet_s / 3600,
        "campaign": {"state": campaign.state, "confirmed": campaign.confirmed, "sentence": campaign.sentence},
        "stopped_by": campaign.stopped_by,
        "reachable_unconfirmed": campaign.reachable_unconfirmed,
        "real_s": round(outcome.real_s, 1),
        "cpu_s": round(cpu_s, 1),
        "device_ms": round(1000 * cpu_s / outcome.devices, 2),
        "process_mib": round(most_bytes / 2**20),
        "device_kib": round(most_bytes / outcome.devices / 1024, 1),
        "digest": outcome.digest,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for virtual_fleet.json; without it nothing is written")
    arguments = parser.parse_args()
    began_s = time.process_time()
    outcome = virtual.run(scenario(arguments.devices), devices=None, seed=arguments.seed, ledger=None)
    machine = {"processors": os.cpu_count(), "python": platform.python_version()}
    document = json.dumps(figures(outcome, time.process_time() - began_s) | machine, indent=2) + "\n"
    print(document, end="")
    if arguments.out is not None:
        (arguments.out / f"{NAME}.json").write_text(document)
    return 0 if not outcome.campaigns[0].stopped_by else 1


if __name__ == "__main__":
    raise SystemExit(main())
