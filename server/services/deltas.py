"""Deltas of campaigns: chosen when one starts, made one at a time, and offered once devices can fetch them.

Level-triggered. What campaigns would like and what was made is in the database (``server.db.deltas``): a round does the
next thing that is missing, so that kill -9 at any point loses the work of one delta at most. A campaign that has just
started waits for its deltas, but not for long; those that are ready later are offered by the next directives.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from firmware_store.deltas import Codec, codecs
from firmware_store.errors import (
    ConfigurationError,
    DeltaError,
    DigestError,
    ManifestError,
    NotFoundError,
    StoreFullError,
    StoreUnavailableError,
)
from firmware_store.suit import Component
from server.db.bundles import BundleRepository
from server.db.campaign_records import CampaignRecord
from server.db.campaigns import CampaignRepository
from server.db.deltas import CampaignDelta, DeltaRepository, MissingDelta
from server.domain.campaign import ACTIVE, JUDGED, State
from server.domain.identity import CampaignId
from server.domain.scope import EVERYTHING, Scope
from server.protocol.sources import DELTAS_MOST, DeltaOffer
from server.services.delta_choice import choose
from server.services.delta_releases import Releases
from server.services.delta_workshop import Workshop
from server.services.metrics import Metrics
from server.services.visible import is_whole

log = structlog.get_logger(__name__)

ROUND_S: Final = 2.0
"""How often it looks when nobody wakes it: whether pieces have arrived at the broker, it learns only so."""
RETRY_S: Final = 30.0
"""After this long what the store could not give or take is tried again."""

FULL_RETRY_S: Final = 600.0
"""The same, where there is no room for a delta in the store: it is made anew only to find that out."""

PUBLISHING_S: Final = 30.0
"""So long a campaign that has just started also waits for deltas that are made and on their way to the broker."""

KEPT: Final = timedelta(days=30)
"""A delta that no campaign has wanted for so long is forgotten."""

FORGET_EVERY_S: Final = 3600.0

RELEASES_MOST: Final = 32
"""So many releases are looked at for images, those that most of a campaign's devices run."""

GOING_ON: Final = ACTIVE | {State.DRAFT, State.AWAITING_APPROVAL, State.SCHEDULED, State.HALTED}
"""States of campaigns that may still offer what they wished for."""


def installed_codecs(wanted: str) -> list[Codec]:
    """Return the codecs of a list such as ``zstd,hdiffpatch``, each once.

    Raises:
        ConfigurationError: one of them is not installed.
    """
    found = [Codec(name) for name in dict.fromkeys(wanted.split(","))]
    for codec in found:
        if codec not in codecs():
            raise ConfigurationError(f"Deltas by {codec} need the extra [deltas] of tidegate.")
    return found


class Deltas:
    """``run()`` serves for ever.

    ``on_made`` is called when devices need more blobs than before, ``on_offers`` when what campaigns offer or
    wait for has changed.
    """

    def __init__(
        self,
        *,
        repository: DeltaRepository,
        campaigns: CampaignRepository,
        bundles: BundleRepository,
        releases: Releases,
        workshop: Workshop,
        metrics: Metrics,
        codecs: Sequence[Codec],
        sources_most: int,
        image_most_bytes: int,
        wait_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``sources_most``: source images for each component; 0: no deltas. ``wait_s``: of a campaign, for them."""
        self._repository = repository
        self._campaigns = campaigns
        self._bundles = bundles
        self._releases = releases
        self._workshop = workshop
        self._metrics = metrics
        self._codecs = list(codecs)
        self._sources_most = sources_most
        self._image_most_bytes = image_most_bytes
        self._wait_s = wait_s
        self._clock = clock
        self._news = asyncio.Event()
        self._asked: set[tuple[CampaignId, int, int | None]] = set()
        self._offers: dict[CampaignId, tuple[DeltaOffer, ...]] = {}
        self._awaited: set[CampaignId] = set()
        self._publishing_until: dict[CampaignId, float] = {}
        self._forgot_at = float("-inf")
        self.on_made: Callable[[], None] | None = None
        self.on_offers: Callable[[], None] | None = None

    def wake(self) -> None:
        """A campaign has changed; look now."""
        self._news.set()

    def offers(self, campaign: CampaignId) -> tuple[DeltaOffer, ...]:
        """Return what its devices may be offered now."""
        return self._offers.get(campaign, ())

    def is_awaited(self, campaign: CampaignRecord, now: float) -> bool:
        """Whether a campaign's first wave has to wait for deltas; an emergency waits for nothing."""
        if not self._sources_most or campaign.wave is not None or campaign.started_at is None or campaign.emergency:
            return False
        if now - (campaign.run_at or campaign.started_at).timestamp() >= self._wait_s:
            return False
        return _asking(campaign) not in self._asked or campaign.id in self._awaited

    async def of_campaign(self, campaign: CampaignId, *, scope: Scope = EVERYTHING) -> list[CampaignDelta]:
        """Return what has become of its wishes, those of most devices first.

        They count the devices of all its regions: whoever may not see all of it is shown none.
        """
        if scope.is_limited and not is_whole(await self._campaigns.get(campaign), scope):
            return []
        return await self._repository.of_campaigns([campaign])

    async def run(self) -> None:
        """Serve for ever."""
        await self._workshop.clear()
        while True:
            rest_s = ROUND_S
            try:
                if await self.round():
                    rest_s = 0.0
            except StoreUnavailableError as exc:
                log.warning("deltas_postponed", reason=str(exc))
                rest_s = RETRY_S
            except StoreFullError as exc:
                log.warning("deltas_postponed", reason=str(exc))
                rest_s = FULL_RETRY_S
            except Exception:
                log.exception("deltas_failed")
                rest_s = RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._news.wait()
            self._news.clear()

    async def round(self) -> bool:
        """Ask what campaigns would like, and make one delta; True if there may be more to make.

        Raises:
            StoreUnavailableError, StoreFullError: what was not done stays for the next round.
        """
        if not self._sources_most:
            return False
        judged = await self._campaigns.in_states(JUDGED)
        for campaign in judged:
            if _asking(campaign) not in self._asked:
                await self._ask(campaign)
        names = [campaign.id for campaign in judged]
        self._asked = {key for key in self._asked if key[0] in names}
        missing = await self._look(names)
        if not missing:
            await self._forget()
            return False
        await self._make(missing[0])
        await self._look(names)
        return True

    # --- what campaigns would like ---

    async def _ask(self, campaign: CampaignRecord) -> None:
        """Note which deltas a campaign would like, once: as it starts, or later if nothing was known of its devices."""
        if not await self._repository.has_wishes(campaign.id):
            bundle = await self._bundles.get(campaign.bundle_id)
            target = await self._releases.manifest(bundle)
            running = [] if target is None else await self._releases.running(campaign, bundle, most=RELEASES_MOST)
            most = DELTAS_MOST // len(self._codecs)
            wishes = [] if target is None else choose(target, running, sources_most=self._sources_most, most=most)
            await self._repository.wish(campaign.id, wishes, now=self._now())
            if wishes:
                log.info("deltas_wanted", campaign=campaign.id.hex, images=len(wishes))
                self._note_needs([campaign.id])  # some may be here from another campaign
        self._asked.add(_asking(campaign))

    # --- making them ---

    async def _make(self, missing: MissingDelta) -> None:
        began = time.monotonic()
        otherwise_bytes, why = 0, ""
        try:
            source = await self._releases.image(missing.source_bundle, missing.source_digest)
            target = await self._releases.image(missing.target_bundle, missing.target_digest)
            self._check_size(source, target)
            done = await self._workshop.make(Codec(missing.codec), source, target)
        except (NotFoundError, DigestError, ManifestError, DeltaError) as exc:
            log.warning("delta_not_made", codec=missing.codec, reason=str(exc))
            why = str(exc)
        else:
            otherwise_bytes = done.otherwise_bytes
            if done.fetch is None:
                why = f"{done.wire_bytes} bytes, where {otherwise_bytes} are fetched without it"
            else:
                fetch = done.fetch
                digests = (missing.source_digest, missing.target_digest)
                offer = DeltaOffer(
                    0, missing.codec, *digests, done.wire_bytes, fetch.index_digest, fetch.index_size, fetch.chunk_count
                )
                await self._repository.add(missing, offer, done.blobs, otherwise_bytes=otherwise_bytes, now=self._now())
                self._note_needs([missing.campaign])
        if why:
            await self._repository.add_useless(missing, why, otherwise_bytes=otherwise_bytes, now=self._now())
        self._metrics.deltas.labels("useless" if why else "made").inc()
        took_s = time.monotonic() - began
        log.info("delta_useless" if why else "delta_made", codec=missing.codec, seconds=round(took_s, 3), why=why)

    def _check_size(self, *images: Component) -> None:
        if any(image.image_size > self._image_most_bytes for image in images):
            raise DeltaError(f"deltas are made of images of {self._image_most_bytes} bytes at most")

    # --- who wants to know ---

    def _note_needs(self, campaigns: Collection[CampaignId]) -> None:
        until = self._clock() + PUBLISHING_S
        self._publishing_until.update(dict.fromkeys(campaigns, until))
        if self.on_made is not None:
            self.on_made()

    async def _look(self, campaigns: Sequence[CampaignId]) -> list[MissingDelta]:
        """Find out what can be offered, and who waits for more; returns what is to be made."""
        now = self._clock()
        missing = await self._repository.missing(campaigns, self._codecs)
        offers: dict[CampaignId, tuple[DeltaOffer, ...]] = {}
        awaited = {one.campaign for one in missing}
        for delta in await self._repository.of_campaigns(campaigns):
            if delta.offer is None:
                continue
            if delta.is_there:
                offers[delta.campaign] = (*offers.get(delta.campaign, ()), delta.offer)[:DELTAS_MOST]
            elif now < self._publishing_until.get(delta.campaign, 0):
                awaited.add(delta.campaign)
        is_change = (self._offers, self._awaited) != (offers, awaited)
        self._offers, self._awaited = offers, awaited
        self._publishing_until = {name: at for name, at in self._publishing_until.items() if at > now}
        if is_change and self.on_offers is not None:
            self.on_offers()
        return missing

    async def _forget(self) -> None:
        now = self._clock()
        if now - self._forgot_at < FORGET_EVERY_S:
            return
        forgotten = await self._repository.forget(wanted_before=self._now() - KEPT, unless=GOING_ON)
        self._forgot_at = now
        if forgotten:
            log.info("deltas_forgotten", deltas=forgotten)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _asking(campaign: CampaignRecord) -> tuple[CampaignId, int, int | None]:
    """A campaign is asked in each wave, until something is known of what its devices run."""
    return campaign.id, campaign.run, campaign.wave
