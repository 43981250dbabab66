"""The services on a real database, with a broker that is a dictionary and a clock that a test moves.

What goes out is really signed and what comes in is really stored; only the wire is not there. Devices are played by
``Player``: it says what a device would say, and nothing of it is faked behind the services' backs.
"""

import asyncio
import hashlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firmware_store.blobs import BlobStore
from firmware_store.errors import BrokerUnavailableError
from firmware_store.suit import class_id, vendor_id
from server.db.bundles import BundleRecord, BundleRepository
from server.db.campaign_records import CampaignRecord
from server.db.campaigns import CampaignRepository
from server.db.database import Database
from server.db.devices import DeviceRepository, NewDevice
from server.db.directives import DirectiveRepository
from server.db.executions import ExecutionRepository
from server.db.freezes import FreezeRepository
from server.db.halts import HaltRepository
from server.db.published import PublishedRepository
from server.db.revocations import RevocationRepository
from server.db.telemetry import DeviceHello, DeviceReport, TelemetryRepository
from server.db.trust import TrustRepository
from server.domain.execution import State
from server.domain.gate import height, is_due
from server.domain.identity import CampaignId, Cohort, DeviceId, HardwareClass, Region
from server.domain.plan import Plan, Policy
from server.domain.trust import begin
from server.protocol.messages import Hello, Report, Slot
from server.protocol.orders import Action, Directive
from server.protocol.topics import Audience, CohortAudience, Topics
from server.services.admits import Admits
from server.services.authority import Authority
from server.services.blob_wire import BlobWire
from server.services.bundles import Bundles
from server.services.campaigns import Campaigns
from server.services.changes import Changes
from server.services.device import Device
from server.services.directives import Directives
from server.services.drafts import Draft
from server.services.evidence import Evidence
from server.services.fleet import Fleet
from server.services.freezes import Freezes
from server.services.inventory import Inventory
from server.services.keyring import Keyring
from server.services.metrics import Metrics
from server.services.orchestrator import Orchestrator
from server.services.presence import Presence
from server.services.publisher import Publisher
from server.services.quarantine import Quarantine
from server.services.reports import Reports
from server.services.revocations import Revocations
from server.services.rollbacks import Rollbacks
from server.services.room import Room
from server.services.silence import Silence
from server.services.snapshot import Surveyor
from server.services.sources import Sources
from server.services.tickets import Tickets
from server.services.trust import TrustDocuments
from server.services.wire import Wire
from tests.records import MAIN, add_bundle
from tests.trust_fleet import HARDWARE as HARDWARE_NAME
from tests.trust_fleet import VENDOR, TrustFleet, shared_folder

HARDWARE = HardwareClass(HARDWARE_NAME)
HEARTBEAT_S = 10
GRACE_S = 600
SKIP_FROM_S = 10_000


@dataclass
class Shelf:
    """A broker without a network: what it retains, and all that was ever published, in order."""

    up_since: float | None
    retained: dict[str, bytes] = field(default_factory=dict)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    refuses: bool = False

    async def publish_retained(self, topic: str, payload: bytes) -> None:
        self.publish_nowait(topic, payload)
        if payload:
            self.retained[topic] = payload
        else:
            self.retained.pop(topic, None)

    async def read_retained(self, topics: Collection[str]) -> Mapping[str, bytes]:
        return {topic: self.retained[topic] for topic in topics if topic in self.retained}

    def publish_nowait(self, topic: str, payload: bytes) -> None:
        if self.refuses or self.up_since is None:
            raise BrokerUnavailableError("the shelf is shut")
        self.published.append((topic, payload))


class World:
    """Everything between the wire and the database."""

    def __init__(
        self,
        store: Database,
        blobs: Path,
        *,
        keys: TrustFleet | None = None,
        budget_bytes: int = 1 << 20,
        publish_bytes_per_s: int = 64 << 20,
        public_url: str | None = None,
    ) -> None:
        self.now = time.time()
        self.store = store
        self.keys = TrustFleet.open(shared_folder()) if keys is None else keys
        self.blobs = BlobStore(blobs)
        self.authority = Authority(
            Keyring.open(self.keys.folder), begin(self.keys.pinned), self.blobs, clock=lambda: self.now
        )
        self.shelf = Shelf(up_since=self.now - 3600)
        self.topics = Topics()
        self.metrics = Metrics()
        self.fleet = Fleet(heartbeat_s=HEARTBEAT_S)
        self.devices = DeviceRepository(store)
        self.executions = ExecutionRepository(store)
        self.telemetry = TelemetryRepository(store)
        self.repository = CampaignRepository(store)
        self.directive_repository = DirectiveRepository(store)
        on_the_wire: dict[str, Any] = {"wire": self.shelf, "topics": self.topics, "metrics": self.metrics}
        self.directives = Directives(repository=self.directive_repository, authority=self.authority, **on_the_wire)
        self.directives.sources = Sources.of(public_url, Tickets(self.authority.root.fleet, b"s" * 32))
        self.bundles = Bundles(repository=BundleRepository(store), store=self.blobs, authority=self.authority)
        self.published = PublishedRepository(store)
        self.room = Room(self.published, budget_bytes=budget_bytes, has_http=public_url is not None)
        self.changes = Changes(
            repository=self.repository,
            bundles=BundleRepository(store),
            directives=self.directives,
            metrics=self.metrics,
        )
        self.campaigns = Campaigns(
            repository=self.repository,
            bundles=BundleRepository(store),
            devices=self.devices,
            directives=self.directives,
            changes=self.changes,
            room=self.room,
            clock=lambda: self.now,
        )
        self.publisher = self.new_publisher(bytes_per_s=publish_bytes_per_s)
        self.trust = TrustDocuments(
            repository=TrustRepository(store),
            roots={self.authority.root.version: self.keys.pinned},
            authority=self.authority,
            changes=self.changes,
            directives=self.directives,
            wire=self.shelf,
            topics=self.topics,
            clock=lambda: self.now,
        )
        self.directives.before_flush = self.trust.flush
        self.revocations = Revocations(RevocationRepository(store), clock=lambda: self.now)
        halts = HaltRepository(store)
        self.surveyor = Surveyor(executions=self.executions, halts=halts, fleet=self.fleet)
        self.evidence = Evidence(halts)
        self.orchestrator = Orchestrator(
            repository=self.repository,
            changes=self.changes,
            directives=self.directives,
            surveyor=self.surveyor,
            silence=Silence(executions=self.executions, fleet=self.fleet),
            evidence=self.evidence,
            wire=self.shelf,
            metrics=self.metrics,
            grace_s=self.fleet.grace_s,
            clock=lambda: self.now,
        )
        self.presence = Presence(
            fleet=self.fleet,
            repository=self.devices,
            directives=self.directives,
            authority=self.authority,
            heartbeat_s=HEARTBEAT_S,
            **on_the_wire,
        )
        self.reports = Reports(repository=self.telemetry, fleet=self.fleet, **on_the_wire)
        self.rollbacks = Rollbacks(
            repository=self.repository,
            executions=self.executions,
            bundles=BundleRepository(store),
            changes=self.changes,
        )
        self.freezes = Freezes(
            repository=FreezeRepository(store),
            campaign_repository=self.repository,
            changes=self.changes,
            clock=lambda: self.now,
        )
        self.quarantine = Quarantine(
            devices=self.devices,
            campaigns=self.repository,
            fleet=self.fleet,
            presence=self.presence,
            clock=lambda: self.now,
        )
        self.orchestrator.chores = (self.rollbacks.tick, self.freezes.tick, self.quarantine.tick)
        self.orchestrator.admits = Admits(fleet=self.fleet, presence=self.presence)
        self.inventory = Inventory(repository=self.devices, fleet=self.fleet, issuer=None, clock=lambda: self.now)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    # --- what people do ---

    async def populate(self, each: int, *regions: Region) -> None:
        """Add so many devices in each region, all of them online with a factory image."""
        names = [(DeviceId(f"{region}-{number:03}"), region) for region in regions for number in range(each)]
        await self.inventory.add([NewDevice(name, region, MAIN) for name, region in names])
        await self.connect(*(name for name, _ in names))

    async def add_release(self, number: int = 1) -> BundleRecord:
        """A bundle for ``HARDWARE``, really signed, whose blobs are there to be published."""
        vendor = vendor_id(VENDOR)
        release = self.keys.release(number)
        for digest, blob in release.blobs.items():
            await self.blobs.put(digest, blob)
        return await add_bundle(
            self.store,
            manifest_digest=release.manifest_digest,
            envelope_digest=release.envelope_digest,
            envelope_bytes=len(release.envelope),
            sequence_number=number,
            vendor_id=vendor,
            class_ids=(class_id(vendor, HARDWARE),),
            blobs={digest: len(blob) for digest, blob in release.blobs.items()},
        )

    async def start(
        self, release: BundleRecord, plan: Plan, policy: Policy, *regions: Region, cohort: Cohort = MAIN
    ) -> CampaignId:
        draft = Draft("spring", cohort, regions, release.id, plan, policy, "a test")
        campaign = await self.campaigns.draft(draft, caller="ann")
        await self.campaigns.start(campaign.id, caller="ann", reason="because")
        await self.publish()
        return campaign.id

    def new_publisher(self, wire: Wire | None = None, *, bytes_per_s: int = 64 << 20) -> Publisher:
        """One that knows nothing but what is stored; without a wire it publishes to the shelf."""
        return Publisher(
            repository=self.published,
            campaigns=self.repository,
            wire=BlobWire(store=self.blobs, wire=wire or self.shelf, topics=self.topics),
            room=self.room,
            metrics=self.metrics,
            bytes_per_s=bytes_per_s,
            grace_s=GRACE_S,
            clock=lambda: self.now,
        )

    async def publish(self) -> None:
        """Let the broker get, and lose, what it should."""
        while await self.publisher.round():
            await asyncio.sleep(0)

    async def campaign(self, campaign: CampaignId) -> CampaignRecord:
        return await self.repository.get(campaign)

    async def die(self, campaign: CampaignId, *devices: Device) -> None:
        """They report their reboot, a few at a time, and are never heard again."""
        for start in range(0, len(devices), 3):
            some = devices[start : start + 3]
            await self.report(campaign, State.REBOOTING, *some)
            for device in some:
                device.gone = True
            await self.live(5)

    async def live(self, seconds: float = 8) -> None:
        """Let time pass, with beats of everybody who is online, and evaluate often: who comes late was blind.

        A wave opens, its line begins to rise a second later, and so on: steps are small at first. Days are skipped, all
        but their last minute.
        """
        if seconds > SKIP_FROM_S:
            self.now += seconds - 60
            seconds = 60
        until, step = self.now + seconds, 1.0
        while True:
            self.beat(*(device for device in self.fleet if not device.gone))
            await self.orchestrator.tick()
            if self.now >= until:
                return
            self.now = min(until, self.now + step)
            step = min(step + 0.5, 5)

    # --- what devices see ---

    def order(self, region: Region, cohort: Cohort = MAIN) -> Directive | None:
        """What the broker retains for an audience, as a device would read it."""
        body = self.shelf.retained.get(self.topics.directive(CohortAudience(region, cohort)))
        return None if body is None else self.authority.read_directive(body)

    def retained_directives(self) -> Mapping[Audience, bytes]:
        return {
            self.topics.parse_directive(topic): body
            for topic, body in self.shelf.retained.items()
            if topic.endswith("/directive")
        }

    def due(self, campaign: CampaignId, region: Region) -> list[Device]:
        """The devices that the retained offer lets begin now, lowest first."""
        order = self.order(region)
        if order is None or order.action is not Action.OFFER or order.ramp is None or order.campaign != campaign:
            return []
        level = order.ramp.level(self.now)
        members = sorted(self.fleet.members(MAIN, region), key=lambda device: height(campaign, device.id))
        return [device for device in members if is_due(height(campaign, device.id), level)]

    # --- what devices say ---

    async def connect(self, *devices: DeviceId, digest: bytes = b"", wake_interval_s: int | None = None) -> None:
        """Say hello, as the devices that run an image with this manifest digest, and sleep for so long."""
        hellos = []
        for name in devices:
            device = self.fleet.get(name)
            assert device is not None
            slot = Slot("a", 0, "1.0.0", digest, "confirmed")
            nonce = hashlib.sha256(f"{name}{self.now}".encode()).digest()[:16]
            hello = Hello(b"bootboot", VENDOR, HARDWARE, "0.1", (slot,), "a", nonce, wake_interval_s=wake_interval_s)
            self.presence.hello(device, hello, self.now, region=device.region)
            hellos.append(DeviceHello(name, hello))
        await self.telemetry.store(hellos=hellos, reports=[], now=self._moment())

    async def report(self, campaign: CampaignId, state: State, *devices: Device, **members: Any) -> None:
        """Say one state for each of these devices; report numbers go up by themselves."""
        said = []
        for device in devices:
            self.fleet.hear(device, self.now)
            device.last_sequence += 1
            given = {"attempt": 1, "manifest_digest": b"m" * 32} | members
            one = Report(sequence=device.last_sequence, campaign=campaign, state=state, **given)
            said.append(DeviceReport(device.id, device.region, one))
        await self.telemetry.store(hellos=[], reports=said, now=self._moment())

    def beat(self, *devices: Device) -> None:
        for device in devices:
            self.fleet.hear(device, self.now)

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)
