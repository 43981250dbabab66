"""The single runs of the blob bench: each is a process of its own, that pays for itself and is measured by itself."""

import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.blob_release import BlobRelease
from bench.blob_stage import BlobStage
from bench.processes import printed, ready, running
from bench.processor_time import processor_s

ROUND_S: Final = 300.0
SETTLE_S: Final = 1.0
IDLE_S: Final = 3.0

Result = dict[str, Any]


class Rounds:
    """Each method returns what its process printed: processor and wall seconds."""

    def __init__(self, stage: BlobStage, folder: Path) -> None:
        self._stage = stage
        self._folder = folder
        self._run = partial(running, target=stage.broker.target, within_s=ROUND_S)
        self._watch = ("--watch", f"server={stage.server_pid}", "--watch", f"broker={stage.broker.pid}")

    async def devices(self, release: BlobRelease, count: int, *, with_idle: bool = False) -> Result:
        """Have ``count`` devices fetch the release. ``with_idle``: adds ``idle``, what the server uses per second
        while the same devices are connected and fetch nothing.
        """
        fleet = await self._stage.add_fleet(count)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            arguments = ("--fleet", str(fleet.file), "--dir", folder, "--root", str(self._stage.root), *self._watch)
            async with self._run("bench.blob_devices", *arguments) as process:
                await ready(process)
                idle = await self._idle() if with_idle else None
                await self._stage.offer(release, fleet)
                result = await printed(process)
        return result if idle is None else {**result, "idle": idle}

    async def subscribers(self, release: BlobRelease, count: int, *, ask: bool = False) -> Result:
        """Have bare paho clients receive the same blobs."""
        fleet = await self._stage.add_fleet(count)
        topics = self._stage.write_topics(release)
        arguments = ["--fleet", str(fleet.file), "--topics", str(topics), *self._watch]
        if ask:
            arguments.append("--ask")
        async with self._run("bench.blob_subscribers", *arguments) as process:
            await ready(process)
            assert process.stdin is not None
            process.stdin.write(b"begin\n")
            return await printed(process)

    async def chunk_server(self, release: BlobRelease, count: int) -> Result:
        """Have bare paho clients ask a server for each of the same blobs; ``chunk_server``: its processor seconds."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            for digest, blob in release.blobs.items():
                (Path(folder) / digest.hex()).write_bytes(blob)
            async with self._run("bench.chunk_server", "--blobs", folder) as server:
                await ready(server)
                before = processor_s(server.pid)
                result = await self.subscribers(release, count, ask=True)
                result["chunk_server"] = processor_s(server.pid) - before
                server.terminate()
        return result

    async def hashing(self, release: BlobRelease) -> Result:
        arguments = ("--image", str(release.image), "--bundle", str(release.bundle), "--root", str(self._stage.root))
        async with self._run("bench.blob_hashing", *arguments) as process:
            return await printed(process)

    async def _idle(self) -> float:
        """Processor seconds of the server per second."""
        await asyncio.sleep(SETTLE_S)
        before, began = processor_s(self._stage.server_pid), time.perf_counter()
        await asyncio.sleep(IDLE_S)
        return (processor_s(self._stage.server_pid) - before) / (time.perf_counter() - began)
