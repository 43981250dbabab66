"""Devices that fetch a release with the product's own agent: link, core, fetcher, hashing, and files as slots.

    python -m bench.blob_devices --fleet FILE --dir FOLDER --root FILE [--watch NAME=PID ...]

All devices live in one process. It prints ``ready`` once each of them has reached the broker, and one JSON line when
the last one has its image: wall seconds and processor seconds (``own``, and those of the watched processes) since the
first device began. ``filled`` is up to the last verified and written chunk, without the time in which the process read
finished images back; ``sealed`` is up to the last image that was read back and found to be what was signed. Then the
process ends, before any device reboots.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.processor_time import Stopwatch, watched_from
from device_sim.agent.device import DeviceConfig
from device_sim.agent.events import Note
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.runner import Runner
from device_sim.inventory import read_devices
from device_sim.serve import raise_file_limit

ROUND_S: Final = 240.0

Times = dict[str, dict[str, float]]


class Finish:
    """Where the devices' times come together."""

    def __init__(self, devices: int, watched: Mapping[str, int]) -> None:
        self._devices = devices
        self._watch = Stopwatch(watched)
        self._connected = self._filled = self._written = 0
        self._has_begun = False
        self._at_fill: dict[str, float] = {}
        self._reading_back = {"wall": 0.0, "own": 0.0}
        self.ready = asyncio.Event()
        self.over: asyncio.Future[Times] = asyncio.get_running_loop().create_future()

    def noted(self, note: Note) -> None:
        match note.event:
            case "connected":
                self._connected += 1
                if self._connected == self._devices:
                    self.ready.set()
            case "started" if not self._has_begun:
                self._has_begun = True
                self._watch.start()
            case "written":
                self._written += 1
                if self._written == self._devices:
                    self.over.set_result({"filled": self._at_fill, "sealed": self._watch.read()})
            case "failed" | "refused" | "stopped" if not self.over.done():
                self.over.set_exception(SystemExit(f"a device has {note.event}: {note.reason.name} {note.detail}"))

    def filled(self) -> None:
        self._filled += 1
        if self._filled == self._devices:
            self._at_fill = self._watch.read()
            for clock, seconds in self._reading_back.items():
                self._at_fill[clock] -= seconds

    def read_back(self, *, wall: float, own: float) -> None:
        """An image was read back, and no device of this process could do anything else meanwhile."""
        self._reading_back["wall"] += wall
        self._reading_back["own"] += own


class WatchedSlots(FileSlots):
    """Tells when a slot has all its bytes, and how long it took to read them back."""

    def __init__(self, directory: Path, finish: Finish) -> None:
        super().__init__(directory, durable=False)
        self._finish = finish

    def seal(self, slot: str) -> None:
        self._finish.filled()
        wall, own = time.perf_counter(), time.process_time()
        super().seal(slot)
        self._finish.read_back(wall=time.perf_counter() - wall, own=time.process_time() - own)


async def fetch(configs: Sequence[DeviceConfig], watched: Mapping[str, int]) -> Times:
    finish = Finish(len(configs), watched)
    runners = []
    for config in configs:
        config.directory.mkdir(parents=True)
        provision(config.directory, durable=False)
        runners.append(Runner(config, WatchedSlots(config.directory, finish), observe=finish.noted))
    async with asyncio.timeout(ROUND_S), asyncio.TaskGroup() as group:
        for runner in runners:
            group.create_task(runner.run())
        await finish.ready.wait()
        print("ready", flush=True)
        times = await finish.over
        for runner in runners:
            runner.stop()
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fleet", type=Path, required=True)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--watch", action="append", default=[])
    options = parser.parse_args()
    raise_file_limit()
    root = options.root.read_bytes()
    entries = read_devices(options.fleet)
    configs = [entry.config(directory=options.dir, root_bytes=root, host=None, port=None) for entry in entries]
    print(json.dumps(asyncio.run(fetch(configs, watched_from(options.watch)))))


if __name__ == "__main__":
    main()
