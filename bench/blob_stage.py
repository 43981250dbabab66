"""What the blob bench plays on: a broker, a real ``tidegate serve`` on it, releases, and a fleet for each round."""

import asyncio
import getpass
import json
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.blob_release import HARDWARE, VENDOR, BlobRelease, build_release, read_release
from bench.target import Target
from device_sim.inventory import Entry
from firmware_store.documents import Kind, seal
from firmware_store.keys import load_key
from firmware_store.root import ROOT_FILE, init_dev_keys, open_root
from server.cli.client import BUNDLE_MEDIA_TYPE, Client
from server.cli.demo import stage
from server.domain.gate import Ramp
from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.embedded import EmbeddedBroker, MqttCredential
from server.mqtt.link import MqttLink
from server.protocol.messages import Counter
from server.protocol.orders import Action, Directive, Envelope, directive_map
from server.protocol.topics import CohortAudience, Topics
from server.services import identifiers

REGION: Final = Region("bench")
HEARTBEAT_S: Final = 5
START_S: Final = 10.0
PUBLISH_S: Final = 300.0
OFFER_S: Final = 3600
MOSQUITTO: Final = """
listener {port} 127.0.0.1
allow_anonymous true
user {user}
max_inflight_messages 10000
max_queued_messages 500000
queue_qos0_messages false
max_packet_size 135168
set_tcp_nodelay true
"""
"""The limits of deploy/mosquitto, without TLS and passwords, whose cost is the same on either side."""


class Fleet(NamedTuple):
    """Devices of one round: their cohort, and the file that lists them."""

    cohort: Cohort
    file: Path


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker; ``credential`` is what a device connects with, where it needs any."""

    target: Target
    pid: int
    credential: Callable[[DeviceId], MqttCredential | None]


@asynccontextmanager
async def nats(folder: Path) -> AsyncIterator[Broker]:
    async with EmbeddedBroker(folder) as broker:
        own = broker.server_credential
        target = Target(broker.mqtt_host, broker.mqtt_port, own.username, own.password)
        yield Broker(target, _child("nats-server"), broker.issue_device_credential)


@asynccontextmanager
async def mosquitto(folder: Path) -> AsyncIterator[Broker]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = folder / "mosquitto.conf"
    configuration.write_text(MOSQUITTO.format(port=port, user=getpass.getuser()))
    process = await asyncio.create_subprocess_exec(
        "mosquitto", "-c", str(configuration), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(START_S):
            while not await _listens(port):
                await asyncio.sleep(0.05)
        yield Broker(Target("127.0.0.1", port), process.pid, lambda _: None)
    finally:
        process.terminate()
        await process.wait()


BROKERS: Final = {"mosquitto": mosquitto, "nats": nats}


def installed_brokers() -> list[str]:
    """Mosquitto is not a wheel: where it is not installed, it is not measured."""
    return [name for name in BROKERS if name == "nats" or shutil.which(name)]


class BlobStage:
    """Releases and fleets at one server. Every campaign has a cohort of its own, so that none is in another's way."""

    def __init__(self, folder: Path, broker: Broker, served: stage.Served, client: Client) -> None:
        self.broker = broker
        self.server_pid = served.process.pid
        self.root = folder / "server" / "keys" / ROOT_FILE
        self._root = open_root(self.root.read_bytes(), now=None)
        self._folder = folder
        self._served = served
        self._client = client
        self._numbers = count(1)
        self._campaigns: dict[Path, CampaignId] = {}

    async def add_release(self, image: Path) -> BlobRelease:
        """Upload a release, and return when a campaign of it has every blob at the broker."""
        bundle = self._folder / f"{image.stem}.tgb"
        sequence = len(self._campaigns) + 1
        await asyncio.to_thread(build_release, image, keys=self.root.parent, output=bundle, sequence=sequence)
        pushed = await self._client.upload("/v1/bundles", bundle, BUNDLE_MEDIA_TYPE)
        draft = {
            "name": image.stem,
            "bundle": pushed["id"],
            "cohort": f"published-{sequence}",
            "regions": [REGION],
            "plan": {"waves": [{"ratio": 1.0, "ramp_s": 0, "soak_s": 86_400}]},
        }
        campaign = await self._client.post("/v1/campaigns", draft)
        await self._client.post(f"/v1/campaigns/{campaign['id']}/start", {"reason": "bench"})
        async with asyncio.timeout(PUBLISH_S):
            while not _is_published(await self._client.get(f"/v1/campaigns/{campaign['id']}")):
                await asyncio.sleep(0.1)
        self._campaigns[bundle] = CampaignId(identifiers.parse(identifiers.CAMPAIGN, campaign["id"]))
        return await read_release(image, bundle, self.root.read_bytes())

    def write_topics(self, release: BlobRelease) -> Path:
        """Write what bare subscribers subscribe to, in the order of the image: lines of topic and size."""
        file = release.bundle.with_suffix(".topics")
        topics = Topics()
        file.write_text("".join(f"{topics.blob(digest)} {len(blob)}\n" for digest, blob in release.blobs.items()))
        return file

    async def add_fleet(self, devices: int) -> Fleet:
        """Add devices that nothing is offered to so far."""
        cohort = Cohort(f"round-{next(self._numbers)}")
        names = [f"{cohort}-{number:03}" for number in range(devices)]
        wanted = [{"id": name, "region": REGION, "cohort": cohort} for name in names]
        await self._client.post("/v1/devices", {"devices": wanted})
        file = self._folder / f"{cohort}.jsonl"
        file.write_text("".join(f"{json.dumps(asdict(self._entry(name, cohort)))}\n" for name in names))
        return Fleet(cohort, file)

    async def offer(self, release: BlobRelease, fleet: Fleet) -> None:
        """Have all devices of a fleet begin at once.

        A campaign would let them begin one after the other, as the halt rule has room for them. So the directive is
        the bench's own, signed with the fleet's key, and the level has passed every height.
        """
        now = int(time.time())
        audience = CohortAudience(REGION, fleet.cohort)
        manifest = release.verified.manifest
        directive = Directive(
            fleet=self._root.fleet,
            audience=audience,
            counter=Counter(1, now),
            issued=now,
            expires=now + OFFER_S,
            action=Action.OFFER,
            campaign=self._campaigns[release.bundle],
            manifest_digest=manifest.digest,
            sequence_number=manifest.sequence_number,
            envelope=Envelope(sha256(release.envelope).digest(), len(release.envelope)),
            ramp=Ramp(now - 1, 0, now, 1 << 32),
        )
        signer = load_key(self.root.parent / "directive-1.pem", None)
        sealed = seal(Kind.DIRECTIVE, directive_map(directive), [signer])
        await self._publish(Topics().directive(audience), sealed)

    async def _publish(self, topic: str, payload: bytes) -> None:
        target, up = self.broker.target, asyncio.Event()
        link = MqttLink(
            host=target.host,
            port=target.port,
            client_id=f"bench-orders-{time.monotonic_ns()}",
            username=target.username,
            password=target.password,
            on_message=lambda _: None,
            on_up=lambda _: up.set(),
        )
        running = asyncio.create_task(link.run())
        await up.wait()
        await link.publish_acked(topic, payload, retain=True)
        await link.close()
        await running

    def _entry(self, name: str, cohort: str) -> Entry:
        target, own = self.broker.target, self.broker.credential(DeviceId(name))
        entry = Entry(name, REGION, cohort, VENDOR, HARDWARE, target.host, target.port)
        if own is None:
            return entry
        return replace(entry, username=own.username, password=own.password, client_id=own.client_id)


@asynccontextmanager
async def blob_stage(folder: Path, kind: str) -> AsyncIterator[BlobStage]:
    """Run broker and server for the block."""
    async with BROKERS[kind](folder) as broker:
        data = folder / "server"
        init_dev_keys(data / "keys", fleet=None, now=int(time.time()))
        settings = {"TIDEGATE_MQTT_URL": broker.target.url}
        async with (
            stage.server(data, heartbeat_s=HEARTBEAT_S, keep=False, settings=settings) as served,
            Client(served.url, served.token) as client,
        ):
            yield BlobStage(folder, broker, served, client)


def _is_published(campaign: dict[str, Any]) -> bool:
    publication = campaign["publication"]
    return bool(publication["blobs"]) and publication["published_blobs"] == publication["blobs"]


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def _child(program: str) -> int:
    """Return the id of this process's child that runs ``program``."""
    ids: Sequence[str] = [
        pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()
    ]
    return next(int(pid) for pid in ids if Path(f"/proc/{pid}/comm").read_text().strip() == program)
