"""A campaign that has changed: stored with its decision and its signed orders, then published and told.

Whoever changes campaigns does it by this, people by `server.services.campaigns`, and the server by its orchestrator,
freezes, rollbacks and trust documents.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Final

import structlog

from firmware_store.errors import SignerUnavailableError
from server.db.bundles import BundleRecord, BundleRepository
from server.db.campaign_records import CampaignRecord, DecisionRecord, RegionRecord
from server.db.campaigns import CampaignRepository
from server.db.revocations import RevocationRecord
from server.domain.campaign import State
from server.protocol.orders import Action, Directive
from server.services.directives import Directives
from server.services.metrics import Metrics
from server.services.revocations import proposal_of

log = structlog.get_logger(__name__)

TRUST_ACTOR: Final = "trust"
"""Who halts a campaign whose release devices must no longer take."""


class Changes:
    """Every change is one compare-and-set. ``on_change`` wakes whoever acts on campaigns."""

    def __init__(
        self,
        *,
        repository: CampaignRepository,
        bundles: BundleRepository,
        directives: Directives,
        metrics: Metrics,
    ) -> None:
        self._repository = repository
        self._bundles = bundles
        self._directives = directives
        self._metrics = metrics
        self.on_change: Callable[[], None] | None = None

    async def apply(
        self,
        campaign: CampaignRecord,
        action: Action | None,
        decision: DecisionRecord,
        *,
        was_active: bool = True,
        regions: Sequence[RegionRecord] | None = None,
        superseded: Sequence[tuple[CampaignRecord, DecisionRecord]] = (),
    ) -> CampaignRecord | None:
        """Store a changed campaign with its decision and directives, then publish them; None if somebody was first.

        Directives go to ``regions``: by default to the open ones, to all for a halt or an end. A campaign that never
        ran gives no orders: its audience may be under another's. What it supersedes ends in the same transaction.
        """
        if action is Action.OFFER and (campaign.state is not State.RUNNING or not campaign.blobs_ready):
            action = None  # still paused for another cause, or offered once its blobs are there
        is_end = action is Action.NONE or bool(superseded)
        async with self._directives.naming if is_end else nullcontext():
            saved, proposal = await self._store(
                campaign, action if was_active else None, decision, regions=regions, superseded=superseded
            )
        if saved is None:
            return None
        if proposal is not None:
            log.warning("revocation_proposed", release=proposal.manifest_digest.hex(), campaign=campaign.id.hex)
        await self._directives.flush()
        for ended_with in [*superseded, (saved, decision)]:
            self.announce(*ended_with)
        return saved

    async def _store(
        self,
        campaign: CampaignRecord,
        action: Action | None,
        decision: DecisionRecord,
        *,
        regions: Sequence[RegionRecord] | None,
        superseded: Sequence[tuple[CampaignRecord, DecisionRecord]],
    ) -> tuple[CampaignRecord | None, RevocationRecord | None]:
        """Store a change with the orders that tell of it, and, of a halt, the revocation that it proposes."""
        orders: list[Directive] = []
        proposal = None
        if action is not None:
            bundle = await self.bundle_of(campaign)
            if action is Action.HALT and decision.actor != TRUST_ACTOR:
                proposal = proposal_of(campaign, bundle, decision)
            now = decision.at.timestamp()
            orders = [
                self._directives.order(campaign, bundle, region, action, now=now)
                for region in (_audience(campaign, action) if regions is None else regions)
            ]
            if action not in {Action.OFFER, Action.HOLD}:
                orders += self._directives.withdrawn(campaign, now=now)
        told = {order.audience for order in orders}
        for other, why in superseded:
            ends = self._ends(other, await self.bundle_of(other), now=why.at.timestamp())
            orders += [order for order in ends if order.audience not in told]
        store = partial(
            self._repository.save,
            campaign,
            decision=decision,
            sign=self._directives.sign,
            floor=self._directives.floor,
            proposal=proposal,
            superseded=superseded,
        )
        try:
            return await store(orders=orders), proposal
        except SignerUnavailableError as exc:
            if action is not Action.HALT:
                raise
            log.warning("halt_not_signed_yet", campaign=campaign.id.hex, reason=str(exc))
            self._directives.owe()
            return await store(), proposal  # no offer is renewed from here on, and levels stop by themselves

    def _ends(self, campaign: CampaignRecord, bundle: BundleRecord, *, now: float) -> list[Directive]:
        ends = [self._directives.order(campaign, bundle, region, Action.NONE, now=now) for region in campaign.regions]
        return ends + self._directives.withdrawn(campaign, now=now)

    def announce(self, campaign: CampaignRecord, decision: DecisionRecord) -> None:
        """Count a decision that was stored, log it, and let the orchestrator look."""
        self._metrics.decisions.labels(decision.kind).inc()
        log.info(
            "campaign_changed",
            kind=decision.kind,
            campaign=campaign.id.hex,
            actor=decision.actor,
            why=decision.sentence,
        )
        self.note()

    def note(self) -> None:
        """Let whoever acts on campaigns look."""
        if self.on_change is not None:
            self.on_change()

    async def bundle_of(self, campaign: CampaignRecord) -> BundleRecord:
        return await self._bundles.get(campaign.bundle_id)


def _audience(campaign: CampaignRecord, action: Action) -> list[RegionRecord]:
    everywhere = action in {Action.HALT, Action.NONE}
    return [region for region in campaign.regions if everywhere or region.opened_at is not None]
