"""How much memory a server needs for a bundle of 1 GiB: to take it in, to publish it, to serve it.

    python -m bench.upload_memory --budget-bytes 2147483648 --json FILE

The budget lets the whole bundle go to the broker; with the default one it would be for HTTP only.

A real server process with its own database and broker; the bundle is of random bytes, so that nothing of it compresses.
For each phase the kernel says the peak of the resident set (VmHWM, begun anew with each phase), here in MiB above what
the idle server had before the upload. ``http_image``: four clients fetch a quarter of the image each, at once.
``http_slow``: one of two that ask for a quarter reads nothing of it for a while, and hangs up. ``http_blobs``: blobs in
random order.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp

from firmware_store.bundle import build_bundle, read_envelope, replace_envelope
from firmware_store.chunks import decode_index, decode_page
from firmware_store.keys import load_key
from firmware_store.root import RoleName, init_dev_keys, key_file
from firmware_store.suit import open_envelope, parse_version, sign_envelope
from server.cli.client import BUNDLE_MEDIA_TYPE, Client

MOST_MIB: Final = 200
MIB: Final = 1 << 20
START_S, STOP_S, PUBLISH_S = 300.0, 60.0, 3600.0
PARTS, BLOBS, BLOBS_AT_ONCE = 4, 4000, 32
SETTLE_S: Final = 5.0
"""So long a server is left alone before it counts as idle."""

STALL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Served:
    url: str
    token: str
    pid: int


async def measure(size: int, *, budget: int) -> dict[str, Any]:
    """Run all phases; returns the figures. ``budget``: in bytes; a bundle that is larger is not published at all."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL's account must pass through it
        keys = folder / "data" / "keys"
        init_dev_keys(keys, fleet=None, now=int(time.time()) - 60)
        said(f"building a bundle of {size / MIB:,.0f} MiB")
        bundle, image, parts = await asyncio.to_thread(_build, folder, keys, size)
        settings = {"TIDEGATE_BLOB_BUDGET_BYTES": str(budget), "TIDEGATE_PUBLIC_URL": "http://localhost"}
        async with serving(folder / "data", settings) as served, Client(served.url, served.token) as client:
            await asyncio.sleep(SETTLE_S)
            idle = _resident(served.pid, "VmRSS")
            said(f"idle: {idle:.0f} MiB")
            phases: dict[str, dict[str, float]] = {}

            async def phase(title: str, work: Awaitable[Any]) -> Any:
                Path(f"/proc/{served.pid}/clear_refs").write_text("5")  # VmHWM begins anew
                began = time.monotonic()
                answer = await work
                phases[title] = {
                    "peak_mib_above_idle": round(_resident(served.pid, "VmHWM") - idle, 1),
                    "seconds": round(time.monotonic() - began, 1),
                }
                said(f"{title}: {phases[title]}")
                return answer

            uploaded = await phase("upload", client.upload("/v1/bundles", bundle, BUNDLE_MEDIA_TYPE))
            await phase("publish", _publish(client, uploaded["id"]))
            ticket = (await client.post("/v1/tickets", {}))["ticket"]
            headers = {"Authorization": f"Bearer {ticket}"}
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(served.url, headers=headers, connector=connector) as session:
                path = f"/v1/images/{image}"
                quarters = [_fetch(session, path, digest, part) for part, digest in parts.items()]
                await phase("http_image", _all(*quarters))
                part, digest = next(iter(parts.items()))
                await phase("http_slow", _all(_stall(session, path), _fetch(session, path, digest, part)))
                await phase("http_blobs", _fetch_blobs(session, _chunks_of(bundle)))
            kept = _resident(served.pid, "VmRSS") - idle
    return {
        "image_mib": size / MIB,
        "blob_budget_bytes": budget,
        "idle_mib": round(idle, 1),
        "phases": phases,
        "peak_mib_above_idle": max(each["peak_mib_above_idle"] for each in phases.values()),
        "kept_mib_above_idle": round(kept, 1),
        "parts_at_once": PARTS,
        "blobs": BLOBS,
        "cores": os.cpu_count(),
    }


@asynccontextmanager
async def serving(data_dir: Path, settings: dict[str, str]) -> AsyncIterator[Served]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    with (data_dir / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "serve", "--data-dir", str(data_dir), "--port", "0"),
            *("--heartbeat-s", "1"),
            env={**environment, **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        async with asyncio.timeout(START_S):
            url, token = await _line(process, "listening on "), await _line(process, "first admin token")
        yield Served(url, token.rpartition(" ")[2], process.pid)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_S):
                await process.wait()


async def _line(process: asyncio.subprocess.Process, prefix: str) -> str:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if line.decode().startswith(prefix):
            return line.decode().strip().removeprefix(prefix)
    raise SystemExit("the server did not start")


def _build(folder: Path, keys: Path, size: int) -> tuple[Path, str, dict[str, str]]:
    """Return a signed bundle, the digest of its image, and those of the image's parts by their ranges."""
    image, bundle = folder / "image", folder / "bundle.tgb"
    digest, parts = sha256(), {}
    with image.open("wb") as file:
        for start in range(0, size, size // PARTS):
            part = sha256()
            for _ in range(0, size // PARTS, MIB):
                piece = os.urandom(MIB)
                digest.update(piece)
                part.update(piece)
                file.write(piece)
            parts[f"bytes={start}-{start + size // PARTS - 1}"] = part.hexdigest()
    build_bundle(
        bundle,
        images={"rootfs": image},
        vendor="bench.tidegate.dev",
        models=["gw100"],
        version=parse_version("1.0.0"),
        sequence_number=1,
    )
    image.unlink()
    for number in (1, 2):
        key = load_key(key_file(keys, RoleName.RELEASE, number), None)
        replace_envelope(bundle, sign_envelope(read_envelope(bundle), key))
    return bundle, digest.hexdigest(), parts


def _chunks_of(bundle: Path) -> list[str]:
    """Return the digests of the chunks of a bundle's only image."""
    manifest, _ = open_envelope(read_envelope(bundle)).read()
    fetch = manifest.components[0].fetch
    with bundle.open("rb") as file:
        head = file.read(8)
        file.seek(8 + int.from_bytes(head[4:], "big"))
        pages = decode_index(file.read(fetch.index_size), fetch)
        return [chunk.wire_digest.hex() for page in pages for chunk in decode_page(file.read(page.size), page)]


async def _publish(client: Client, bundle: str) -> None:
    """Start a campaign of no devices, and wait for its first wave: it opens when the blobs are where devices fetch."""
    body = {"name": "bench", "bundle": bundle, "cohort": "bench", "regions": ["eu"]}
    campaign = (await client.post("/v1/campaigns", body))["id"]
    await client.post(f"/v1/campaigns/{campaign}/start", {"reason": "bench"})
    async with asyncio.timeout(PUBLISH_S):
        while (await client.get(f"/v1/campaigns/{campaign}"))["waves"][0]["state"] == "planned":
            await asyncio.sleep(0.5)


async def _fetch(session: aiohttp.ClientSession, path: str, digest: str, part: str | None = None) -> None:
    found = sha256()
    async with session.get(path, headers={} if part is None else {"Range": part}) as response:
        response.raise_for_status()
        async for piece in response.content.iter_any():
            found.update(piece)
    if found.hexdigest() != digest:
        raise SystemExit(f"{path} is not what it should be")


async def _stall(session: aiohttp.ClientSession, path: str) -> None:
    """Ask, read nothing for a while, and hang up."""
    async with session.get(path) as response:
        response.raise_for_status()
        await asyncio.sleep(STALL_S)
        response.close()


async def _fetch_blobs(session: aiohttp.ClientSession, digests: list[str]) -> None:
    wanted = iter(Random(1).sample(digests, min(BLOBS, len(digests))))

    async def worker() -> None:
        for digest in wanted:
            await _fetch(session, f"/v1/blobs/{digest}", digest)

    await _all(*(worker() for _ in range(BLOBS_AT_ONCE)))


async def _all(*work: Awaitable[None]) -> None:
    await asyncio.gather(*work)


def _resident(pid: int, kind: str) -> float:
    """Return VmRSS or VmHWM of a process in MiB."""
    found = re.search(rf"^{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def said(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="a server's memory for a large bundle")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--mib", type=int, default=1024, help="size of the image")
    parser.add_argument("--budget-bytes", type=int, help="TIDEGATE_BLOB_BUDGET_BYTES of the server; twice the image")
    options = parser.parse_args()
    size = options.mib * MIB
    result = asyncio.run(measure(size, budget=2 * size if options.budget_bytes is None else options.budget_bytes))
    text = json.dumps(result, indent=2)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    if result["peak_mib_above_idle"] > MOST_MIB:
        sys.exit(f"more than {MOST_MIB} MiB above idle")


if __name__ == "__main__":
    main()
