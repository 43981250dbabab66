"""Two servers on one database and one broker: one decides, the other takes over, and the first, woken, does nothing."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from firmware_store.documents import decode_payload, split
from server.domain.gate import DEAD_MAN_S, FULL
from server.embedded import EmbeddedBroker
from server.mqtt.link import Incoming, MqttLink
from server.protocol.orders import Directive, read_directive
from server.protocol.topics import Topics
from tests.servers import HARDWARE, QUICK_RULE, ROOT, VENDOR, Api, ServerProcess, make_bundle, open_folder

pytestmark = pytest.mark.slow

DEVICES, REGION = 10, "eu"
FACTORY, RELEASE = b"the factory's app. " * 900, b"a better app. " * 1200
PLAN = {"waves": [{"ratio": ratio, "ramp_s": 3, "soak_s": 1} for ratio in (0.2, 0.6, 1)]}
POLICY = {"halt": QUICK_RULE, "trial_s": 2, "confirm_s": 120, "watch_s": 2}
WAIT_S = 60.0
TAKE_OVER_S = 120.0
"""The lease's life, and the time for which an open transaction of the former holder is waited for, at worst."""


class Stage:
    """What both nodes stand on: a database, a broker, one folder of keys and one of blobs."""

    def __init__(self, folder: Path, database: str, broker: EmbeddedBroker) -> None:
        own = broker.server_credential
        user, password = quote(own.username, safe=""), quote(own.password, safe="")
        self.folder, self.database, self.broker = folder, database, broker
        self.settings = {
            "heartbeat_s": "1",
            "database_url": database,
            "mqtt_url": f"mqtt://{user}:{password}@{broker.mqtt_host}:{broker.mqtt_port}",
            "mqtt_client_id": own.client_id,
            "blobs_dir": str(folder / "blobs"),
        }
        self.nodes: list[ServerProcess] = []

    def node(self, name: str, **settings: str) -> ServerProcess:
        """A node that has not been started; all have the keys of the first."""
        folder = self.folder / name
        folder.mkdir()
        keys = {"keys_dir": str(self.nodes[0].keys)} if self.nodes else {}
        node = ServerProcess(folder, **self.settings, **keys, **settings)
        node.token = self.nodes[0].token if self.nodes else ""
        self.nodes.append(node)
        return node

    async def read(self, statement: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.database)
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    async def until(self, statement: str, within_s: float = WAIT_S) -> None:
        """Wait for the database to have such a row."""
        try:
            async with asyncio.timeout(within_s):
                while not await self.read(statement):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            said = "\n".join(node.log.read_text()[-3000:] for node in self.nodes)
            raise AssertionError(f"{statement}\n{said}") from None

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[list[Incoming]]:
        """Directives as they are published, what is retained first."""
        own, seen, up = self.broker.server_credential, list[Incoming](), asyncio.Event()
        link = MqttLink(
            host=self.broker.mqtt_host,
            port=self.broker.mqtt_port,
            client_id="watcher",
            username=own.username,
            password=own.password,
            on_message=seen.append,
            on_up=lambda _: up.set(),
        )
        running = asyncio.create_task(link.run())
        try:
            async with asyncio.timeout(WAIT_S):
                await up.wait()
                await link.subscribe_acked([(topic, 0) for topic in Topics().all_directives])
            yield seen
        finally:
            await link.close()
            await running

    async def retained(self) -> list[bytes]:
        """What the broker retains for the one audience there is."""
        async with self.watching() as seen, asyncio.timeout(WAIT_S):
            while not seen:
                await asyncio.sleep(0.01)
            return [message.payload for message in seen]


@pytest.fixture
async def stage(database: str) -> AsyncIterator[Stage]:
    folder = open_folder()
    async with EmbeddedBroker(folder / "broker") as broker:
        stage = Stage(folder, database, broker)
        yield stage
        for node in stage.nodes:
            if node.is_alive:
                node.wake()
                node.kill()
    shutil.rmtree(folder)


async def add_devices(stage: Stage, api: Api, *, count: int) -> list[dict[str, Any]]:
    """Add devices, and return their lines of a devices file: the broker is ours, so the server gives no credentials."""
    lines = []
    for number in range(count):
        name = f"gw-{number:03}"
        await api.add_device(name, REGION)
        own = stage.broker.issue_device_credential(name)
        line = {"id": name, "region": REGION, "cohort": "main", "vendor": VENDOR, "hardware": HARDWARE}
        access = {"host": stage.broker.mqtt_host, "port": stage.broker.mqtt_port, "username": own.username}
        lines.append(line | access | {"password": own.password, "client_id": own.client_id})
    return lines


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@asynccontextmanager
async def simulated(lines: list[dict[str, Any]], root: Path, ledger: Path) -> AsyncIterator[None]:
    folder = ledger.parent
    (folder / "devices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "factory.img").write_bytes(FACTORY)
    command = [sys.executable, "-m", "server", "sim", "run", "--dir", str(folder / "devices"), "--ledger", str(ledger)]
    command += ["--devices-file", str(folder / "devices.jsonl"), "--root", str(root), "--reboot-s", "0.5"]
    command += ["--factory", f"app={folder / 'factory.img'}"]
    with (folder / "devices.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT_S)


async def start_campaign(api: Api, bundle: Path, plan: dict[str, Any]) -> str:
    uploaded = (await api.upload(bundle.read_bytes())).body["id"]
    draft = {"name": "two nodes", "bundle": uploaded, "cohort": "main", "regions": [REGION]}
    created = await api.post("/v1/campaigns", draft | {"plan": plan, "policy": POLICY})
    started = await api.post(f"/v1/campaigns/{created.body['id']}/start", {})
    assert started.status == 200, started
    return str(created.body["id"])


async def until_ready(api: Api, count: int) -> None:
    """Wait until all devices are online and have said what they run."""
    async with asyncio.timeout(WAIT_S):
        while True:
            devices = (await api.get("/v1/devices")).body["devices"]
            if sum(device["online"] and device["running_version"] == "1.0.0" for device in devices) == count:
                return
            await asyncio.sleep(0.2)


def read(body: bytes) -> Directive:
    payload, _ = split(body)
    return read_directive(decode_payload(payload))


async def test_a_standby_takes_over_from_a_frozen_node_which_then_changes_nothing(
    stage: Stage, ledger: Path, tmp_path: Path
) -> None:
    first = stage.node("first")
    await asyncio.to_thread(first.start)
    second = stage.node("second", standby="true")
    second.launch()
    await asyncio.to_thread(second.await_standby)
    api, standby = Api(first.url, first.token), Api(second.url, first.token)

    assert (await standby.get("/healthz")).status == 200
    readiness = await standby.get("/readyz")
    assert (readiness.status, readiness.body["ready"]) == (503, False)
    assert "standby: Node " in readiness.body["checks"][0]["text"]
    refused = await standby.get("/v1/devices")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")

    lines = await add_devices(stage, api, count=DEVICES)
    async with stage.watching() as published, simulated(lines, first.keys / "root.cbor", ledger):
        await until_ready(api, DEVICES)
        campaign = await start_campaign(api, make_bundle(tmp_path, first.keys, content={"app": RELEASE}), PLAN)
        await stage.until("SELECT 1 FROM decision WHERE kind = 'open_wave'")
        await api.close()

        first.freeze()
        frozen_with = await stage.read("SELECT id FROM decision WHERE generation = 1 ORDER BY id")
        await stage.until("SELECT 1 FROM lease WHERE generation = 2", TAKE_OVER_S)
        await asyncio.to_thread(second.await_serving)
        await stage.until("SELECT 1 FROM decision WHERE generation = 2")
        published_before = len(published)
        first.wake()
        code = await asyncio.to_thread(first.wait)

        await stage.until("SELECT 1 FROM campaign WHERE state = 'finished'", TAKE_OVER_S)
        ended = (await standby.get(f"/v1/campaigns/{campaign}")).body
        held = [body for (body,) in await stage.read("SELECT body FROM directive")]
        async with asyncio.timeout(WAIT_S):
            while published[-1].payload != held[0]:
                await asyncio.sleep(0.01)
    await standby.close()

    assert code == 1
    assert "Another node has taken over" in first.log.read_text()
    assert ended["states"] == {"confirmed": DEVICES}
    decided = await stage.read("SELECT kind FROM decision ORDER BY id")
    # The gap was bad weather: the campaign paused for it, and went on by itself.
    assert [kind for (kind,) in decided if "pause" not in kind] == [
        "start",
        "open_wave",
        "open_wave",
        "open_wave",
        "complete",
        "finish",
    ]
    assert await stage.read("SELECT id FROM decision WHERE generation = 1 ORDER BY id") == frozen_with

    counters = [read(message.payload).counter for message in published]
    assert counters == sorted(counters)
    assert len(counters) > published_before
    assert await stage.retained() == held
    done = Counter((fact["device"], fact["event"]) for fact in map(json.loads, ledger.read_text().splitlines()))
    assert {done[f"gw-{number:03}", event] for number in range(DEVICES) for event in ("started", "confirmed")} == {1}
    assert second.stop() == 0


async def test_a_second_node_that_is_not_a_standby_is_turned_away(stage: Stage) -> None:
    first = stage.node("first")
    await asyncio.to_thread(first.start)
    second = stage.node("second")
    second.launch()

    assert await asyncio.to_thread(second.wait) == 1
    assert "holds the lease of this database" in second.log.read_text()
    waiting = stage.node("third", standby="true")
    waiting.launch()
    await asyncio.to_thread(waiting.await_standby)
    assert waiting.stop() == 0
    assert first.stop() == 0
    await asyncio.to_thread(second.start)  # the first has given the lease back
    assert second.stop() == 0


async def test_a_level_stops_by_itself_when_its_server_does(stage: Stage, ledger: Path, tmp_path: Path) -> None:
    """Read off the broker, as every device reads it: no line reaches further than 120 s past its issue.

    Woken, the server goes on, since nobody has taken over; it begins a new session, in which it judges nobody at first.
    """
    server = stage.node("first")
    await asyncio.to_thread(server.start)
    api = Api(server.url, server.token)
    lines = await add_devices(stage, api, count=2)
    slow = {"waves": [{"ratio": 1, "ramp_s": 3600, "soak_s": 1}]}
    async with simulated(lines, server.keys / "root.cbor", ledger):
        await until_ready(api, 2)
        await start_campaign(api, make_bundle(tmp_path, server.keys), slow)
        rising = "JOIN campaign_region ON ramp_end = t1 WHERE l1 > 0"
        await stage.until(f"SELECT 1 FROM directive {rising} AND action = 1 AND published_counter = counter")
        server.freeze()
        (body,) = await stage.retained()

        await stage.until("SELECT 1 FROM lease WHERE until < clock_timestamp()")
        server.wake()
        async with asyncio.timeout(WAIT_S):
            while not (await api.get("/readyz")).body["ready"]:
                await asyncio.sleep(0.1)
    await api.close()

    directive = read(body)
    assert directive.ramp is not None
    assert directive.ramp.t1 <= directive.issued + DEAD_MAN_S
    assert 0 < directive.ramp.l1 < FULL // 20
    said = server.log.read_text()
    assert "lease_renewed_late" in said
    assert said.count("broker_up") > 1
    assert await stage.read("SELECT generation FROM lease") == [(1,)]
    assert server.stop() == 0
