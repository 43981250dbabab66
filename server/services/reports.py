"""Group commit of hellos and reports: flush as soon as the previous flush is done, with no timer.

Nothing is acknowledged, to the broker or to the device, before its transaction has committed. There is no queue limit
here: what is not acknowledged stays at the broker, whose in-flight limit bounds what can be waiting.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import stamina
import structlog

from firmware_store.errors import BrokerUnavailableError, InvalidInputError, StoreUnavailableError
from server.db.telemetry import DeviceHello, DeviceReport, Stored, TelemetryRepository
from server.protocol.messages import encode_ack
from server.protocol.topics import Topics
from server.services.fleet import Fleet
from server.services.metrics import Metrics
from server.services.wire import Wire

log = structlog.get_logger(__name__)

BATCH_MOST: Final = 4000
"""Hellos and reports in one transaction: enough to be cheap, few enough to commit within a fraction of a second."""

Done = Callable[[], None]
Entry = tuple[DeviceHello | DeviceReport, Done | None]


class Reports:
    """The queue between the broker and the database; ``on_stored`` hears of each commit that changed something."""

    def __init__(
        self, *, repository: TelemetryRepository, fleet: Fleet, wire: Wire, topics: Topics, metrics: Metrics
    ) -> None:
        self._repository = repository
        self._fleet = fleet
        self._wire = wire
        self._topics = topics
        self._metrics = metrics
        self._waiting: list[Entry] = []
        self._wake = asyncio.Event()
        self.on_stored: Callable[[Stored], None] | None = None

    def submit(self, item: DeviceHello | DeviceReport, done: Done | None = None) -> None:
        """Queue one; ``done`` is called when it has committed, or when it never will."""
        self._waiting.append((item, done))
        self._wake.set()

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            await self._wake.wait()
            batch, self._waiting = self._waiting[:BATCH_MOST], self._waiting[BATCH_MOST:]
            if not self._waiting:
                self._wake.clear()
            await self._take(batch)

    async def _take(self, batch: list[Entry]) -> None:
        """Commit a batch; if the database refuses something in it, find that and drop it, and commit the rest."""
        try:
            await self._commit(batch)
        except InvalidInputError as exc:
            await self._take_apart(batch, exc)
        except Exception as exc:
            log.exception("batch_failed", messages=len(batch))
            await self._take_apart(batch, exc)

    async def _take_apart(self, batch: list[Entry], reason: Exception) -> None:
        """Halve a batch until what is refused is alone.

        That is dropped at the broker, where it would come again at every restart; the device is not told that it was
        stored, and says it again for as long as it matters.
        """
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._take(batch[:middle])
            await self._take(batch[middle:])
            return
        item, done = batch[0]
        log.warning("message_refused_by_store", device=item.device, reason=str(reason))
        self._metrics.dropped.labels("refused_by_store").inc()
        if done is not None:
            done()

    async def _commit(self, batch: list[Entry]) -> None:
        hellos = [item for item, _ in batch if isinstance(item, DeviceHello)]
        reports = [item for item, _ in batch if isinstance(item, DeviceReport)]
        stored: Stored | None = None
        async for attempt in stamina.retry_context(on=StoreUnavailableError, attempts=None, timeout=None, wait_max=5):
            with attempt:
                stored = await self._repository.store(hellos=hellos, reports=reports, now=datetime.now(UTC))
        assert stored is not None
        for _, done in batch:
            if done is not None:
                done()
        self._acknowledge(reports)
        self._count(stored, len(batch))
        if stored.changed and self.on_stored is not None:
            self.on_stored(stored)

    def _acknowledge(self, reports: list[DeviceReport]) -> None:
        """Tell each device the highest sequence number that has committed; a device that misses it reports again."""
        newest: dict[str, DeviceReport] = {}
        for item in reports:
            known = newest.get(item.device)
            if known is None or known.report.sequence < item.report.sequence:
                newest[item.device] = item
        for item in newest.values():
            device = self._fleet.get(item.device)
            if device is not None and device.last_sequence < item.report.sequence:
                device.last_sequence = item.report.sequence
            try:
                self._wire.publish_nowait(self._topics.ack(item.region, item.device), encode_ack(item.report.sequence))
            except BrokerUnavailableError:
                log.debug("ack_not_sent", device=item.device)

    def _count(self, stored: Stored, batch: int) -> None:
        self._metrics.batch.observe(batch)
        self._metrics.reports.labels("changed").inc(stored.changed)
        self._metrics.reports.labels("ignored").inc(stored.ignored)
        self._metrics.reports.labels("unknown_campaign").inc(stored.unknown_campaign)
