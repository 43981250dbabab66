"""Signed orders: what an audience should be told, and seeing to it that the broker holds just that.

Level-triggered. The database has the current directive of each audience; this service publishes what the broker has
not acknowledged, renews what runs out, and repairs any difference between what is retained and what should be.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

import structlog

from firmware_store.errors import (
    BrokerUnavailableError,
    CodecError,
    ConflictError,
    SignerUnavailableError,
    TrustError,
)
from server.db.bundles import BundleRecord
from server.db.campaign_records import CampaignRecord, RegionRecord
from server.db.directives import DirectiveRecord, DirectiveRepository
from server.domain.campaign import State
from server.domain.gate import DEAD_MAN_S, FULL, Ramp
from server.domain.identity import CampaignId, DeviceId, Region
from server.protocol.messages import Counter
from server.protocol.orders import Action, Deadlines, Directive, Envelope
from server.protocol.sources import DeltaOffer, HttpSource, Transport
from server.protocol.topics import Audience, CohortAudience, DeviceAudience, Topics
from server.services.authority import Authority, Mandate
from server.services.metrics import Metrics
from server.services.sources import Sources
from server.services.tickets import LEAST_VALID_S
from server.services.wire import Wire

log = structlog.get_logger(__name__)

Named = tuple[Region, DeviceId]
"""A device with an order of its own, and where it listens."""


def no_deltas(_campaign: CampaignId) -> tuple[DeltaOffer, ...]:
    """Devices fetch chunks."""
    return ()


RENEW_S: Final = DEAD_MAN_S / 2
"""A ramp is renewed when less than this of its published stretch is left."""

_END_S: Final = 86_400
"""For so long the end of an order is good that nobody here knows; it is obeyed afterwards, too."""

_BELIEVABLE_S: Final = 7 * 86_400
_COUNTER_MOST: Final = 1 << 62
"""Somebody with the directive key can burn all counters up to this; from there on only a new epoch helps."""


class Directives:
    """Makes, keeps and publishes them."""

    def __init__(
        self, *, repository: DirectiveRepository, authority: Authority, wire: Wire, topics: Topics, metrics: Metrics
    ) -> None:
        self._repository = repository
        self._authority = authority
        self._wire = wire
        self._topics = topics
        self._metrics = metrics
        self._current: dict[Audience, DirectiveRecord] = {}
        self._flushing = asyncio.Lock()
        self._floor = Counter()
        self._restored: Counter | None = None
        self._behind: set[Audience] = set()
        self._owing = False
        self._told: dict[CampaignId, tuple[DeltaOffer, ...]] = {}
        self.deltas: Callable[[CampaignId], tuple[DeltaOffer, ...]] = no_deltas
        """What a campaign's devices may fetch instead of chunks; ``renew`` tells them of each change."""
        self.before_flush: Callable[[], Awaitable[None]] | None = None
        self.sources: Sources | None = None
        """Where devices find what the broker has not got; None: nowhere."""
        self.naming = asyncio.Lock()
        """Held while offers by name are stored, and while a campaign ends with them, so that none is missed."""
        self.sign = authority.sign_directive

    @property
    def floor(self) -> int:
        """No counter below this is signed again, in the present epoch."""
        return self.floor_of(self._authority.directive_epoch)

    def floor_of(self, epoch: int) -> int:
        """Return the least counter that may be signed in this epoch: what was burnt in another one does not matter."""
        return self._floor.counter if self._floor.epoch == epoch else 0

    def heed_restore(self, floor: Counter) -> None:
        """Say everything again that is older than ``floor``, from which on a restored database counts.

        Until it has been said again, it goes to nobody: an offer of then may have been followed by a halt.
        """
        self._restored = floor
        self._floor = Counter(self._authority.directive_epoch, max(self.floor, floor.counter))
        self._behind |= {audience for audience, record in self._current.items() if record.counter < floor}
        self._owing |= bool(self._behind)

    async def load(self) -> None:
        """Read what every audience is under now."""
        self._current = {record.audience: record for record in await self._repository.all()}

    def counter(self, audience: Audience) -> Counter:
        """Return the counter a device of this audience must hold; (0, 0) where none was ever issued."""
        record = self._current.get(audience)
        return Counter() if record is None else record.counter

    def note_held(self, audience: Audience, held: Counter, *, now: float) -> None:
        """A device says which counter it holds. One ahead of ours means that our database was restored from a copy.

        Beats are not signed, so a counter (Unix milliseconds) from beyond the next days is not believed.
        """
        if held.counter <= (now + _BELIEVABLE_S) * 1000:
            self._note_ahead(audience, held)

    def _note_ahead(self, audience: Audience, seen: Counter) -> None:
        epoch = self._authority.directive_epoch
        if seen.epoch != epoch or not self.counter(audience) < seen:
            return
        if seen.counter >= _COUNTER_MOST:
            log.error("directive_counters_burnt", audience=str(audience), remedy="replace the directive key")
            return
        log.warning("directive_counter_ahead", audience=str(audience), seen=seen.counter)
        self._floor = Counter(epoch, max(self.floor, seen.counter + 1))
        self._behind.add(audience)

    async def check_release(self, bundle: BundleRecord, *, now: float) -> None:
        """Return if this release may be offered now: long before an offer of it is signed, when it is checked again.

        Raises:
            TrustError, CodecError: it may not; ExpiredError: nothing may, until there is a new root or status.
            SignerUnavailableError: its envelope is not here any more.
        """
        await self._authority.check_release(envelope_of(bundle), bundle.manifest_digest, bundle.sequence_number)
        self._authority.trust.check_time(int(now))

    def order(
        self,
        campaign: CampaignRecord,
        bundle: BundleRecord,
        region: RegionRecord,
        action: Action,
        *,
        now: float,
        mandate: Mandate | None = None,
        device: DeviceId | None = None,
    ) -> Directive:
        """Return the order for one region of a campaign; its counter is given when it is stored.

        ``mandate``: which one it will be signed under, where that is not the present one. ``device``: for this one
        alone, which an offer lets in whatever the region's level.
        """
        issued = int(now)
        policy = campaign.policy
        audience: Audience = CohortAudience(region.region, campaign.cohort)
        line = region.ramp.until(issued + DEAD_MAN_S)
        if device is not None:
            audience, line = DeviceAudience(region.region, device), Ramp.flat(FULL, issued)
        blank = replace(self._blank(campaign, issued=issued, mandate=mandate), audience=audience)
        if action is Action.NONE:
            return blank
        return Directive(
            fleet=blank.fleet,
            audience=audience,
            counter=blank.counter,
            issued=issued,
            expires=blank.expires,
            action=action,
            campaign=campaign.id,
            manifest_digest=bundle.manifest_digest,
            sequence_number=bundle.sequence_number,
            envelope=envelope_of(bundle),
            ramp=line if action is Action.OFFER else None,
            deadlines=Deadlines(policy.download_s, policy.trial_s, policy.confirm_s),
            keep_on_halt=policy.on_halt == "keep",
            members_before=campaign.members_before,
            windows=policy.device_windows,
            reboots_admitted=policy.site_reboots_most > 0,
            deltas=self.deltas(campaign.id) if action is Action.OFFER else (),
            http=self._http(campaign.transport, now) if action is Action.OFFER else None,
        )

    def _http(self, prefer: Transport | None, now: float) -> HttpSource | None:
        return None if self.sources is None or prefer is None else self.sources.http(prefer, now)

    def _blank(self, campaign: CampaignRecord, *, issued: int, mandate: Mandate | None = None) -> Directive:
        """An order that orders nothing, for nobody in particular yet."""
        return Directive(
            fleet=self._authority.root.fleet,
            audience=CohortAudience(campaign.regions[0].region, campaign.cohort),
            counter=Counter((mandate or self._authority.mandate).epoch, 0),
            issued=issued,
            expires=issued + campaign.policy.offer_s,
            action=Action.NONE,
        )

    async def renew(self, campaign: CampaignRecord, bundle: BundleRecord, *, now: float) -> None:
        """Publish the next stretch of each ramp that needs one, and offers anew long before they expire.

        The evaluator calls this after it has evaluated: if it dies, levels stop rising by themselves.
        """
        deltas = self.deltas(campaign.id)
        is_news = deltas != self._told.get(campaign.id, ())
        orders = [
            self.order(campaign, bundle, region, Action.OFFER, now=now)
            for region in campaign.regions
            if region.opened_at is not None and self._is_stale(campaign, region, now, is_news=is_news)
        ]
        by_name = self._by_name(campaign.id)
        ending = [one for one, end in by_name.items() if is_news or self._is_old(campaign, end, now)]
        orders += self._offers(campaign, bundle, ending, now=now)
        if orders and await self._repository.renew(
            orders, self.sign, floor=self.floor, campaign=campaign.id, revision=campaign.revision
        ):
            self._told[campaign.id] = deltas
            await self.flush()

    async def offer_to(
        self, campaign: CampaignRecord, bundle: BundleRecord, devices: Collection[Named], *, now: float
    ) -> None:
        """Let these devices in by name: each gets an offer of its own, which its cohort's order may narrow."""
        orders = self._offers(campaign, bundle, devices, now=now)
        async with self.naming:
            is_stored = await self._repository.renew(
                orders, self.sign, floor=self.floor, campaign=campaign.id, revision=campaign.revision
            )
            await self.load()
        if is_stored:
            await self.flush()

    def offered_to(self, campaign: CampaignId) -> frozenset[DeviceId]:
        """Return the devices that the campaign has let in by name, also those whose offer ``renew`` has to repeat."""
        return frozenset(name for _, name in self._by_name(campaign))

    def withdrawn(self, campaign: CampaignRecord, *, now: float) -> list[Directive]:
        """Return the ends of what was offered by name: from then on the cohorts' orders hold alone.

        An offer that another task is just storing is missed, unless ``naming`` is held: a halt or a rollback waits for
        nobody, and outweighs it.
        """
        blank = self._blank(campaign, issued=int(now))
        return [replace(blank, audience=DeviceAudience(*one)) for one in self._by_name(campaign.id)]

    def _by_name(self, campaign: CampaignId) -> dict[Named, float]:
        """Who has an order of its own from this campaign, and until when its offer is good (Unix seconds).

        Where something else was said instead of an offer that could not be repeated, that is 0.
        """
        return {
            (audience.region, audience.device): record.expires_at.timestamp() if record.action is Action.OFFER else 0.0
            for audience, record in self._current.items()
            if isinstance(audience, DeviceAudience) and record.campaign == campaign
        }

    def _offers(
        self, campaign: CampaignRecord, bundle: BundleRecord, devices: Collection[Named], *, now: float
    ) -> list[Directive]:
        regions = {region.region: region for region in campaign.regions}
        return [
            self.order(campaign, bundle, regions[where], Action.OFFER, now=now, device=name) for where, name in devices
        ]

    def _is_stale(self, campaign: CampaignRecord, region: RegionRecord, now: float, *, is_news: bool) -> bool:
        """Tell whether what a region was told runs out, or ``is_news`` that it should hear of."""
        record = self._current.get(CohortAudience(region.region, campaign.cohort))
        if record is None or record.campaign != campaign.id or record.action is not Action.OFFER:
            return campaign.blobs_ready  # after a halt they were withdrawn, and come before the offer
        published, line = record.ramp_end, region.ramp
        if is_news:
            return True
        rising = published < line.t1 and published - now < RENEW_S
        stopped = line.t1 < published  # what was published goes on rising
        return rising or stopped or self._is_old(campaign, record.expires_at.timestamp(), now)

    def _is_old(self, campaign: CampaignRecord, expires: float, now: float) -> bool:
        """Tell whether an offer that expires then has been out for half of its life, or of that of its ticket."""
        life_s = campaign.policy.offer_s
        age_s = life_s - (expires - now)
        return age_s > (life_s if self.sources is None else min(life_s, LEAST_VALID_S)) / 2

    def owe(self) -> None:
        """A campaign was ended and nobody could sign that: keep trying."""
        self._owing = True

    async def publish_waiting(self, *, now: float) -> None:
        """Publish what the broker did not take when it was issued, if there is any; sign what is owed."""
        if self._owing:
            await self.reissue(now=now)
        elif not all(record.published for record in self._current.values()):
            await self.flush()

    async def flush(self) -> None:
        """Publish what the broker has not acknowledged yet; what fails stays for the next call.

        Trust documents go first: a device cannot read an order whose key it does not know yet.
        """
        if self.before_flush is not None:
            await self.before_flush()
        async with self._flushing:
            await self.load()
            oldest = self._restored or Counter()
            waiting = [one for one in self._current.values() if not one.published and not one.counter < oldest]
            await asyncio.gather(*(self._publish(record) for record in waiting))

    async def _publish(self, record: DirectiveRecord) -> None:
        try:
            await self._wire.publish_retained(self._topics.directive(record.audience), record.body)
        except BrokerUnavailableError as exc:
            log.warning("directive_not_published", audience=str(record.audience), reason=str(exc))
            return
        await self._repository.mark_published(record)
        if self._current.get(record.audience) == record:
            self._current[record.audience] = replace(record, published=True)
        self._metrics.directives.inc()

    async def repair(self, retained: Mapping[Audience, bytes], *, now: float) -> bool:
        """Compare what the broker retains with what it should, and publish again whatever differs.

        Returns:
            True if directives are missing there altogether: the broker has lost its store, and blobs with it.
        """
        orders: dict[Audience, Directive] = {}
        for audience, body in retained.items():
            try:
                orders[audience] = self._authority.read_directive(body)
            except (TrustError, CodecError) as exc:
                log.warning("foreign_directive_retained", audience=str(audience), reason=str(exc))
            else:
                self._note_ahead(audience, orders[audience].counter)
        await self.load()
        if self._restored is not None:
            await self._end_unknown(orders.values(), now=now)
        lost = False
        for audience, record in list(self._current.items()):
            if record.published and retained.get(audience) != record.body:
                log.warning("directive_repaired", audience=str(audience), missing=audience not in retained)
                await self._repository.reopen(audience)
                lost |= audience not in retained
        await self.reissue(now=now)
        return lost

    async def _end_unknown(self, orders: Iterable[Directive], *, now: float) -> None:
        """End what the broker retains for audiences that a restored database has never had: nobody watches over it."""
        counter = Counter(self._authority.directive_epoch, 0)
        ended = [
            Directive(order.fleet, order.audience, counter, int(now), int(now) + _END_S, Action.NONE)
            for order in orders
            if order.audience not in self._current and order.action is not Action.NONE
        ]
        if ended:
            log.warning("unknown_orders_ended", audiences=[str(order.audience) for order in ended])
            await self._repository.issue(ended, self.sign, floor=self.floor)
            await self.load()

    async def reissue(self, *, now: float) -> None:
        """Say again what some audiences hold a higher counter for, and put an end to offers of ended campaigns."""
        behind = frozenset(self._behind)

        async def decide(body: bytes, state: State | None) -> Directive | None:
            return await self.once_more(body, state, now=now)

        try:
            overdue = await self._repository.overdue()
            await self._repository.reissue(behind.union(overdue), decide, self.sign, floor=self.floor)
        except (ConflictError, SignerUnavailableError, TrustError) as exc:
            log.warning("directives_not_reissued", reason=str(exc))
        else:
            self._behind -= behind
            self._owing = False
        await self.flush()

    async def once_more(
        self, body: bytes, state: State | None, *, now: float, mandate: Mandate | None = None
    ) -> Directive | None:
        """Return the order that these stored bytes are, to be signed again now, under ``mandate`` if it is another.

        An offer that may no longer be made becomes the least that keeps its devices where they are.
        """
        signed_under = self._authority.mandate
        mandate = mandate or signed_under
        if not mandate.directive:
            return None
        try:
            order = signed_under.read_directive(body)
        except (TrustError, CodecError) as exc:
            log.warning("stored_directive_not_ours", reason=str(exc))
            return None
        issued = int(now)
        order = replace(
            order,
            counter=Counter(mandate.epoch, 0),
            issued=issued,
            expires=issued + order.expires - order.issued,
            halted=(),
            http=None if order.http is None else self._http(order.http.prefer, now),
        )
        try:
            await self._authority.check_offer(order, state, trust=mandate.trust)
        except (TrustError, CodecError, ConflictError, SignerUnavailableError) as exc:
            log.warning("offer_not_repeated", audience=str(order.audience), reason=str(exc))
            action = Action.HALT if state is State.HALTED else Action.HOLD
            return replace(order, action=action, ramp=None, deltas=(), http=None)
        return order


def envelope_of(bundle: BundleRecord) -> Envelope:
    """Return where devices find a bundle's envelope."""
    return Envelope(bundle.envelope_digest, bundle.envelope_bytes)
