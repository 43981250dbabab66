"""How fast devices get a release: the agent's own fetcher beside bare paho subscribers of the same retained messages.

    make bench-blobs                                   # the same as:
    python -m bench.blobs --out bench/results          # some 6 minutes; writes blobs.json and blobs.md

On one broker after the other (Mosquitto where it is installed, and nats-server) a Tidegate server publishes a release
of random bytes, so that every chunk travels as it is. Then rounds alternate: 20 devices of the simulator (one process)
fetch it with the product's agent, which verifies every chunk and writes it into its slot, and 20 bare paho clients (one
process) receive the same blobs and drop them. A ratio is the median of its rounds' ratios.

``delivered_*``: bytes per second, devices by bare subscribers. ``delivered_per_cpu_*``: bytes per processor second, the
devices' without the hashing that anybody would have to do, which `bench.blob_hashing` measures in each round. What is
delivered is counted once, however often it came. ``sealed_*`` includes the time to read the images back.

The server's own cost: its processor seconds while 1, 20 and 200 devices fetch, less what it uses when the same devices
are connected and fetch nothing. `bench.chunk_server` is what there would be without retained messages.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.blob_release import BlobRelease
from bench.blob_rounds import Result, Rounds
from bench.blob_stage import blob_stage, installed_brokers
from bench.blob_table import table
from server import logs

MEMORY: Final = Path("/dev/shm")
DEVICES: Final = 20
COSTS: Final = (1, 20, 200)
IMAGE_BYTES: Final = 32 << 20
SMALL_IMAGE_BYTES: Final = 4 << 20
"""For more than ``DEVICES`` devices, so that the machine can hold what they write."""
GB: Final = 1e9


async def measure_broker(folder: Path, kind: str, pairs: int) -> dict[str, Any]:
    large, small = _image(folder / "large.img", IMAGE_BYTES), _image(folder / "small.img", SMALL_IMAGE_BYTES)
    async with blob_stage(folder, kind) as stage:
        release, little = await stage.add_release(large), await stage.add_release(small)
        runs = Rounds(stage, folder)
        rounds = []
        for number in range(pairs):
            kinds: list[Callable[[BlobRelease, int], Any]] = [runs.devices, runs.subscribers]
            if number % 2:
                kinds.reverse()
            results = {run.__name__: await run(release, DEVICES) for run in kinds}
            megabytes = release.wire_bytes * DEVICES / 1e6
            rounds.append(figures_of_round(megabytes, DEVICES, results, await runs.hashing(release)))
            print(kind, "  ".join(f"{name} {figure:,.2f}" for name, figure in rounds[-1].items()), flush=True)
        asked = await runs.chunk_server(release, DEVICES)
        costs = [
            _cost(count, chosen, await runs.devices(chosen, count, with_idle=True))
            for count, chosen in ((count, release if count <= DEVICES else little) for count in COSTS)
        ]
    return {
        **{name: median(one[name] for one in rounds) for name in rounds[0]},
        "chunk_server_mb_per_s": release.wire_bytes * DEVICES / asked["wall"] / 1e6,
        "chunk_server_s_per_gb": asked["chunk_server"] / (release.wire_bytes * DEVICES / GB),
        "server": costs,
        "rounds": rounds,
    }


def _image(path: Path, size: int) -> Path:
    path.write_bytes(random.Random(path.name).randbytes(size))
    return path


def figures_of_round(
    megabytes: float, devices: int, results: Mapping[str, Result], hashing: Result
) -> dict[str, float]:
    """Megabytes per second, and per processor second outside of hashing."""
    filled, sealed, bare = results["devices"]["filled"], results["devices"]["sealed"], results["subscribers"]
    chunk_hashing, all_hashing = devices * hashing["chunks"], devices * (hashing["chunks"] + hashing["image"])
    return {
        "devices_mb_per_s": megabytes / filled["wall"],
        "sealed_mb_per_s": megabytes / sealed["wall"],
        "bare_mb_per_s": megabytes / bare["wall"],
        "devices_mb_per_cpu_s": megabytes / (filled["own"] - chunk_hashing),
        "devices_mb_per_cpu_s_with_hashing": megabytes / filled["own"],
        "sealed_mb_per_cpu_s": megabytes / (sealed["own"] - all_hashing),
        "bare_mb_per_cpu_s": megabytes / bare["own"],
        "hashing_mb_per_cpu_s": megabytes / chunk_hashing,
        "broker_s_per_gb_devices": filled["broker"] / megabytes * 1e3,
        "broker_s_per_gb_bare": bare["broker"] / megabytes * 1e3,
    }


def _cost(count: int, release: BlobRelease, result: Result) -> dict[str, float]:
    sealed = result["sealed"]
    delivered_gb = release.wire_bytes * count / GB
    idle_s = result["idle"] * sealed["wall"]
    return {
        "devices": count,
        "delivered_gb": delivered_gb,
        "seconds": sealed["wall"],
        "server_s": sealed["server"],
        "idle_s": idle_s,
        "s_per_gb": (sealed["server"] - idle_s) / delivered_gb,
        "ms_per_device": (sealed["server"] - idle_s) / count * 1e3,
    }


def ratios_of(brokers: Mapping[str, Any]) -> dict[str, float]:
    pairs = {
        "delivered": ("devices_mb_per_s", "bare_mb_per_s"),
        "delivered_per_cpu": ("devices_mb_per_cpu_s", "bare_mb_per_cpu_s"),
        "delivered_per_cpu_with_hashing": ("devices_mb_per_cpu_s_with_hashing", "bare_mb_per_cpu_s"),
        "sealed": ("sealed_mb_per_s", "bare_mb_per_s"),
        "sealed_per_cpu": ("sealed_mb_per_cpu_s", "bare_mb_per_cpu_s"),
    }
    return {
        f"{name}_{kind}": median(one[ours] / one[theirs] for one in figures["rounds"])
        for kind, figures in brokers.items()
        for name, (ours, theirs) in pairs.items()
    }


async def measure(pairs: int) -> dict[str, Any]:
    load = [os.getloadavg()[0]]
    brokers = {}
    for kind in installed_brokers():
        with tempfile.TemporaryDirectory(prefix="tidegate-bench-", dir=MEMORY if MEMORY.is_dir() else None) as name:
            folder = Path(name)
            folder.chmod(0o711)  # PostgreSQL's account must pass through it
            brokers[kind] = await measure_broker(folder, kind, pairs)
        load.append(os.getloadavg()[0])
    conditions = {
        "devices": DEVICES,
        "image_bytes": IMAGE_BYTES,
        "pairs": pairs,
        "cores": os.cpu_count(),
        "load_average": load,
    }
    return {"figures": {**conditions, **brokers}, "ratios": ratios_of(brokers)}


def main() -> None:
    parser = argparse.ArgumentParser(description="bytes per second: fetched by devices, beside received")
    parser.add_argument("--out", type=Path, help="write blobs.json and blobs.md into this folder")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    logs.configure(level="warning", as_json=False)
    result = asyncio.run(measure(options.pairs))
    text = json.dumps(result, indent=2)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "blobs.json").write_text(text + "\n", encoding="utf-8")
        (options.out / "blobs.md").write_text(table(result), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
