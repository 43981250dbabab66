"""The composition root: the only module that sees every part. It joins them; `server.app` runs what it has joined."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from firmware_store.blobs import BlobStore
from server.api.context import Context
from server.config import Settings
from server.db.bundles import BundleRepository
from server.db.campaigns import CampaignRepository
from server.db.database import Database
from server.db.deltas import DeltaRepository
from server.db.devices import DeviceRepository
from server.db.directives import DirectiveRepository
from server.db.enrolment import EnrolmentRepository
from server.db.executions import ExecutionRepository
from server.db.fleet_executions import FleetExecutionRepository
from server.db.freezes import FreezeRepository
from server.db.halts import HaltRepository
from server.db.operations import OperationRepository
from server.db.places import PlaceRepository
from server.db.policies import PolicyRepository
from server.db.published import PublishedRepository
from server.db.request_keys import RequestKeyRepository
from server.db.restored import RestoreRepository
from server.db.retention import RetentionRepository
from server.db.revocations import RevocationRepository
from server.db.telemetry import Stored, TelemetryRepository
from server.db.tickets import TicketRepository
from server.db.tokens import TokenRepository
from server.db.trust import TrustRepository
from server.issuer import open_issuer
from server.mqtt.ingest import Ingest
from server.mqtt.session import ServerSession
from server.outgoing.gate import HttpAsking
from server.outgoing.guard import Guard, read_networks
from server.outgoing.setup import make_webhooks
from server.outside import Outside
from server.protocol.topics import Topics
from server.services.admission import Admission
from server.services.admits import Admits
from server.services.authentication import Authentication
from server.services.blob_wire import BlobWire
from server.services.bundles import Bundles
from server.services.campaigns import Campaigns
from server.services.catalogue import Catalogue
from server.services.changes import Changes
from server.services.cursors import Cursors
from server.services.delta_process import make_apart
from server.services.delta_releases import Releases
from server.services.delta_workshop import Workshop
from server.services.deltas import Deltas, installed_codecs
from server.services.device_ca import DeviceCaFolder
from server.services.device_table import DeviceTable
from server.services.directives import Directives
from server.services.drift import Drift
from server.services.enrolment import Enrolment
from server.services.evidence import Evidence
from server.services.explain import Explain
from server.services.fleet import Fleet
from server.services.freezes import Freezes
from server.services.gate_webhooks import GateWebhooks
from server.services.inventory import Inventory
from server.services.metrics import Metrics
from server.services.operations import Operations
from server.services.orchestrator import Orchestrator
from server.services.presence import Presence
from server.services.publisher import Publisher
from server.services.quarantine import Quarantine
from server.services.quota import Quota
from server.services.recall import Grounds, open_authority, read_grounds
from server.services.rehearsals import Rehearsals
from server.services.reports import Reports
from server.services.request_keys import RequestKeys
from server.services.retention import Retention, ages_of
from server.services.revocations import Revocations
from server.services.rollbacks import Rollbacks
from server.services.room import Room
from server.services.search import Search
from server.services.silence import Silence
from server.services.snapshot import Surveyor
from server.services.sources import Sources
from server.services.store_watch import StoreWatch
from server.services.tickets import Tickets
from server.services.tokens import Tokens
from server.services.trail import make_trail
from server.services.trust import TrustDocuments
from server.services.upkeep import Upkeep
from server.services.watch import Watch, parts_of
from server.services.why import Why


@dataclass(frozen=True, slots=True)
class Parts:
    """The running server's parts."""

    context: Context
    session: ServerSession
    reports: Reports
    presence: Presence
    orchestrator: Orchestrator
    directives: Directives
    gate_webhooks: GateWebhooks
    retention: Retention
    watch: Watch


async def build(
    settings: Settings,
    database: Database,
    grounds: Grounds,
    outside: Outside,
    *,
    may_speak: Callable[[], bool] = lambda: True,
) -> Parts:
    """Join the parts; nothing runs yet. Raises: ConfigurationError: the keys are not the root's."""
    metrics = Metrics()
    store = BlobStore.at(settings.blobs)
    quota = Quota(store, settings.store_quota_bytes)
    trust_repository = TrustRepository(database)
    authority, roots = await open_authority(
        grounds, trust_repository, store, now=int(time.time()), production=settings.environment == "production"
    )
    topics = Topics(settings.topic_root)
    fleet = Fleet(heartbeat_s=settings.heartbeat_s)
    device_repository = DeviceRepository(database)
    async for record in device_repository.each():
        fleet.add(record)
    session = ServerSession(outside.broker, topics=topics, may_speak=may_speak, on_up=lambda: fleet.listen(time.time()))
    directives = Directives(
        repository=DirectiveRepository(database), authority=authority, wire=session, topics=topics, metrics=metrics
    )
    tickets = await Tickets.load(TicketRepository(database), authority.root.fleet)
    directives.sources = sources = Sources.of(settings.public_url, tickets)
    await _recall_orders(directives, RestoreRepository(database))
    bundle_repository = BundleRepository(database)
    campaign_repository = CampaignRepository(database)
    executions = ExecutionRepository(database)
    bundles = Bundles(
        repository=bundle_repository,
        store=store,
        authority=authority,
        most_bytes=settings.upload_most_bytes,
        quota=quota,
    )
    published = PublishedRepository(database)
    room = Room(published, budget_bytes=settings.blob_budget_bytes, has_http=sources is not None)
    publisher = Publisher(
        repository=published,
        campaigns=campaign_repository,
        wire=BlobWire(store=store, wire=session, topics=topics),
        room=room,
        metrics=metrics,
        bytes_per_s=settings.publish_bytes_per_s,
        grace_s=settings.blob_grace_s,
    )
    changes = Changes(repository=campaign_repository, bundles=bundle_repository, directives=directives, metrics=metrics)
    campaigns = Campaigns(
        repository=campaign_repository,
        bundles=bundle_repository,
        devices=device_repository,
        directives=directives,
        changes=changes,
        room=room,
        least_approvals=settings.approvals,
    )
    trust = TrustDocuments(
        repository=trust_repository,
        roots=roots,
        authority=authority,
        changes=changes,
        directives=directives,
        wire=session,
        topics=topics,
    )
    directives.before_flush = trust.flush
    halts = HaltRepository(database)
    surveyor = Surveyor(executions=executions, halts=halts, fleet=fleet)
    evidence = Evidence(halts)
    orchestrator = Orchestrator(
        repository=campaign_repository,
        changes=changes,
        directives=directives,
        surveyor=surveyor,
        silence=Silence(executions=executions, fleet=fleet),
        evidence=evidence,
        wire=session,
        metrics=metrics,
        grace_s=fleet.grace_s,
    )
    deltas = Deltas(
        repository=DeltaRepository(database),
        campaigns=campaign_repository,
        bundles=bundle_repository,
        releases=Releases(bundles=bundle_repository, store=store, fleet=fleet),
        workshop=Workshop(store=store, sink=quota, folder=settings.data_dir / "deltas", make=make_apart),
        metrics=metrics,
        codecs=installed_codecs(settings.delta_codecs),
        sources_most=settings.deltas_most,
        image_most_bytes=settings.delta_image_bytes,
        wait_s=settings.delta_wait_s,
    )
    presence = Presence(
        fleet=fleet,
        repository=device_repository,
        directives=directives,
        authority=authority,
        wire=session,
        topics=topics,
        metrics=metrics,
        heartbeat_s=settings.heartbeat_s,
    )
    reports = Reports(
        repository=TelemetryRepository(database), fleet=fleet, wire=session, topics=topics, metrics=metrics
    )
    ingest = Ingest(session=session, topics=topics, fleet=fleet, presence=presence, reports=reports, metrics=metrics)
    session.on_message = ingest.take
    catalogue = Catalogue(repository=bundle_repository, store=store, authority=authority)
    bundles.on_change = catalogue.note_change
    changes.on_change = _all_of(catalogue.note_change, publisher.wake, deltas.wake, orchestrator.wake)
    _join_deltas(deltas, directives, orchestrator, _all_of(catalogue.note_change, publisher.note_needs))
    publisher.on_ready = orchestrator.wake
    reports.on_stored = _waker(orchestrator)
    rollbacks = Rollbacks(
        repository=campaign_repository, executions=executions, bundles=bundle_repository, changes=changes
    )
    freezes = Freezes(repository=FreezeRepository(database), campaign_repository=campaign_repository, changes=changes)
    quarantine = Quarantine(devices=device_repository, campaigns=campaign_repository, fleet=fleet, presence=presence)
    orchestrator.chores = (rollbacks.tick, freezes.tick, quarantine.tick)
    orchestrator.admits = Admits(fleet=fleet, presence=presence)
    enrolment = Enrolment(
        repository=EnrolmentRepository(database),
        fleet=fleet,
        authority=authority,
        ca=DeviceCaFolder(
            settings.keys,
            passphrase=_passphrase(settings),
            name=f"Tidegate devices {authority.root.fleet.hex()[:8]}",
            production=settings.environment == "production",
        ),
        issuer=outside.issuer,
        metrics=metrics,
    )
    trail = make_trail(
        database,
        authority=authority,
        roots=trust.roots,
        data_dir=settings.data_dir,
        events_days=settings.events_days,
    )
    tokens = Tokens(TokenRepository(database))
    context = Context(
        database=database,
        admission=Admission(),
        audit=trail.audit,
        authentication=Authentication(
            tokens=tokens,
            tickets=tickets,
            metrics=metrics,
            requests_per_s=settings.token_requests_per_s,
            failures_per_s=settings.address_failures_per_s,
            foreign=open_issuer(settings),
        ),
        cursors=await Cursors.load(TicketRepository(database), authority.root.fleet),
        deltas=deltas,
        devices=device_repository,
        executions=executions,
        fleet_executions=FleetExecutionRepository(database),
        authority=authority,
        blobs=store,
        bundles=bundles,
        campaigns=campaigns,
        catalogue=catalogue,
        certificates=outside.certificates,
        drift=Drift(campaigns=campaign_repository, bundles=bundle_repository, devices=device_repository, fleet=fleet),
        enrolment=enrolment,
        evidence=evidence,
        explain=Explain(campaigns=campaigns, surveyor=surveyor, evidence=evidence, room=room, wire=session),
        feed=trail.feed,
        fleet=fleet,
        freezes=freezes,
        inventory=Inventory(repository=device_repository, fleet=fleet, issuer=outside.issuer),
        metrics=metrics,
        operations=Operations(
            repository=OperationRepository(database), devices=device_repository, fleet=fleet, presence=presence
        ),
        orchestrator=orchestrator,
        places=PlaceRepository(database),
        policies=PolicyRepository(database),
        publisher=publisher,
        request_keys=RequestKeys(RequestKeyRepository(database)),
        quarantine=quarantine,
        rehearsals=Rehearsals(fleet=fleet, campaigns=campaigns, heartbeat_s=settings.heartbeat_s),
        revocations=Revocations(RevocationRepository(database)),
        rollbacks=rollbacks,
        room=room,
        store_watch=StoreWatch(store),
        search=Search(repository=device_repository, fleet=fleet),
        surveyor=surveyor,
        tables=DeviceTable(repository=device_repository, fleet=fleet),
        tickets=tickets,
        tokens=tokens,
        trust=trust,
        upkeep=Upkeep(repository=bundle_repository, store=store, quota=quota),
        why=Why(
            campaigns=campaign_repository,
            bundles=bundle_repository,
            devices=device_repository,
            executions=executions,
            fleet=fleet,
            directives=directives,
            evidence=evidence,
            wire=session,
        ),
        webhooks=make_webhooks(database, networks=settings.webhook_networks, fleet=lambda: authority.root.fleet),
        wire=session,
        topic_root=settings.topic_root,
    )
    return Parts(
        context,
        session,
        reports,
        presence,
        orchestrator,
        directives,
        retention=_retention_of(settings, database),
        gate_webhooks=_asking_webhooks(settings, campaign_repository, orchestrator),
        watch=Watch(trail.outbox, parts_of(orchestrator, session, context.store_watch)),
    )


def find_grounds(settings: Settings) -> Grounds:
    """Read the trust root and the online keys. Raises: ConfigurationError."""
    return read_grounds(
        settings.keys,
        directive=settings.directive_signer,
        session=settings.session_signer,
        passphrase=_passphrase(settings),
    )


def _passphrase(settings: Settings) -> bytes | None:
    return None if settings.key_passphrase is None else settings.key_passphrase.get_secret_value().encode()


def _retention_of(settings: Settings, database: Database) -> Retention:
    ages = ages_of(days=settings.retain_days, decisions_days=settings.retain_decisions_days)
    return Retention(RetentionRepository(database), ages)


async def _recall_orders(directives: Directives, restores: RestoreRepository) -> None:
    await directives.load()
    if (floor := await restores.counter_floor()) is not None:
        directives.heed_restore(floor)


def _asking_webhooks(settings: Settings, repository: CampaignRepository, orchestrator: Orchestrator) -> GateWebhooks:
    guard = Guard(read_networks(settings.webhook_networks))
    webhooks = GateWebhooks(repository=repository, asking=HttpAsking(guard))
    webhooks.on_answer = orchestrator.wake
    return webhooks


def _join_deltas(
    deltas: Deltas, directives: Directives, orchestrator: Orchestrator, on_made: Callable[[], None]
) -> None:
    directives.deltas = deltas.offers
    orchestrator.deltas = deltas
    deltas.on_made = on_made
    deltas.on_offers = orchestrator.wake


def _all_of(*hear: Callable[[], None]) -> Callable[[], None]:
    def tell() -> None:
        for one in hear:
            one()

    return tell


def _waker(orchestrator: Orchestrator) -> Callable[[Stored], None]:
    def wake(stored: Stored) -> None:
        if stored.campaigns:
            orchestrator.note_news()

    return wake
