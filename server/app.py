"""A server's life: its lease, its parts' loops and its REST door, from the start to SIGTERM."""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from firmware_store.errors import ConfigurationError
from server.api.application import make_application
from server.api.standby import make_standby_application
from server.composition import Parts, build, find_grounds
from server.config import Settings
from server.db.database import Database
from server.db.lease import LeaseSession, lease_session
from server.db.migrate import check_schema
from server.db.pool import close_pool, open_pool
from server.outside import Outside, stand
from server.services.lease import Lease, acquire_now, await_lease, describe_other, name_node
from server.services.recall import Grounds
from server.services.wire import Retained

log = structlog.get_logger(__name__)

BROKER_WAIT_S: Final = 15.0
SHUTDOWN_S: Final = 10.0

KEEP_ALIVE_S: Final = 75.0
"""A connection that has not sent a whole request for so long is closed; proxies close sooner (nginx: 60 s)."""

LINE_MOST_BYTES: Final = 32_768
"""Of a request's first line: the longest filter fits, all of it percent-encoded."""

SWITCH_S: Final = 0.0002
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
        _give_way_sooner()
        on_ready(Ready(url, await parts.context.tokens.create_first()))
        await stop.wait()
        log.info("stopping")


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


def _give_way_sooner() -> None:
    """Let a thread that counts a large fleet hold up requests for no longer than this at a time."""
    sys.setswitchinterval(SWITCH_S)


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
