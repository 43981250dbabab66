"""How many messages opening a wave and halting publish with a small and with a large fleet; prints JSON.

Usage: ``nice python -m bench.wave [--devices 1000 1000000] [--out FILE]``. A subscriber to all directives counts what
comes from the broker, from the order to start a campaign over all devices until its first wave is open and its
line begins to rise, and from the
order to halt it until every region has its halt.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.inventory import begin_campaign, halt
from bench.inventory_stage import Stage
from server.cli.client import Client
from server.embedded import EmbeddedBroker, EmbeddedPostgres


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(asyncio.run(measure(options.devices)), indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


async def measure(sizes: Sequence[int]) -> dict[str, Any]:
    home = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    home.chmod(0o711)
    try:
        async with EmbeddedPostgres(home / "db") as postgres, EmbeddedBroker(home / "mq") as broker:
            fleets = {str(size): await _count(Stage(home, postgres, broker, size)) for size in sizes}
    finally:
        shutil.rmtree(home)
    return {"fleets": fleets, "equal": len({json.dumps(fleet["messages"]) for fleet in fleets.values()}) == 1}


async def _count(stage: Stage) -> dict[str, Any]:
    await stage.seed()
    async with stage.serving() as server, Client(server.url, server.token) as client:
        begun = await begin_campaign(stage, client)
        halted = await halt(stage, client, begun["id"])
    return {"messages": {"opening a wave": begun["messages"], "halting": halted["messages"]}}


if __name__ == "__main__":
    main()
