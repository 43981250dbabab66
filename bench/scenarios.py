"""All shipped scenarios in virtual time, at their own sizes, with several seeds: does each come to what it expects?

    python -m bench.scenarios --out bench/results

``scenarios.json`` says for each run what was found, how long it took, and the digest of its trace; the first seed is
played twice, and must give the same digest. Scenarios that are for the wire alone are named and left out.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

from device_sim.scenario.expectations import judge
from device_sim.scenario.faults import Mode
from device_sim.scenario.load import load, shipped
from device_sim.scenario.model import Scenario
from server.cli.lab import virtual

NAME: Final = "scenarios"
SEEDS: Final = (1, 2, 3)


def played(scenario: Scenario, seed: int, devices: int | None) -> dict[str, Any]:
    outcome = virtual.run(scenario, devices=devices, seed=seed, ledger=None)
    findings = judge(scenario, outcome)
    last = outcome.campaigns[-1]
    return {
        "seed": seed,
        "devices": outcome.devices,
        "held": all(finding.held for finding in findings),
        "missed": [finding.sentence for finding in findings if not finding.held],
        "state": last.state,
        "stopped_by": last.stopped_by,
        "rule": last.rule,
        "updated_at_stop": last.updated_at_stop,
        "bricked": last.bricked,
        "real_s": round(outcome.real_s, 1),
        "digest": outcome.digest,
    }


def measure(devices: int | None) -> dict[str, Any]:
    """Play all of them. ``devices``: how many, unless as many as each says."""
    runs: dict[str, Any] = {}
    for name in shipped():
        scenario = load(name)
        if Mode.VIRTUAL in scenario.modes:
            found = [played(scenario, seed, devices) for seed in SEEDS]
            again = played(scenario, SEEDS[0], devices)
            runs[name] = {"runs": found, "same_twice": again["digest"] == found[0]["digest"]}
    return {
        "scenarios": len(runs),
        "all_held": all(run["held"] for one in runs.values() for run in one["runs"]),
        "all_same_twice": all(one["same_twice"] for one in runs.values()),
        "on_the_wire_alone": [name for name in shipped() if Mode.VIRTUAL not in load(name).modes],
        "runs": runs,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, help="of each; default: as many as each says")
    parser.add_argument("--out", type=Path, help="a folder for scenarios.json; without it nothing is written")
    arguments = parser.parse_args()
    found = measure(arguments.devices)
    document = json.dumps(found, indent=2) + "\n"
    print(document, end="")
    if arguments.out is not None:
        (arguments.out / f"{NAME}.json").write_text(document)
    return 0 if found["all_held"] and found["all_same_twice"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
