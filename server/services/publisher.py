"""The publisher: makes what the broker retains of blobs what active campaigns need, once and for any number of devices.

Level-triggered. What should be there, and what was acknowledged, is in the database (``server.db.published``), so that
kill -9 at any point loses nothing. A round looks at it and does some of what is left to do: first what is withdrawn,
which waits for nothing, then what is published, at a bounded pace.

A broker that comes back after kill -9 may have lost what is new and have again what was cleared: in each new session
some blobs are looked for, and what was withdrawn in the last days is withdrawn once more.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import structlog

from firmware_store.errors import BrokerUnavailableError, StoreUnavailableError
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.campaigns import CampaignRepository
from server.db.published import BlobState, PublishedRepository, WantedBlob
from server.domain.campaign import JUDGED
from server.domain.identity import BundleId, CampaignId
from server.protocol.sources import Transport
from server.services.blob_wire import BlobWire
from server.services.metrics import Metrics
from server.services.pace import Pace
from server.services.room import Room, http_only
from server.services.transitions import supplied

log = structlog.get_logger(__name__)

ROUND_S: Final = 0.5
"""How often it looks when nobody wakes it."""
PLAN_S: Final = 60.0
"""How often it looks at every blob, though no campaign has come or gone."""
RETRY_S: Final = 10.0
"""After this long what could not be read or published is tried again."""

BATCH_BLOBS: Final = 256
BATCH_BYTES: Final = 4 << 20
WITHDRAW_BATCH: Final = 1024
SAMPLE: Final = 8
"""Of the newest blobs, and of any, that are looked for in each new session."""

WITHDRAWN_KEPT: Final = timedelta(days=7)
"""For so long what was withdrawn is withdrawn again in each new session."""

ACTOR: Final = "publisher"

_BEGINNING: Final = WantedBlob(b"", 0, datetime.min.replace(tzinfo=UTC))


class _Needs(NamedTuple):
    """What a plan follows from: bundles that are wanted at the broker, and campaigns (in which run) that wait."""

    bundles: frozenset[BundleId]
    waiting: frozenset[tuple[CampaignId, int]]


class Publisher:
    """``run()`` serves for ever; ``on_ready`` is called when a campaign's devices have a way to its blobs."""

    def __init__(
        self,
        *,
        repository: PublishedRepository,
        campaigns: CampaignRepository,
        wire: BlobWire,
        room: Room,
        metrics: Metrics,
        bytes_per_s: int,
        grace_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``grace_s``: for so long what no campaign needs any more stays, where none of them was halted."""
        self._repository = repository
        self._campaigns = campaigns
        self._wire = wire
        self._room = room
        self._metrics = metrics
        self._pace = Pace(bytes_per_s)
        self._grace = timedelta(seconds=grace_s)
        self._clock = clock
        self._news = asyncio.Event()
        self._session: float | None = None
        self._planned: tuple[float, _Needs] | None = None
        self._waiting: dict[CampaignId, BundleId] = {}
        self._looked_at = float("-inf")
        self._is_counted = False
        self._after = _BEGINNING
        self._retry_at: float | None = None
        self.on_ready: Callable[[], None] | None = None
        metrics.blob_budget.set(room.budget_bytes)

    def wake(self) -> None:
        """A campaign has changed; look now."""
        self._news.set()

    def note_needs(self) -> None:
        """What devices may fetch for a bundle (``bundle_need``) has changed; look at every blob."""
        self._planned = None
        self.wake()

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            is_busy = False
            try:
                is_busy = await self.round()
            except (StoreUnavailableError, BrokerUnavailableError) as exc:
                log.warning("publishing_postponed", reason=str(exc))
            except Exception:
                log.exception("publishing_failed")
            await self._rest(self._pace.wait_s if is_busy else ROUND_S)

    async def _rest(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        self._news.clear()

    async def forget(self) -> None:
        """The broker has lost its store: all that active campaigns need goes there again, and their levels wait."""
        await self._repository.want_again(now=self._now())
        for found in await self._campaigns.in_states(JUDGED):
            campaign = found
            while campaign.transport is Transport.MQTT and campaign.blobs_ready:
                if await self._campaigns.save(replace(campaign, blobs_ready=False)) is not None:
                    break
                campaign = await self._campaigns.get(campaign.id)
        self._begin_again()
        self.wake()

    async def round(self) -> bool:
        """Do some of what is left to do; True if there is more that can be done.

        Raises:
            StoreUnavailableError, BrokerUnavailableError: what was not done stays for the next round.
        """
        up_since = self._wire.up_since
        if up_since is None:
            return False
        if up_since != self._session:
            await self._compare()
            self._session = up_since
        await self._plan(await self._campaigns.in_states(JUDGED))
        is_busy = await self._withdraw() or await self._publish()
        if self._waiting and (not is_busy or time.monotonic() - self._looked_at >= ROUND_S):
            self._looked_at = time.monotonic()
            await self._tell_ready()
        if not (is_busy or self._is_counted):
            await self._count()
        return is_busy

    async def _compare(self) -> None:
        """In a new session, look for some of what should be there, and withdraw once more what should not."""
        sample = await self._repository.sample(SAMPLE, start=os.urandom(32))
        missing = await self._wire.missing(sample)
        if missing:
            log.warning("broker_lost_blobs", missing=len(missing), looked_for=len(sample))
            await self.forget()
        await self._repository.withdraw_again()
        self._begin_again()

    # --- what should be there ---

    async def _plan(self, judged: Iterable[CampaignRecord]) -> None:
        """Say what each blob should be, if a campaign has come or gone, or some time has passed."""
        campaigns = list(judged)
        now = self._clock()
        if self._planned is not None and now - self._planned[0] < PLAN_S and self._planned[1] == _needs(campaigns):
            return
        campaigns = [one if one.blobs_ready else await self._decide(one) for one in campaigns]
        moment = self._now()
        await self._repository.plan(
            now=moment,
            budget_bytes=self._room.budget_bytes,
            spare_before=moment - self._grace,
            forget_before=moment - WITHDRAWN_KEPT,
        )
        self._planned = now, _needs(campaigns)
        self._waiting = {one.id: one.bundle_id for one in campaigns if not one.blobs_ready}
        self._is_counted = False

    async def _decide(self, campaign: CampaignRecord) -> CampaignRecord:
        """Say how a campaign's devices get its blobs, before they have an offer that says so."""
        transport, fit = await self._room.transport(campaign)
        changed, why = replace(campaign, transport=transport), None
        if transport is Transport.HTTP:
            changed = supplied(changed)
            why = DecisionRecord(self._now(), "transport", ACTOR, f"{http_only(fit)}.")
        if changed == campaign:
            return campaign
        saved = await self._campaigns.save(changed, decision=why)
        if saved is None:
            return campaign  # somebody was first: it is looked at again
        log.info(
            "campaign_transport", campaign=campaign.id.hex, transport=None if transport is None else transport.name
        )
        if saved.blobs_ready:
            self._call_ready()
        return saved

    # --- making it so ---

    async def _withdraw(self) -> bool:
        digests = await self._repository.withdrawing(WITHDRAW_BATCH)
        gone = await self._wire.withdraw(digests)
        if not gone or self._wire.up_since != self._session:
            return False
        await self._repository.note_withdrawn(gone)
        log.info("blobs_withdrawn", blobs=len(gone))
        self._is_counted = False
        return True

    async def _publish(self) -> bool:
        if self._retry_at is not None and self._clock() >= self._retry_at:
            self._begin_again()
        found = await self._repository.wanted(after=self._after, limit=BATCH_BLOBS)
        batch = _first(found, min(BATCH_BYTES, self._pace.bytes_per_s))
        if not batch:
            if self._retry_at is None:
                self._begin_again()
            return False
        if self._pace.wait_s:
            return True
        self._pace.note(sum(blob.size_bytes for blob in batch))
        there = await self._wire.publish([blob.digest for blob in batch])
        if self._wire.up_since != self._session:
            return False  # of what the session before has acknowledged, another broker may know nothing
        await self._repository.note_published(there, now=self._now())
        self._metrics.blobs.inc(len(there))
        self._is_counted = False
        self._after = batch[-1]
        if len(there) < len(batch):
            self._retry_at = self._clock() + RETRY_S
        return True

    def _begin_again(self) -> None:
        self._after, self._retry_at = _BEGINNING, None

    # --- who wants to know ---

    async def _tell_ready(self) -> None:
        """Let the levels rise of campaigns whose blobs are all there."""
        complete = await self._repository.complete(list(self._waiting.values()))
        for name in [name for name, bundle in self._waiting.items() if bundle in complete]:
            campaign = await self._campaigns.get(name)
            if campaign.transport is not Transport.MQTT or campaign.state not in JUDGED or campaign.blobs_ready:
                continue
            if await self._campaigns.save(supplied(campaign)) is not None:
                del self._waiting[name]
                log.info("campaign_published", campaign=name.hex)
                self._call_ready()

    def _call_ready(self) -> None:
        if self.on_ready is not None:
            self.on_ready()

    async def _count(self) -> None:
        totals = await self._repository.totals()
        self._metrics.blob_bytes.set(sum(totals[state].size_bytes for state in (BlobState.PUBLISHED, BlobState.SPARE)))
        self._metrics.blob_backlog.labels("publish").set(totals[BlobState.WANTED].blobs)
        self._metrics.blob_backlog.labels("withdraw").set(totals[BlobState.WITHDRAWING].blobs)
        self._is_counted = True

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _needs(campaigns: Iterable[CampaignRecord]) -> _Needs:
    judged = list(campaigns)
    return _Needs(
        frozenset(one.bundle_id for one in judged if one.transport is Transport.MQTT),
        frozenset((one.id, one.run) for one in judged if not one.blobs_ready),
    )


def _first(blobs: list[WantedBlob], bytes_most: int) -> list[WantedBlob]:
    """Return as many of them as fit, and one in any case."""
    taken: list[WantedBlob] = []
    size = 0
    for blob in blobs:
        size += blob.size_bytes
        if taken and size > bytes_most:
            break
        taken.append(blob)
    return taken
