"""How quickly the command line answers: ``tidegate --help`` beside an interpreter that does nothing.

    python -m bench.command_line --runs 15

Runs alternate, so that what else the machine does meets both. Prints JSON: wall seconds of each (medians) and
``ratios.help``, the median of the pairs' ratios. Nothing but names and first lines may be imported for ``--help``.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

NOTHING = (sys.executable, "-c", "pass")
HELP = (str(Path(sys.executable).with_name("tidegate")), "--help")


def seconds(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(runs: int) -> dict[str, Any]:
    seconds(NOTHING), seconds(HELP)  # into the page cache
    pairs = [(seconds(NOTHING), seconds(HELP)) for _ in range(runs)]
    return {
        "figures": {
            "runs": runs,
            "nothing_s": median(nothing for nothing, _ in pairs),
            "help_s": median(helping for _, helping in pairs),
        },
        "ratios": {"help": median(helping / nothing for nothing, helping in pairs)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="tidegate --help beside python -c pass")
    parser.add_argument("--runs", type=int, default=15)
    print(json.dumps(measure(parser.parse_args().runs), indent=2))


if __name__ == "__main__":
    main()
