"""How many reports a second one server process commits, beside what a plain paho subscriber receives.

    python -m bench.ingest --json FILE

Each of the interleaved pairs has the same broker, the same publisher and the same reports. "Committed" is what another
connection to the database sees: the execution's state by compare-and-set, and its row of history. The figures count
(``valid``) only if the publisher alone is at least 1.3 times faster than the plain subscriber: otherwise it would be
the publisher that is measured. With ``--link`` the server's MQTT link is measured alone, too.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench.processes import printed, ready, running
from bench.publisher import write_packets
from bench.stage import PATH, Stage
from server import logs
from server.domain.execution import State
from server.embedded import EmbeddedBroker, EmbeddedPostgres

ROUND_S: Final = 120.0
POLL_S: Final = 0.005
PUBLISHER_MARGIN: Final = 1.3
SERVED_ROOT, PLAIN_ROOT, UNHEARD_ROOT = "tg/1", "tg/2", "tg/3"  # of equal length; each is heard by one of them

COMMITTED: Final = "SELECT coalesce(max(id), 0) FROM execution_event"  # a fresh table counts its rows by its ids
WRITTEN: Final = "SELECT count(*) FROM execution_event"
CONFIRMED: Final = "SELECT count(*) FROM execution WHERE state = $1"


class Bench:
    """The rounds; each returns messages per second."""

    def __init__(self, stage: Stage, packets: Path, messages: int) -> None:
        self._stage = stage
        self._packets = packets
        self._messages = messages
        for root in (SERVED_ROOT, PLAIN_ROOT, UNHEARD_ROOT):
            write_packets(self._file(root), stage.reports(root))

    async def publisher_alone(self) -> float:
        return await self._publish(UNHEARD_ROOT)

    async def plain(self) -> float:
        return await self._subscribe("bench.plain_subscriber")

    async def link(self) -> float:
        return await self._subscribe("bench.link_subscriber")

    async def ingest(self) -> float:
        """From the first batch that is seen to be committed to the last."""
        async with self._stage.serving() as url:
            connection = await asyncpg.connect(url)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._publish(SERVED_ROOT))
                    watching = group.create_task(self._watch_commits(connection))
                written = await connection.fetchval(WRITTEN)
                confirmed = await connection.fetchval(CONFIRMED, State.CONFIRMED.value)
            finally:
                await connection.close()
        if (written, confirmed * len(PATH)) != (self._messages, self._messages):
            raise SystemExit(f"{written} reports written, {confirmed} devices confirmed: some were lost")
        return watching.result()

    async def _watch_commits(self, connection: "asyncpg.Connection[asyncpg.Record]") -> float:
        seen = first = 0
        began = 0.0
        until = time.perf_counter() + ROUND_S
        while seen < self._messages:
            if time.perf_counter() > until:
                raise SystemExit(f"{seen} of {self._messages} reports were committed within {ROUND_S:g} s")
            await asyncio.sleep(POLL_S)
            seen = await connection.fetchval(COMMITTED)
            if seen and not first:
                first, began = seen, time.perf_counter()
        return (self._messages - first) / (time.perf_counter() - began)

    async def _subscribe(self, module: str) -> float:
        topic_filter = f"{PLAIN_ROOT}/+/device/+/up/report"
        arguments = ("--filter", topic_filter, "--count", str(self._messages))
        async with running(module, *arguments, target=self._stage.target, within_s=ROUND_S) as subscriber:
            await ready(subscriber)
            await self._publish(PLAIN_ROOT)
            return _rate(await printed(subscriber))

    async def _publish(self, root: str) -> float:
        packets = str(self._file(root))
        target = self._stage.target
        async with running("bench.publisher", "--packets", packets, target=target, within_s=ROUND_S) as publisher:
            return _rate(await printed(publisher))

    def _file(self, root: str) -> Path:
        return self._packets / f"{root.replace('/', '-')}.packets"


def _rate(result: dict[str, Any]) -> float:
    return float(result["messages"] / result["seconds"])


async def measure(messages: int, pairs: int, *, with_link: bool) -> dict[str, Any]:
    devices = max(messages // len(PATH), 1)
    messages = devices * len(PATH)
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        home = Path(folder)
        home.chmod(0o711)  # PostgreSQL's account must pass through it
        async with EmbeddedPostgres(home) as postgres, EmbeddedBroker(home) as broker:
            stage = Stage(home, postgres, broker, devices)
            await stage.prepare()
            bench = Bench(stage, home, messages)
            rounds = []
            for number in range(pairs):
                kinds = ["plain", "ingest", *(["link"] if with_link else [])]
                if number % 2:
                    kinds.reverse()
                rates = {"publisher_alone": await bench.publisher_alone()}
                for kind in kinds:
                    rates[kind] = await getattr(bench, kind)()
                rounds.append(rates)
                print("  ".join(f"{kind} {rate:,.0f}/s" for kind, rate in sorted(rates.items())), flush=True)
    return summarise(rounds, messages)


def summarise(rounds: list[dict[str, float]], messages: int) -> dict[str, Any]:
    """Medians over the rounds; a ratio is the median of its rounds' ratios, since their conditions are the same."""
    names = sorted(rounds[0])
    ratios = {
        f"{name}_over_plain_subscriber": statistics.median(r[name] / r["plain"] for r in rounds)
        for name in names
        if name != "plain"
    }
    return {
        "figures": {
            **{f"{name}_per_s": statistics.median(r[name] for r in rounds) for name in names},
            "messages": messages,
            "pairs": len(rounds),
            "rounds": rounds,
            "cores": os.cpu_count(),
            "valid": ratios["publisher_alone_over_plain_subscriber"] >= PUBLISHER_MARGIN,
        },
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="reports per second: committed, beside received")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--messages", type=int, default=30_000, help="reports per round")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--link", action="store_true", help="measure the MQTT link alone, too")
    options = parser.parse_args()
    logs.configure(level="warning", as_json=False)
    result = asyncio.run(measure(options.messages, options.pairs, with_link=options.link))
    text = json.dumps(result, indent=2)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    if not result["figures"]["valid"]:
        sys.exit("the publisher is too slow for these figures to count")


if __name__ == "__main__":
    main()
