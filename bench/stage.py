"""What the ingest bench plays on: the embedded services, a fleet, a running campaign, and a real ``tidegate serve``.

All of it is made once, in a database that then is the template of every round: each round starts from the same rows,
so the same packets are good for all of them.
"""

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg

from bench.publisher import connect
from bench.target import Target
from firmware_store.root import init_dev_keys
from server.cli.client import BUNDLE_MEDIA_TYPE, Client
from server.cli.demo.releases import HARDWARE, VENDOR, release
from server.db.migrate import apply_migrations
from server.domain.execution import State
from server.domain.identity import CampaignId, DeviceId, Region
from server.embedded import EmbeddedBroker, EmbeddedPostgres
from server.protocol.messages import Report, encode_report
from server.protocol.topics import Topics, Up
from server.services import identifiers

PREPARED: Final = "prepared"
COHORT: Final = "bench"
CLIENT_ID: Final = "bench-server"
REGIONS: Final = ("eu-west", "us-east", "ap-south", "sa-east")
PATH: Final = (State.DOWNLOADING, State.INSTALLING, State.REBOOTING, State.TRIAL, State.CONFIRMED)
HEARTBEAT_S: Final = 1  # so that campaigns are evaluated, as in production, 2.5 beats after the start
START_S: Final = 30.0
STOP_S: Final = 15.0

INSERT_DEVICES: Final = """
    INSERT INTO device (id, region, cohort, member_since, created_at, vendor, hardware)
    SELECT id, region, $3, now(), now(), $4, $5 FROM unnest($1::text[], $2::text[]) AS d (id, region)
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has begun to serve."""

    url: str
    first_token: str | None


class Stage:
    """Open with ``prepare``; then ``reports`` says what to publish, and ``serving`` runs a server on fresh rows."""

    def __init__(self, home: Path, postgres: EmbeddedPostgres, broker: EmbeddedBroker, devices: int) -> None:
        self._home = home
        self._postgres = postgres
        self._broker = broker
        self._devices = [(DeviceId(f"device-{n:06d}"), Region(REGIONS[n % len(REGIONS)])) for n in range(devices)]
        self._campaign = CampaignId(UUID(int=0))
        own = broker.server_credential
        self.target = Target(broker.mqtt_host, broker.mqtt_port, own.username, own.password)

    def database_url(self, name: str) -> str:
        return urlunsplit(urlsplit(self._postgres.database_url)._replace(path=f"/{name}"))

    def reports(self, topic_root: str) -> Iterator[tuple[str, bytes]]:
        """Every device's way to ``confirmed``, all devices abreast: (topic, payload)."""
        topics = Topics(topic_root)
        digest = hashlib.sha256(b"bench").digest()
        for sequence, state in enumerate(PATH, start=1):
            for device, region in self._devices:
                report = Report(
                    sequence=sequence,
                    campaign=self._campaign,
                    manifest_digest=digest,
                    attempt=1,
                    state=state,
                    done_bytes=sequence * 200_000,
                    total_bytes=1_000_000,
                    slot="b",
                )
                yield topics.up(region, device, Up.REPORT), encode_report(report)

    async def prepare(self) -> None:
        """Make keys, schema, fleet and bundle, and have a server draft and start the campaign over REST."""
        init_dev_keys(self._home / "keys", fleet=None, now=int(time.time()))
        url = self.database_url(PREPARED)
        await self._execute(f"CREATE DATABASE {PREPARED}")
        await apply_migrations(url)
        await self._insert_devices(url)
        made = release(
            {"app": Path(__file__)}, version="1.1.0", sequence=1, keys=self._home / "keys", output=self._home / "bundle"
        )
        async with self._server(url) as running:
            assert running.first_token is not None
            async with Client(running.url, running.first_token) as client:
                pushed = await client.upload("/v1/bundles", made.bundle, BUNDLE_MEDIA_TYPE)
                plan = {"waves": [{"ratio": 1.0, "ramp_s": 0, "soak_s": 86_400}]}
                draft = {
                    "name": "bench",
                    "bundle": pushed["id"],
                    "cohort": COHORT,
                    "regions": REGIONS,
                    "plan": plan,
                }
                campaign = await client.post("/v1/campaigns", draft)
                await client.post(f"/v1/campaigns/{campaign['id']}/start", {"reason": "bench"})
                async with asyncio.timeout(START_S):
                    while not any(wave["state"] == "open" for wave in campaign.get("waves", ())):
                        await asyncio.sleep(0.1)
                        campaign = await client.get(f"/v1/campaigns/{campaign['id']}")
        self._campaign = CampaignId(identifiers.parse(identifiers.CAMPAIGN, campaign["id"]))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Run a server on a fresh copy of the prepared database, evaluating campaigns; gives the database's URL."""
        # What the last round left unacknowledged would come again, and be news to a fresh database.
        await asyncio.to_thread(lambda: connect(self.target, CLIENT_ID).close())
        await self._execute("DROP DATABASE IF EXISTS round WITH (FORCE)")
        await self._execute(f"CREATE DATABASE round TEMPLATE {PREPARED}")
        url = self.database_url("round")
        async with self._server(url):
            await asyncio.sleep(HEARTBEAT_S * 2.5 + 0.5)
            yield url

    async def _insert_devices(self, url: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            ids, regions = zip(*self._devices, strict=True)
            await connection.execute(INSERT_DEVICES, ids, regions, COHORT, VENDOR, HARDWARE[0])
        finally:
            await connection.close()

    @asynccontextmanager
    async def _server(self, database_url: str) -> AsyncIterator[Running]:
        environment = {
            **os.environ,
            "TIDEGATE_DATA_DIR": str(self._home),
            "TIDEGATE_DATABASE_URL": database_url,
            "TIDEGATE_MQTT_URL": self.target.url,
            "TIDEGATE_MQTT_CLIENT_ID": CLIENT_ID,
            "TIDEGATE_HEARTBEAT_S": str(HEARTBEAT_S),
            "TIDEGATE_PORT": "0",
            "TIDEGATE_LOG_LEVEL": "warning",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "server", "serve", env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            yield await _read_start(process.stdout)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(STOP_S):
                if await process.wait():
                    raise SystemExit(f"the server ended with {process.returncode}")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._postgres.database_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


async def _read_start(output: asyncio.StreamReader) -> Running:
    url = token = None
    async with asyncio.timeout(START_S):
        while url is None:
            line = (await output.readline()).decode()
            if not line:
                raise SystemExit("the server did not start")
            if line.startswith("listening on "):
                url = line.removeprefix("listening on ").strip()
    try:
        async with asyncio.timeout(0.5):  # printed right after, on an empty database only
            token = (await output.readline()).decode().rpartition(": ")[2].strip()
    except TimeoutError:
        token = None
    return Running(url, token)
