"""Signed orders: what an audience should be told, and seeing to it that the broker holds just that.

Level-triggered. The database has the current directive of each audience; this service publishes what the broker has
not acknowledged, renews what runs out, and repairs any difference between what is retained and what should be.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import structlog

from firmware_store.errors import BrokerUnavailableError, CodecError, TrustError
from server.db.bundles import BundleRecord
from server.db.campaigns import CampaignRecord, RegionRecord
from server.db.directives import DirectiveRecord, DirectiveRepository
from server.domain.gate import DEAD_MAN_S
from server.protocol.messages import Counter
from server.protocol.orders import Action, Deadlines, Directive, Envelope
from server.protocol.topics import Audience, CohortAudience, Topics
from server.services.authority import Authority
from server.services.metrics import Metrics
from server.services.wire import Wire

log = structlog.get_logger(__name__)

RENEW_S: Final = DEAD_MAN_S / 2
"""A ramp is renewed when less than this of its published stretch is left."""

_BELIEVABLE_S: Final = 7 * 86_400


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
        self._floor = 0
        self._behind: set[Audience] = set()
        self.sign = authority.sign_directive

    @property
    def floor(self) -> int:
        """No counter below this is signed again."""
        return self._floor

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
        if seen.epoch == self._authority.directive_epoch and self.counter(audience) < seen:
            log.warning("directive_counter_ahead", audience=str(audience), seen=seen.counter)
            self._floor = max(self._floor, seen.counter + 1)
            self._behind.add(audience)

    def order(
        self, campaign: CampaignRecord, bundle: BundleRecord, region: RegionRecord, action: Action, *, now: float
    ) -> Directive:
        """Return the order for one region of a campaign; its counter is given when it is stored."""
        issued = int(now)
        policy = campaign.policy
        audience = CohortAudience(region.region, campaign.cohort)
        blank = Directive(
            fleet=self._authority.root.fleet,
            audience=audience,
            counter=Counter(self._authority.directive_epoch, 0),
            issued=issued,
            expires=issued + policy.offer_s,
            action=Action.NONE,
        )
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
            envelope=Envelope(bundle.envelope_digest, bundle.envelope_bytes),
            ramp=region.ramp.until(issued + DEAD_MAN_S) if action is Action.OFFER else None,
            deadlines=Deadlines(policy.download_s, policy.trial_s, policy.confirm_s),
            keep_on_halt=policy.on_halt == "keep",
        )

    async def renew(self, campaign: CampaignRecord, bundle: BundleRecord, *, now: float) -> None:
        """Publish the next stretch of each ramp that needs one, and offers anew long before they expire.

        The evaluator calls this after it has evaluated: if it dies, levels stop rising by themselves.
        """
        orders = [
            self.order(campaign, bundle, region, Action.OFFER, now=now)
            for region in campaign.regions
            if region.opened_at is not None and self._runs_out(campaign, region, now)
        ]
        if orders and await self._repository.renew(
            orders, self.sign, floor=self.floor, campaign=campaign.id, revision=campaign.revision
        ):
            await self.flush()

    def _runs_out(self, campaign: CampaignRecord, region: RegionRecord, now: float) -> bool:
        record = self._current.get(CohortAudience(region.region, campaign.cohort))
        if record is None or record.campaign != campaign.id or record.action is not Action.OFFER:
            return True
        rising = record.ramp_end < region.ramp.t1 and record.ramp_end - now < RENEW_S
        return rising or record.expires_at.timestamp() - now < campaign.policy.offer_s / 2

    async def publish_waiting(self) -> None:
        """Publish what the broker did not take when it was issued, if there is any."""
        if not all(record.published for record in self._current.values()):
            await self.flush()

    async def flush(self) -> None:
        """Publish what the broker has not acknowledged yet; what fails stays for the next call."""
        async with self._flushing:
            await self.load()
            waiting = [record for record in self._current.values() if not record.published]
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
        for audience, body in retained.items():
            try:
                self._note_ahead(audience, self._authority.read_directive(body).counter)
            except (TrustError, CodecError) as exc:
                log.warning("foreign_directive_retained", audience=str(audience), reason=str(exc))
        await self.load()
        lost = False
        for audience, record in list(self._current.items()):
            if record.published and retained.get(audience) != record.body:
                log.warning("directive_repaired", audience=str(audience), missing=audience not in retained)
                await self._repository.reopen(audience)
                lost |= audience not in retained
        await self.reissue(now=now)
        return lost

    async def reissue(self, *, now: float) -> None:
        """Say again, under a counter that devices will take, what some audiences hold a higher counter for."""
        behind = frozenset(self._behind)

        def read(body: bytes) -> Directive:
            return replace(self._authority.read_directive(body), issued=int(now))

        await self._repository.reissue(behind, read, self.sign, floor=self.floor)
        self._behind -= behind
        await self.flush()
