"""What the inventory benches play on: a database with so many devices in it, and a real ``tidegate serve`` on it."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from bench.target import Target
from firmware_store.root import init_dev_keys
from server.cli.client import BUNDLE_MEDIA_TYPE, Client
from server.cli.demo.releases import HARDWARE, VENDOR, release
from server.db.migrate import apply_migrations
from server.embedded import EmbeddedBroker, EmbeddedPostgres
from server.services.cursors import Cursors

REGIONS: Final = ("eu-west", "us-east", "ap-south", "sa-east")
COHORT: Final = "main"
VERSIONS: Final = ("1.8.0", "1.9.0", "1.9.2", "1.10.0")
START_S: Final = 300.0
STOP_S: Final = 60.0
HEARTBEAT_S: Final = 1  # so that campaigns are evaluated 2.5 seconds after the start

COLUMNS: Final = (
    "id",
    "region",
    "cohort",
    "member_since",
    "created_at",
    "vendor",
    "hardware",
    "agent_version",
    "booted_slot",
    "running_version",
    "running_digest",
    "running_sequence",
    "labels",
    "last_seen",
)


@dataclass(frozen=True, slots=True)
class Served:
    """A server that serves: how long its start took, and where its memory is read."""

    url: str
    token: str
    start_s: float
    pid: int

    def memory_bytes(self, name: str) -> int:
        """Return ``VmRSS`` (now) or ``VmHWM`` (the most until now)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise SystemExit(f"the kernel does not say {name}")


class Stage:
    """One fleet size; everything of it is in a database and a folder of its own."""

    def __init__(self, home: Path, postgres: EmbeddedPostgres, broker: EmbeddedBroker, devices: int) -> None:
        self.devices = devices
        self._name = f"fleet_{devices}"
        self._home = home / self._name
        self._postgres = postgres
        self._broker = broker

    @property
    def target(self) -> Target:
        own = self._broker.server_credential
        return Target(self._broker.mqtt_host, self._broker.mqtt_port, own.username, own.password)

    @property
    def topic_root(self) -> str:
        return f"tg/{self.devices}"

    @property
    def _url(self) -> str:
        return urlunsplit(urlsplit(self._postgres.database_url)._replace(path=f"/{self._name}"))

    async def cursors(self) -> Cursors:
        """Return what makes the cursors of the server that runs: the bench begins its pages anywhere."""
        connection = await asyncpg.connect(self._url)
        try:
            return Cursors(await connection.fetchval("SELECT secret FROM ticket_secret"))
        finally:
            await connection.close()

    async def seed(self) -> float:
        """Make keys, schema and fleet; returns how many seconds the COPY of the fleet took."""
        init_dev_keys(self._home / "keys", fleet=None, now=int(time.time()))
        connection = await asyncpg.connect(self._postgres.database_url)
        await connection.execute(f"CREATE DATABASE {self._name}")
        await connection.close()
        await apply_migrations(self._url)
        connection = await asyncpg.connect(self._url)
        began = time.monotonic()
        await connection.copy_records_to_table("device", records=rows(self.devices), columns=COLUMNS)
        took = time.monotonic() - began
        await connection.execute("VACUUM ANALYZE device")
        await connection.close()
        return took

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Served]:
        """Run a server on it, which nobody else talks to."""
        environment = {
            **os.environ,
            "TIDEGATE_DATA_DIR": str(self._home),
            "TIDEGATE_DATABASE_URL": self._url,
            "TIDEGATE_MQTT_URL": self.target.url,
            "TIDEGATE_MQTT_CLIENT_ID": f"bench-{self.devices}",
            "TIDEGATE_TOPIC_ROOT": self.topic_root,
            "TIDEGATE_HEARTBEAT_S": str(HEARTBEAT_S),
            "TIDEGATE_PORT": "0",
            "TIDEGATE_LOG_LEVEL": "warning",
        }
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "server", "serve", env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                url = (await _line(process.stdout, "listening on ")).strip()
                start_s = time.monotonic() - began
                token = (await _line(process.stdout, "first admin token (shown once): ")).strip()
            yield Served(url, token, start_s, process.pid)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_S):
                await process.wait()

    async def push_release(self, client: Client) -> str:
        """Upload a small release and return its id."""
        made = release(
            {"app": Path(__file__)},
            version="1.11.0",
            sequence=9,
            keys=self._home / "keys",
            output=self._home / "bundle",
        )
        return str((await client.upload("/v1/bundles", made.bundle, BUNDLE_MEDIA_TYPE))["id"])


def rows(devices: int) -> Iterator[tuple[Any, ...]]:
    """One row a device, by its number alone: a thousandth stands at the dock, and as many are long unseen."""
    now = datetime.now(UTC)
    for number in range(devices):
        labels = {"rack": str(number % 40)}
        if number % 2:
            labels["site"] = "dock" if number % 1000 == 1 else f"site-{number % 500}"
        unseen = timedelta(days=45 if number % 1000 == 2 else 0, seconds=number % 80_000)
        version = VERSIONS[number % len(VERSIONS)]
        yield (
            f"gw-{number:07d}",
            REGIONS[number % len(REGIONS)],
            COHORT,
            now,
            now,
            VENDOR,
            HARDWARE[number % len(HARDWARE)],
            "0.1.0",
            "a",
            version,
            version.encode().ljust(32, b"\0"),
            number % len(VERSIONS),
            json.dumps(labels),
            now - unseen,
        )


async def _line(output: asyncio.StreamReader, begins: str) -> str:
    while line := (await output.readline()).decode():
        if line.startswith(begins):
            return line.removeprefix(begins)
    raise SystemExit("the server did not start")
