"""Whether real campaigns end as their replays do: the same traces with and without a server, a broker and agents.

    python -m bench.halt_end_to_end --devices 2000 --factor 60 --out bench/results

Each release (``bench.halt_end_to_end_cases``) goes out for real, on a clock that is ``factor`` times faster: a server
process with its own PostgreSQL and MQTT broker, a signed bundle, and a process of agents that are offline when the
trace says so and meet its fate. Then ``tidegate halt replay`` plays the same trace with the same plan and policy, and
the heights of that campaign. ``halt_end_to_end.json`` and ``.md`` say how both ended; results that are there of other
cases with the same figures are kept.

A machine that stops the agents for seconds makes devices silent that nothing is wrong with: 15 s are the fast clock's
15 minutes. So a good release that is halted here says first of all that the machine had too much else to do.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench.halt_end_to_end_cases import CASES, make_plan, make_policy, make_trace
from bench.halt_end_to_end_stage import run
from server.traces.format import write_trace

ROOT: Final = Path(__file__).parent.parent
NAME: Final = "halt_end_to_end"
MEMORY: Final = Path("/dev/shm")
"""Where files are best: a disk that others keep busy stops all agents of a process for seconds."""


def play(case: str, folder: Path, *, devices: int, factor: float, heartbeat_s: int, seed: int) -> dict[str, Any]:
    """Run one case for real, with all files in an empty ``folder``, and replay it; return how both ended."""
    file = folder / "trace.jsonl.gz"
    write_trace(file, make_trace(case, devices=devices, seed=seed))
    real = asyncio.run(run(file, folder, factor=factor, heartbeat_s=heartbeat_s))
    figures = {"devices": devices, "factor": factor, "heartbeat_s": heartbeat_s, "seed": seed}
    return compared({"case": case, "says": CASES[case].says, **figures, "real": asdict(real)}, folder)


def compared(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Replay a campaign that has run, in its own order, and return its result with how the replay ended."""
    trace = make_trace(result["case"], devices=result["devices"], seed=result["seed"])
    write_trace(folder / "trace.jsonl.gz", trace)
    (folder / "plan.json").write_text(make_plan(trace).model_dump_json())
    (folder / "policy.json").write_text(make_policy().model_dump_json())
    replayed = _replay(folder, result["real"]["campaign"])
    return {**result, "same": result["real"]["verdict"] == replayed["verdict"], "replay": replayed}


@contextmanager
def _folder(keep: Path | None, case: str) -> Iterator[Path]:
    """A folder that PostgreSQL's account may enter; it stays if it is to be kept."""
    if keep is not None:
        folder = keep / case
        folder.mkdir(parents=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def _replay(folder: Path, campaign: str) -> dict[str, Any]:
    trace, result = folder / "trace.jsonl.gz", folder / "replay.json"
    command = [sys.executable, "-m", "server", "halt", "replay", str(trace), "--campaign", campaign]
    command += ["--plan", str(folder / "plan.json"), "--policy", str(folder / "policy.json"), "--json", str(result)]
    subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)  # 1 where it is not as expected
    played: dict[str, Any] = json.loads(result.read_text())
    return {
        "verdict": played["verdict"],
        "channel": played["channel"],
        "scope": played["scope"],
        "sentence": played["sentence"],
        "started": played["started"],
        "rebooted": played["updated"],
        "bricked": played["bricked"],
        "after_s": played["virtual_s"],
        "pauses": played["pauses"],
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| release | devices | clock | replay | end to end | bricked in the replay, and end to end | ran for | cores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        real = one["real"]
        cells = (
            f"{one['case']}: {one['says']}",
            f"{one['devices']:,}",
            f"{one['factor']:g} x",
            _ended(one["replay"]),
            _ended(real) + ("" if one["same"] else " **(not the same)**"),
            f"{one['replay']['bricked']}, {real['bricked']}",
            f"{real['real_s'] / 60:.1f} min",
            f"{real['cores']:.1f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    same = sum(one["same"] for one in results)
    lines += ["", f"{same} of {len(results)} campaigns ended as their replays did."]
    return "\n".join(lines) + "\n"


def _ended(side: dict[str, Any]) -> str:
    about = ", ".join(part for part in (side["channel"], side["scope"]) if part)
    what = side["verdict"] + (f" ({about})" if about else "")
    return f"{what} after {side['after_s'] / 3600:.1f} h, {side['started']:,} started"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", choices=CASES, help="only these")
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--factor", type=float, default=60, help="how many times faster than the trace")
    parser.add_argument("--heartbeat-s", type=int, default=5, help="real seconds between beats")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replays", action="store_true", help="run nothing, replay the campaigns that are there anew")
    parser.add_argument("--keep", type=Path, help="a new folder for logs, ledgers and traces, which else are deleted")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results")
    arguments = parser.parse_args()
    figures = {name: getattr(arguments, name) for name in ("devices", "factor", "heartbeat_s", "seed")}
    file = arguments.out / f"{NAME}.json"
    before = json.loads(file.read_text()) if file.exists() else []
    found = {one["case"]: one for one in before if all(one[name] == value for name, value in figures.items())}
    wanted = arguments.scenario or [case for case in CASES if case in found or not arguments.replays]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in wanted:
        with _folder(arguments.keep, case) as folder:
            if arguments.replays:
                found[case] = compared(found[case], folder)
            else:
                found[case] = play(case, folder, **figures)
        results = [found[name] for name in CASES if name in found]
        file.write_text(json.dumps(results, indent=1) + "\n")
        file.with_suffix(".md").write_text(table(results))
        print(table([found[case]]), flush=True)
    return 0 if all(found[case]["same"] for case in wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
