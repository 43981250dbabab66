"""How good the halt rule is: false stops of good releases, and devices lost to bad ones, beside other rules.

``python -m bench.halt_quality`` plays campaigns of 20,000 devices in virtual time: for each scenario many seeds, each
a fleet with outages of its own. Every campaign is a JSON line in ``bench/results/halt_quality/SCENARIO.jsonl``; those
that are there already, made by the same code, are not played again. ``bench/results/halt_quality.json`` and ``.md``
are the summary, with Clopper-Pearson intervals of 95 %. ``--against FOLDER`` compares with results of
whatever code, and says how many campaigns still end as they did.
"""

import argparse
import ast
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.halt_quality_rules import Panel, Stop
from bench.halt_quality_summary import compare, summarise, table
from server.domain.halt import HaltPolicy, HaltRule
from server.domain.halt.view import Population
from server.domain.plan import Gate, Plan
from server.services.replay.engine import plan_of_a_day
from server.services.replay.run import replay
from server.services.replay.scenarios import make_trace
from server.services.replay.world import population_of

ROOT: Final = Path(__file__).parent.parent
SOURCES: Final = (
    "server/domain/halt",
    *(
        f"server/domain/{name}.py"
        for name in ("bounds", "campaign", "decide", "gate", "late", "paced", "plan", "snapshot", "wave_gate")
    ),
    "server/domain/standstill.py",
    "server/services/transitions.py",
    *(
        f"server/services/replay/{name}.py"
        for name in ("background", "scenarios", "world", "executions", "engine", "run", "neighbours")
    ),
    "server/traces",
    "bench/halt_quality_rules.py",
)
CAMPAIGNS: Final = {
    "healthy": 600,
    "brick-0.5": 100,
    "brick-2": 100,
    "brick-5": 100,
    "brick-30": 100,
    "hardware": 100,
    "region": 100,
    "flapping": 100,
    "late": 100,
    "storms": 100,
    "asleep": 100,
    "asleep-brick-5": 100,
    "small-30": 200,
    "small-100": 200,
    "small-500": 200,
    "small-30-brick-30": 100,
    "small-100-brick-30": 100,
    "small-500-brick-30": 100,
}
"""How many seeds of each scenario."""
COMPARED: Final = {"healthy": 100}
COMPARED_OF_OTHERS: Final = 25
"""So many of them, the first ones, under the other rules, too."""


@dataclass(frozen=True, slots=True)
class Task:
    scenario: str
    seed: int
    devices: int
    code: str


def play(task: Task) -> dict[str, Any]:
    """Play one campaign under the halt rule, and the first ones under all the others, too; return its line."""
    trace = make_trace(task.scenario, devices=task.devices, seed=task.seed)
    population = population_of(trace)
    began = os.times()
    ours = replay(trace, HaltRule(population, HaltPolicy(), task.seed), population)
    ended = os.times()
    line = {
        "code": task.code,
        "scenario": task.scenario,
        "seed": task.seed,
        "devices": trace.head.devices,
        "cpu_s": round(ended.user + ended.system - began.user - began.system, 2),
        "tidegate": {
            "verdict": ours.verdict,
            "channel": ours.channel,
            "scope": ours.scope,
            "bricked": ours.bricked,
            "started": ours.started,
            "at_s": ours.virtual_s,
            "completed_s": ours.completed_s,
            "pauses": ours.pauses,
            "braked": "brake" in ours.seen,
            "why": ours.sentence,
        },
    }
    if task.seed > COMPARED.get(task.scenario, COMPARED_OF_OTHERS):
        return line
    panel = Panel(population)
    free = replay(trace, panel, population, plan=ungated(population), watch=False, on_tick=panel.note)
    return {
        **line,
        "without": {"completed_s": free.completed_s, "bricked": free.bricked, "started": free.started},
        **{name: _stopped(panel.stops.get(name), free.bricked, trace.epoch) for name in panel.names},
    }


def ungated(population: Population) -> Plan:
    """Return the plan of the replay with gates that everything passes: what others judge is not stopped by ours."""
    gate = Gate(confirmed_ratio=0, failure_ratio=1)
    return Plan(waves=tuple(wave.model_copy(update={"gate": gate}) for wave in plan_of_a_day(population).waves))


def _stopped(stop: Stop | None, never: int, epoch: float) -> dict[str, Any]:
    if stop is None or stop.count is None:
        return {"verdict": "complete", "bricked": never}
    return {"verdict": stop.call.name.lower(), "bricked": stop.count.suffering, "at_s": stop.at - epoch}


def code_digest() -> str:
    """Return a digest of the code that results depend on; comments and formatting do not count."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(ast.dump(_bare(ast.parse(file.read_bytes()))).encode())
    return digest.hexdigest()[:12]


def _bare(tree: ast.Module) -> ast.Module:
    """Take the docstrings out."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                each for each in body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ]
    return tree


def wanted(scenarios: Sequence[str], fraction: float, devices: int, code: str) -> Iterator[Task]:
    """Yield the campaigns in rounds, so that a run cut short has some of every scenario."""
    counts = {name: max(1, math.ceil(CAMPAIGNS[name] * fraction)) for name in scenarios}
    for seed in range(1, max(counts.values()) + 1):
        yield from (Task(name, seed, devices, code) for name in scenarios if seed <= counts[name])


def read_lines(folder: Path, code: str | None, devices: int) -> list[dict[str, Any]]:
    """Return the campaigns that were played by this code (None: any), in fleets of this size."""
    lines = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    sized = [line for line in lines if line["devices"] == devices or line["scenario"].startswith("small-")]
    return [line for line in sized if code in {None, line["code"]}]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=20_000)
    parser.add_argument("--fraction", type=float, default=1.0, help="of the seeds of each scenario")
    parser.add_argument("--scenario", action="append", choices=CAMPAIGNS, help="only these")
    parser.add_argument("--seeds", type=int, help="so many seeds of each scenario at most")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results")
    parser.add_argument("--code", default=None, help="take results of this digest for ours, and play none")
    parser.add_argument("--against", type=Path, help="compare with the results in this folder, of whatever code")
    arguments = parser.parse_args()
    code = arguments.code or code_digest()
    folder = arguments.out / "halt_quality"
    folder.mkdir(parents=True, exist_ok=True)
    there = {(line["scenario"], line["seed"]) for line in read_lines(folder, code, arguments.devices)}
    tasks = [
        task
        for task in wanted(arguments.scenario or list(CAMPAIGNS), arguments.fraction, arguments.devices, code)
        if (task.scenario, task.seed) not in there and (arguments.seeds is None or task.seed <= arguments.seeds)
    ]
    if arguments.code is None:
        _play_all(tasks, arguments.jobs, folder)
    lines = read_lines(folder, code, arguments.devices)
    summary = summarise(lines, code, list(CAMPAIGNS))
    if arguments.against is not None:
        comparison = compare(lines, read_lines(arguments.against / "halt_quality", None, arguments.devices))
        print(comparison.says, file=sys.stderr)
        summary["complaints"] += [] if comparison.is_same else [f"Is this another rule? {comparison.says}"]
    (arguments.out / "halt_quality.json").write_text(json.dumps(summary, indent=1) + "\n")
    (arguments.out / "halt_quality.md").write_text(table(summary))
    print(table(summary))
    for complaint in summary["complaints"]:
        print(complaint, file=sys.stderr)
    return 1 if summary["complaints"] else 0


def _play_all(tasks: list[Task], jobs: int, folder: Path) -> None:
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        queue = iter(tasks)
        running = [pool.submit(play, task) for task in islice(queue, 2 * jobs)]
        for done in range(len(tasks)):
            line = running.pop(0).result()
            running += [pool.submit(play, task) for task in islice(queue, 1)]
            with (folder / f"{line['scenario']}.jsonl").open("a") as file:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
            ours = line["tidegate"]
            print(
                f"{done + 1}/{len(tasks)} {line['scenario']} {line['seed']}: {ours['verdict']} {ours['channel']} "
                f"{ours['bricked']} bricked, {line['cpu_s']} s",
                file=sys.stderr,
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
