"""What the routes see of the server."""

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from firmware_store.blobs import BlobStore
from server.db.database import Database
from server.db.devices import DeviceRepository
from server.db.executions import ExecutionRepository
from server.db.fleet_executions import FleetExecutionRepository
from server.db.places import PlaceRepository
from server.db.policies import PolicyRepository
from server.services.admission import Admission
from server.services.audit import Audit
from server.services.authentication import Authentication
from server.services.authority import Authority
from server.services.bundles import Bundles
from server.services.campaigns import Campaigns
from server.services.catalogue import Catalogue
from server.services.certificates import Certificates
from server.services.cursors import Cursors
from server.services.deltas import Deltas
from server.services.device_table import DeviceTable
from server.services.drift import Drift
from server.services.enrolment import Enrolment
from server.services.evidence import Evidence
from server.services.explain import Explain
from server.services.feed import Feed
from server.services.fleet import Fleet
from server.services.freezes import Freezes
from server.services.inventory import Inventory
from server.services.metrics import Metrics
from server.services.operations import Operations
from server.services.orchestrator import Orchestrator
from server.services.publisher import Publisher
from server.services.quarantine import Quarantine
from server.services.rehearsals import Rehearsals
from server.services.request_keys import RequestKeys
from server.services.revocations import Revocations
from server.services.rollbacks import Rollbacks
from server.services.room import Room
from server.services.search import Search
from server.services.snapshot import Surveyor
from server.services.store_watch import StoreWatch
from server.services.tickets import Tickets
from server.services.tokens import Tokens
from server.services.trust import TrustDocuments
from server.services.upkeep import Upkeep
from server.services.webhooks import Webhooks
from server.services.why import Why
from server.services.wire import Wire


@dataclass(frozen=True, slots=True)
class Context:
    """The use cases, and the few repositories that are only read."""

    database: Database
    admission: Admission
    audit: Audit
    cursors: Cursors
    deltas: Deltas
    devices: DeviceRepository
    executions: ExecutionRepository
    fleet_executions: FleetExecutionRepository
    authentication: Authentication
    authority: Authority
    blobs: BlobStore
    bundles: Bundles
    campaigns: Campaigns
    catalogue: Catalogue
    certificates: Certificates
    drift: Drift
    enrolment: Enrolment
    evidence: Evidence
    explain: Explain
    feed: Feed
    fleet: Fleet
    freezes: Freezes
    inventory: Inventory
    metrics: Metrics
    operations: Operations
    orchestrator: Orchestrator
    places: PlaceRepository
    policies: PolicyRepository
    publisher: Publisher
    request_keys: RequestKeys
    quarantine: Quarantine
    rehearsals: Rehearsals
    revocations: Revocations
    rollbacks: Rollbacks
    room: Room
    store_watch: StoreWatch
    search: Search
    surveyor: Surveyor
    tables: DeviceTable
    tickets: Tickets
    tokens: Tokens
    trust: TrustDocuments
    upkeep: Upkeep
    why: Why
    webhooks: Webhooks
    wire: Wire
    topic_root: str


CONTEXT: Final = web.AppKey("context", Context)
