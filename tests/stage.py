"""What several servers stand on, or one whose broker a test may kill: a database and a broker of the test's own."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from server.embedded import EmbeddedBroker
from server.mqtt.link import Incoming, MqttLink
from server.protocol.topics import Topics
from tests.servers import HARDWARE, VENDOR, Api, ServerProcess, sim_process

REGION = "eu"
FACTORY = b"the factory's app. " * 900
WAIT_S = 60.0


class Stage:
    """What all nodes stand on: a database, a broker, one folder of keys and one of blobs."""

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


@asynccontextmanager
async def simulated(lines: list[dict[str, Any]], root: Path, ledger: Path) -> AsyncIterator[None]:
    folder = ledger.parent
    (folder / "devices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "factory.img").write_bytes(FACTORY)
    options = ["--devices-file", str(folder / "devices.jsonl"), "--root", str(root), "--ledger", str(ledger)]
    with sim_process(folder, *options, "--reboot-s", "0.5", "--factory", f"app={folder / 'factory.img'}"):
        yield


async def until_ready(api: Api, count: int) -> None:
    """Wait until all devices are online and have said what they run."""
    async with asyncio.timeout(WAIT_S):
        while True:
            devices = (await api.get("/v1/devices")).body["devices"]
            if sum(device["online"] and device["running_version"] == "1.0.0" for device in devices) == count:
                return
            await asyncio.sleep(0.2)
