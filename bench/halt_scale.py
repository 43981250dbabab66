"""Time and memory of the halt rule at the size of the largest fleets; prints JSON.

Usage: ``python -m bench.halt_scale [--devices N] [--in-flight N]``. CPU seconds of a usual step and of one in which a
window of `flap` and `stay` ends, and the bytes of the rule's state in memory and as it is stored.
"""

import argparse
import json
import resource
import time
from dataclasses import fields
from typing import Any

import numpy as np

from server.domain.halt import HaltPolicy, HaltRule, Moment, Population
from server.domain.halt.view import Indices

BEGIN = 1_750_000_000.0
FULL = 1 << 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--in-flight", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=130)
    options = parser.parse_args()
    print(json.dumps(measure(options.devices, options.in_flight, options.steps), indent=2))


def measure(devices: int, in_flight: int, steps: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    fleet = Population(
        regions=tuple(f"r{each}" for each in range(8)),
        classes=tuple(f"hw{each}" for each in range(5)),
        region=rng.integers(0, 8, devices).astype(np.int16),
        hardware=rng.integers(0, 5, devices).astype(np.int16),
        height=rng.integers(0, FULL, devices, dtype=np.uint32),
        unsteady=rng.random(devices) < 0.1,
    )
    rule = HaltRule(fleet, HaltPolicy(), 1)
    order = np.argsort(fleet.height)
    last_seen = np.full(devices, BEGIN)
    none = np.empty(0, np.int64)
    per_step = max(1, in_flight // 17)  # a device is in flight for about 17 minutes
    before, times = none, []
    for step in range(1, steps + 1):
        now = BEGIN + 60 * step
        begun: Indices = order[(step - 1) * per_step : step * per_step]
        heard = rng.random(devices) < 0.997
        last_seen[heard] = now - 20
        began = time.process_time()
        verdict = rule.step(
            Moment(
                now=now,
                last_seen=last_seen,
                online=now - last_seen <= 150,
                present=np.ones(devices, np.bool_),
                level=np.full(8, int(fleet.height[order[step * per_step]]), np.int64),
                started=begun,
                rebooted=before,
                rebooted_at=np.full(len(before), now),
                over=none,
                failed=none,
                succeeded=before,
                dropped=rng.integers(0, devices, devices // 1000),
            )
        )
        times.append(time.process_time() - began)
        before = begun
    began = time.process_time()
    stored = rule.dump()
    dumping = time.process_time() - began
    return {
        "devices": devices,
        "in_flight": verdict.in_flight,
        "steps": steps,
        "step_cpu_s_median": round(float(np.median(times)), 4),
        "step_cpu_s_most": round(max(times), 4),
        "dump_cpu_s": round(dumping, 4),
        "stored_bytes": len(stored),
        "state_bytes": state_bytes(rule),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "blocks_open": len(rule.trials.ledger.number),
        "trials_open": len(rule.trials.ledger.device),
    }


def state_bytes(rule: HaltRule) -> int:
    """Return the bytes of all arrays the rule keeps between steps, the population's own not among them."""
    parts: list[Any] = [rule.roster, rule.trials, rule.trials.ledger, rule.weather, rule.wealth, rule.windows]
    arrays = [getattr(part, each.name) for part in parts for each in fields(part)]
    arrays += [*rule.world.members, rule.sentinels]
    return sum(each.nbytes for each in arrays if isinstance(each, np.ndarray))


if __name__ == "__main__":
    main()
