"""All shipped scenarios at their own sizes, with several seeds: does each come to what it expects?

    python -m bench.scenarios --out bench/results
    python -m bench.scenarios --mode wire --out bench/results

In virtual time, or on the wire those that are for the wire alone, each on a server of its own (under an hour).
``scenarios_virtual.json`` and ``scenarios_wire.json`` say for each run what was found, how long it took, and its
digest: of its trace, or on the wire of its cast. In virtual time the first seed is played twice, and must give the
same digest.
"""

import argparse
import asyncio
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from device_sim.scenario.expectations import judge
from device_sim.scenario.faults import Mode
from device_sim.scenario.load import load, shipped
from device_sim.scenario.model import Scenario
from server.cli.lab import virtual, wire

SEEDS: Final = (1, 2, 3)


def played(scenario: Scenario, mode: Mode, seed: int, devices: int | None) -> dict[str, Any]:
    if mode is Mode.VIRTUAL:
        outcome = virtual.run(scenario, devices=devices, seed=seed, ledger=None)
    else:
        outcome = asyncio.run(wire.run(scenario, devices=devices, seed=seed))
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


def measure(
    mode: Mode, devices: int | None, seeds: Sequence[int], names: Collection[str] | None = None
) -> dict[str, Any]:
    """Play all that are for ``mode`` first of all, or those of ``names``. ``devices``: unless as many as each says."""
    runs: dict[str, Any] = {}
    for name in shipped() if names is None else names:
        scenario = load(name)
        if mode is not (Mode.VIRTUAL if Mode.VIRTUAL in scenario.modes else Mode.WIRE):
            continue
        found = [played(scenario, mode, seed, devices) for seed in seeds]
        runs[name] = {"runs": found}
        if mode is Mode.VIRTUAL:
            again = played(scenario, mode, seeds[0], devices)
            runs[name]["same_twice"] = again["digest"] == found[0]["digest"]
    return {
        "mode": mode.value,
        "scenarios": len(runs),
        "all_held": all(run["held"] for one in runs.values() for run in one["runs"]),
        "all_same_twice": all(one.get("same_twice", True) for one in runs.values()),
        "runs": runs,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", type=Mode, choices=list(Mode), default=Mode.VIRTUAL)
    parser.add_argument("--scenario", nargs="+", choices=shipped(), help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--devices", type=int, help="of each; default: as many as each says")
    parser.add_argument("--out", type=Path, help="a folder for scenarios_MODE.json; without it nothing is written")
    arguments = parser.parse_args()
    found = measure(arguments.mode, arguments.devices, arguments.seeds, arguments.scenario)
    document = json.dumps(found, indent=2) + "\n"
    print(document, end="")
    if arguments.out is not None:
        (arguments.out / f"scenarios_{arguments.mode.value}.json").write_text(document)
    return 0 if found["all_held"] and found["all_same_twice"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
