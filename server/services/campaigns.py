"""What people do with campaigns: draft, start, pause, resume, halt, cancel. Every change is one compare-and-set."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog

from firmware_store.errors import ConflictError, InvalidInputError, SignerUnavailableError
from server.db.bundles import BundleRecord, BundleRepository
from server.db.campaigns import CampaignRecord, CampaignRepository, DecisionRecord, RegionRecord
from server.db.devices import DeviceRepository
from server.domain.campaign import ACTIVE, Cause, Event, State, next_state
from server.domain.identity import BundleId, CampaignId, Cohort, Region
from server.domain.plan import Plan, Policy, default_plan
from server.protocol.orders import Action
from server.services.directives import Directives
from server.services.identifiers import new_uuid7
from server.services.metrics import Metrics
from server.services.revocations import proposal_of
from server.services.transitions import ended, halted, paused, resumed

log = structlog.get_logger(__name__)

TRUST_ACTOR: Final = "trust"
"""Who halts a campaign whose release devices must no longer take."""

_TRIES: Final = 5
"""How often a person's order is tried again when the orchestrator was first; each loses at most one second."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody asks for; without a plan the default one is made."""

    name: str
    cohort: Cohort
    regions: tuple[Region, ...]
    bundle: BundleId
    plan: Plan | None
    policy: Policy
    reason: str


class Campaigns:
    """Use cases. ``on_change`` wakes the orchestrator."""

    def __init__(
        self,
        *,
        repository: CampaignRepository,
        bundles: BundleRepository,
        devices: DeviceRepository,
        directives: Directives,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._repository = repository
        self._bundles = bundles
        self._devices = devices
        self._directives = directives
        self._metrics = metrics
        self.on_change: Callable[[], None] | None = None

    async def draft(self, draft: Draft, *, caller: str) -> CampaignRecord:
        """Store a draft; nothing happens to any device.

        Raises:
            InvalidInputError: its plan does not fit its regions.
            NotFoundError: no such bundle.
        """
        if not draft.regions or len(set(draft.regions)) < len(draft.regions):
            raise InvalidInputError("A campaign has at least one region, each once.", pointer="/regions")
        await self._bundles.get(draft.bundle)
        plan = draft.plan or default_plan(draft.regions, await self._devices.count_in(draft.cohort, draft.regions[0]))
        strangers = {name for wave in plan.waves for name in wave.regions} - set(draft.regions)
        if strangers:
            raise InvalidInputError(
                f"The plan raises regions that the campaign does not have: {', '.join(sorted(strangers))}.",
                pointer="/plan/waves",
            )
        campaign = CampaignRecord(
            id=CampaignId(new_uuid7()),
            name=draft.name,
            cohort=draft.cohort,
            bundle_id=draft.bundle,
            plan=plan,
            policy=draft.policy,
            reason=draft.reason,
            created_by=caller,
            created_at=self._now(),
            regions=tuple(RegionRecord(name) for name in draft.regions),
        )
        await self._repository.add(campaign)
        return campaign

    async def get(self, campaign: CampaignId) -> CampaignRecord:
        """Raises: NotFoundError."""
        return await self._repository.get(campaign)

    async def newest(self, limit: int) -> list[CampaignRecord]:
        return await self._repository.newest(limit)

    async def decisions(self, campaign: CampaignId, limit: int) -> list[DecisionRecord]:
        return await self._repository.decisions(campaign, limit)

    async def start(self, campaign: CampaignId, *, caller: str, reason: str) -> CampaignRecord:
        """Take a draft all the way to running.

        Raises:
            IllegalTransitionError, ConflictError, NotFoundError.
            TrustError: its release is not one that devices would take today.
        """
        draft = await self._repository.get(campaign)
        await self._directives.check_release(await self.bundle_of(draft), now=self._clock())

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            state = record.state
            for event in (Event.SUBMIT, Event.APPROVE, Event.START):
                state = next_state(state, event)
            return replace(record, state=state, started_at=now)

        return await self._act(campaign, change, None, kind="start", caller=caller, reason=reason)

    async def pause(self, campaign: CampaignId, *, caller: str, reason: str) -> CampaignRecord:
        """Hold it: nobody starts, nobody activates. Raises: IllegalTransitionError, NotFoundError."""

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            return paused(record, Cause.OPERATOR, now=now)

        return await self._act(campaign, change, Action.HOLD, kind="pause", caller=caller, reason=reason)

    async def resume(self, campaign: CampaignId, *, caller: str, reason: str) -> CampaignRecord:
        """Clear the operator's and the gate's cause; it runs when no cause is left.

        Raises:
            IllegalTransitionError: it is not paused.
            ConflictError: it is halted; a better release goes out by a campaign of its own.
            NotFoundError: no such campaign.
        """

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            if record.state is State.HALTED:
                raise ConflictError("A halted campaign is not resumed; start a campaign with a better release.")
            return resumed(record, frozenset({Cause.OPERATOR, Cause.GATE}), now=now)

        return await self._act(campaign, change, Action.OFFER, kind="resume", caller=caller, reason=reason)

    async def halt(self, campaign: CampaignId, *, caller: str, reason: str) -> CampaignRecord:
        """Halt it by hand: downloads stop, trials revert. Raises: IllegalTransitionError, NotFoundError."""

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            return replace(halted(record, now=now), sentence=f"Halted by {caller}: {reason}")

        return await self._act(campaign, change, Action.HALT, kind="halt", caller=caller, reason=reason)

    async def cancel(self, campaign: CampaignId, *, caller: str, reason: str) -> CampaignRecord:
        """End it: downloads stop, a trial finishes by its own checks. Raises: IllegalTransitionError, NotFoundError."""

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            return ended(record, Event.CANCEL, now=now)

        return await self._act(campaign, change, Action.NONE, kind="cancel", caller=caller, reason=reason)

    async def _act(
        self,
        campaign: CampaignId,
        change: Callable[[CampaignRecord, datetime], CampaignRecord],
        action: Action | None,
        *,
        kind: str,
        caller: str,
        reason: str,
    ) -> CampaignRecord:
        for _ in range(_TRIES):
            record = await self._repository.get(campaign)
            now = self._now()
            changed = change(record, now)
            sentence = changed.sentence if changed.sentence != record.sentence else ""
            decision = DecisionRecord(now, kind, caller, sentence or reason)
            saved = await self.apply(changed, action, decision, was_active=record.state in ACTIVE)
            if saved is not None:
                return saved
        raise ConflictError("The campaign keeps changing under this order; look at it and try again.")

    async def apply(
        self,
        campaign: CampaignRecord,
        action: Action | None,
        decision: DecisionRecord,
        *,
        was_active: bool = True,
        regions: Sequence[RegionRecord] | None = None,
    ) -> CampaignRecord | None:
        """Store a changed campaign with its decision and directives, then publish them; None if somebody was first.

        Directives go to ``regions``: by default to the open ones, to all for a halt or an end. A campaign that never
        ran gives no orders: its audience may be under another's.
        """
        if action is Action.OFFER and campaign.state is not State.RUNNING:
            action = None  # still paused for another cause
        orders = []
        proposal = None
        if action is not None and was_active:
            bundle = await self._bundles.get(campaign.bundle_id)
            if action is Action.HALT and decision.actor != TRUST_ACTOR:
                proposal = proposal_of(campaign, bundle, decision)
            now = decision.at.timestamp()
            orders = [
                self._directives.order(campaign, bundle, region, action, now=now)
                for region in (_audience(campaign, action) if regions is None else regions)
            ]
        store = partial(
            self._repository.save,
            campaign,
            decision=decision,
            sign=self._directives.sign,
            floor=self._directives.floor,
            proposal=proposal,
        )
        try:
            saved = await store(orders=orders)
        except SignerUnavailableError as exc:
            if action is not Action.HALT:
                raise
            log.warning("halt_not_signed_yet", campaign=campaign.id.hex, reason=str(exc))
            self._directives.owe()
            saved = await store()  # no offer is renewed from here on, and levels stop by themselves
        if saved is None:
            return None
        if proposal is not None:
            log.warning("revocation_proposed", release=proposal.manifest_digest.hex(), campaign=campaign.id.hex)
        await self._directives.flush()
        self.announce(saved, decision)
        return saved

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
        if self.on_change is not None:
            self.on_change()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    async def bundle_of(self, campaign: CampaignRecord) -> BundleRecord:
        return await self._bundles.get(campaign.bundle_id)


def _audience(campaign: CampaignRecord, action: Action) -> list[RegionRecord]:
    everywhere = action in {Action.HALT, Action.NONE}
    return [region for region in campaign.regions if everywhere or region.opened_at is not None]
