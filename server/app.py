"""The composition root: the only module that sees everything. It joins the parts, starts them and stops them."""

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from firmware_store.blobs import BlobStore
from firmware_store.errors import ConfigurationError
from server.api.application import make_application
from server.api.context import Context
from server.api.standby import make_standby_application
from server.config import Settings
from server.db.bundles import BundleRepository
from server.db.campaigns import CampaignRepository
from server.db.database import Database
from server.db.deltas import DeltaRepository
from server.db.devices import DeviceRepository
from server.db.directives import DirectiveRepository
from server.db.enrolment import EnrolmentRepository
from server.db.executions import ExecutionRepository
from server.db.freezes import FreezeRepository
from server.db.halts import HaltRepository
from server.db.lease import LeaseSession, lease_session
from server.db.migrate import check_schema
from server.db.operations import OperationRepository
from server.db.places import PlaceRepository
from server.db.pool import close_pool, open_pool
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
from server.outside import Outside, stand
from server.protocol.topics import Topics
from server.services.admission import Admission
from server.services.admits import Admits
from server.services.authentication import Authentication
from server.services.blob_wire import BlobWire
from server.services.bundles import Bundles
from server.services.campaigns import Campaigns
from server.services.catalogue import Catalogue
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
from server.services.lease import Lease, acquire_now, await_lease, describe_other, name_node
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
from server.services.wire import Retained

log = structlog.get_logger(__name__)

BROKER_WAIT_S: Final = 15.0
SHUTDOWN_S: Final = 10.0

KEEP_ALIVE_S: Final = 75.0
"""A connection that has not sent a whole request for so long is closed; proxies close sooner (nginx: 60 s)."""

LINE_MOST_BYTES: Final = 32_768
"""Of a request's first line: the longest filter fits, all of it percent-encoded."""

GC_THRESHOLD: Final = 50_000
"""New objects before Python looks for cycles among them; its default is 700, which one batch of reports passes often.

Reports that wait for their commit are alive and in no cycle: each look at them is in vain, and it was a tenth of the
server's time under load, half of it spent on modules and the fleet, which are there for good (and frozen, see below).
"""


@dataclass(frozen=True, slots=True)
class Ready:
    """What whoever started the server wants to know: where it listens, and the first token, once.

    ``standby``: it waits for its turn, and will say once more that it is ready.
    """

    url: str
    first_token: str | None = None
    standby: bool = False


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


async def run(settings: Settings, on_ready: Callable[[Ready], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError, SchemaError: it cannot work as it is set up; the text says what to do.
        StoreUnavailableError, BrokerUnavailableError: they do not answer at the start.
        LeaseLostError: another node has taken over.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    grounds = find_grounds(settings)
    async with AsyncExitStack() as stack:
        outside = await stand(settings, stack)
        node = await stack.enter_async_context(lease_session(outside.database_url, name_node(settings.data_dir)))
        if settings.standby:
            settings, lease = await _stand_by(settings, outside, node, stop, on_ready)
        else:
            lease = await acquire_now(node)
        if lease is None:
            return
        await stack.enter_async_context(lease.kept())
        if settings.standby:  # it may have waited for months
            await check_schema(outside.database_url)
            grounds = find_grounds(settings)
        url, parts = await stack.enter_async_context(serving(settings, outside, grounds, lease, stop))
        _settle_memory()
        on_ready(Ready(url, await parts.context.tokens.create_first()))
        await stop.wait()
        log.info("stopping")


def find_grounds(settings: Settings) -> Grounds:
    """Read the trust root and the online keys. Raises: ConfigurationError."""
    return read_grounds(
        settings.keys,
        directive=settings.directive_signer,
        session=settings.session_signer,
        passphrase=_passphrase(settings),
    )


@asynccontextmanager
async def serving(
    settings: Settings, outside: Outside, grounds: Grounds, lease: Lease, stop: asyncio.Event
) -> AsyncIterator[tuple[str, Parts]]:
    """Serve for the block; ``stop`` is set when a part has ended by itself. Gives the URL of REST, and the parts.

    Raises:
        ConfigurationError, StoreUnavailableError, BrokerUnavailableError: see ``run``.
    """
    async with AsyncExitStack() as stack:
        pool = await open_pool(outside.database_url, generation=lease.generation)
        stack.push_async_callback(close_pool, pool)
        parts = await build(settings, Database(pool), grounds, outside, may_speak=lease.is_held)
        lease.on_late = parts.session.restart
        await parts.context.enrolment.repeat_revocations()
        await stack.enter_async_context(_working(parts, outside, stop))
        await parts.session.wait_up(BROKER_WAIT_S)
        url = await _listen(settings, make_application(parts.context), outside, stack)
        log.info("serving", url=url, devices=len(parts.context.fleet))
        yield url, parts


async def _stand_by(
    settings: Settings, outside: Outside, node: LeaseSession, stop: asyncio.Event, on_ready: Callable[[Ready], None]
) -> tuple[Settings, Lease | None]:
    """Wait for the lease, or for ``stop`` (None); gives the settings with the port that was listened on meanwhile."""
    if settings.database_url is None or settings.mqtt_url is None:
        raise ConfigurationError("A standby shares what it serves: set TIDEGATE_DATABASE_URL and TIDEGATE_MQTT_URL.")
    async with AsyncExitStack() as stack:
        url = await _listen(settings, make_standby_application(partial(describe_other, node)), outside, stack)
        log.info("standing_by", url=url, node=node.node)
        on_ready(Ready(url, standby=True))
        waiting = asyncio.create_task(await_lease(node), name="await the lease")
        stopping = asyncio.create_task(stop.wait(), name="await the end")
        await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        waiting.cancel()
        await asyncio.gather(waiting, stopping, return_exceptions=True)
    lease = None if waiting.cancelled() else waiting.result()
    return settings.model_copy(update={"port": urlsplit(url).port}), lease


def _settle_memory() -> None:
    """Take all that was built at the start out of the search for cycles, and search less often from then on.

    What is dropped without a cycle is freed at once all the same; only cycles wait longer, tens of thousands of small
    objects at most.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


def _passphrase(settings: Settings) -> bytes | None:
    return None if settings.key_passphrase is None else settings.key_passphrase.get_secret_value().encode()


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
    campaigns = Campaigns(
        repository=campaign_repository,
        bundles=bundle_repository,
        devices=device_repository,
        directives=directives,
        metrics=metrics,
        room=room,
        least_approvals=settings.approvals,
    )
    trust = TrustDocuments(
        repository=trust_repository,
        roots=roots,
        authority=authority,
        campaigns=campaigns,
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
        campaigns=campaigns,
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
    campaigns.on_change = _all_of(catalogue.note_change, publisher.wake, deltas.wake, orchestrator.wake)
    _join_deltas(deltas, directives, orchestrator, _all_of(catalogue.note_change, publisher.note_needs))
    publisher.on_ready = orchestrator.wake
    reports.on_stored = _waker(orchestrator)
    rollbacks = Rollbacks(
        repository=campaign_repository, executions=executions, bundles=bundle_repository, campaigns=campaigns
    )
    freezes = Freezes(
        repository=FreezeRepository(database), campaign_repository=campaign_repository, campaigns=campaigns
    )
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


@asynccontextmanager
async def _working(parts: Parts, outside: Outside, stop: asyncio.Event) -> AsyncIterator[None]:
    """Run every part's loop for the block; if one of them ends by itself, the server stops with its error."""

    async def repair(retained: Retained) -> None:
        await parts.context.trust.repair(retained)
        if await parts.directives.repair(retained.directives, now=time.time()):
            await parts.context.publisher.forget()

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(parts.session.run(), name="broker session"),
            group.create_task(parts.session.reconcile(repair), name="reconcile what is retained"),
            group.create_task(parts.reports.run(), name="group commit"),
            group.create_task(parts.orchestrator.run(), name="orchestrator"),
            group.create_task(parts.context.publisher.run(), name="publish blobs"),
            group.create_task(parts.context.deltas.run(), name="make deltas"),
            group.create_task(parts.gate_webhooks.run(), name="ask gate webhooks"),
            group.create_task(parts.context.operations.run(), name="change devices"),
            group.create_task(parts.presence.save_seen(), name="save last seen"),
            group.create_task(parts.context.revocations.run(), name="remind of revocations"),
            group.create_task(parts.context.audit.run(), name="sign the audit's head"),
            group.create_task(parts.retention.run(), name="delete what is old"),
            group.create_task(parts.context.feed.run(), name="read events"),
            group.create_task(parts.context.webhooks.run(), name="deliver to webhooks"),
            group.create_task(parts.watch.run(), name="watch the server's parts"),
            *(group.create_task(watch(), name="watch embedded") for watch in outside.watchers),
        ]
        try:
            yield
        finally:
            stop.set()
            await parts.session.close()
            await parts.presence.save_seen_now()
            await parts.context.audit.end()
            for task in tasks:
                task.cancel()


async def _listen(settings: Settings, application: web.Application, outside: Outside, stack: AsyncExitStack) -> str:
    """Open the REST door and return its URL."""
    tls = outside.certificates.rest
    runner = web.AppRunner(
        application,
        access_log=None,
        auto_decompress=False,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=KEEP_ALIVE_S,
        max_line_size=LINE_MOST_BYTES,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        context = None if tls is None else tls.context
        await web.TCPSite(runner, settings.host, settings.port, ssl_context=context).start()
    except OSError as exc:
        raise ConfigurationError(f"Cannot listen on {settings.host}:{settings.port}: {exc.strerror}.") from exc
    host, port = runner.addresses[0][:2]
    return f"{'http' if tls is None else 'https'}://{host}:{port}"
