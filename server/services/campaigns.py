"""What people do with campaigns: draft, start, pause, resume, halt, cancel. Every change is one compare-and-set."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

from firmware_store.errors import ConflictError, ForbiddenError, InvalidInputError, TrustError
from server.db.bundles import BundleRecord, BundleRepository
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.campaigns import CampaignRepository
from server.db.devices import DeviceRepository
from server.domain.campaign import ACTIVE, NO_REASON, Cause, Event, State
from server.domain.filter import Expression
from server.domain.identity import CampaignId
from server.domain.scope import EVERYTHING, Scope
from server.protocol.orders import Action
from server.services import identifiers
from server.services.approvals import approved, check_resume
from server.services.changes import Changes
from server.services.directives import Directives
from server.services.drafts import Draft, drawn_up
from server.services.dry_runs import DryRun, check_plan, warnings_of
from server.services.room import Room
from server.services.transitions import (
    advanced,
    ended,
    halted,
    paused,
    reopened,
    resumed,
    rolling_back,
    started,
    submitted,
)
from server.services.visible import check_seen, check_whole, is_whole, part_of

log = structlog.get_logger(__name__)

PERSONS: Final = frozenset({Cause.OPERATOR, Cause.GATE, Cause.EVIDENCE, Cause.RESTORED})
"""What a person's resume clears; weather, freezes and trust end by themselves."""

_TRIES: Final = 5
"""How often a person's order is tried again when the orchestrator was first; each loses at most one second."""


Check = Callable[[CampaignRecord], None]
"""Raises when a campaign is not, or is no longer, what an order was given for."""


def unchecked(campaign: CampaignRecord) -> None:
    """Whoever orders has not looked, or goes by nothing that may have changed."""


class Campaigns:
    """Use cases.

    ``least_approvals``: what every campaign needs, so that nobody passes by approvals by asking for none. ``scope``,
    everywhere: what whoever asks may see; what is beyond it is not found, and all of a campaign is needed to change it.
    """

    def __init__(
        self,
        *,
        repository: CampaignRepository,
        bundles: BundleRepository,
        devices: DeviceRepository,
        directives: Directives,
        changes: Changes,
        room: Room,
        least_approvals: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._least_approvals = least_approvals
        self._repository = repository
        self._bundles = bundles
        self._devices = devices
        self._directives = directives
        self._changes = changes
        self._room = room

    async def draft(
        self, draft: Draft, *, caller: str, shown: str | None = None, scope: Scope = EVERYTHING
    ) -> CampaignRecord:
        """Store a draft; nothing happens to any device. ``shown``: the hash of the plan that somebody has seen.

        Raises:
            ConflictError: it would be another plan by now.
            ForbiddenError: not all of it is within ``scope``.
            InvalidInputError: its plan does not fit its regions.
            OverBudgetError: devices have no way to its release.
            NotFoundError: no such bundle.
        """
        campaign = await self._drawn_up(draft, caller=caller, scope=scope)
        check_plan(campaign, shown)
        await self._repository.add(campaign)
        return campaign

    async def dry_run(self, draft: Draft, *, caller: str, scope: Scope = EVERYTHING) -> DryRun:
        """Return what ``draft`` would store, and what a person should know of it. Raises as ``draft`` does."""
        campaign = await self._drawn_up(draft, caller=caller, scope=scope)
        devices = {region: await self._devices.count_in(draft.cohort, region) for region in draft.regions}
        beside = [name_of(other) for other in await self._repository.active_beside(campaign)]
        untrusted = None
        try:
            await self._directives.check_release(await self.bundle_of(campaign), now=self._clock())
        except TrustError as exc:
            untrusted = str(exc)
        return DryRun(campaign, devices, warnings_of(campaign, devices, beside, untrusted))

    async def _drawn_up(self, draft: Draft, *, caller: str, scope: Scope) -> CampaignRecord:
        if not scope.has_all(draft.regions, draft.cohort):
            raise ForbiddenError(f"Your access is limited to {scope}, and so are the campaigns that you create.")
        wanted = max(draft.policy.approvals, self._least_approvals)
        asked = replace(draft, policy=draft.policy.model_copy(update={"approvals": wanted}))
        campaign = await drawn_up(asked, caller=caller, now=self._now(), bundles=self._bundles, devices=self._devices)
        await self._room.check_alone(campaign)
        return campaign

    async def get(self, campaign: CampaignId, *, scope: Scope = EVERYTHING) -> CampaignRecord:
        """Return it, or the part of it that is within ``scope``. Raises: NotFoundError."""
        return await self._shown(await self._repository.get(campaign), scope)

    async def newest(
        self,
        limit: int,
        only: Expression | None = None,
        *,
        before: CampaignId | None = None,
        scope: Scope = EVERYTHING,
    ) -> list[CampaignRecord]:
        """Return those that a filter lets through and that have a part within ``scope``, and that part of them."""
        found = await self._repository.newest(limit, only, before=before, scope=scope)
        return [await self._shown(record, scope) for record in found]

    async def _shown(self, record: CampaignRecord, scope: Scope) -> CampaignRecord:
        check_seen(record, scope)
        if is_whole(record, scope):
            return record
        named = record.plan.named(len(record.plan.waves))
        places = await self._devices.places(sorted(named)) if named else {}
        return part_of(record, scope, {device for device, place in places.items() if scope.has(*place)})

    async def decisions(
        self, campaign: CampaignId, limit: int, *, before: int | None = None, scope: Scope = EVERYTHING
    ) -> list[DecisionRecord]:
        """Return the newest first. Raises: NotFoundError; ForbiddenError: they tell of more than ``scope``."""
        if scope.is_limited:
            check_whole(await self._repository.get(campaign), scope)
        return await self._repository.decisions(campaign, limit, before=before)

    async def submit(
        self, campaign: CampaignId, *, caller: str, reason: str, scope: Scope = EVERYTHING
    ) -> CampaignRecord:
        """Ask for approvals, where it needs any. Raises: IllegalTransitionError, NotFoundError."""

        def change(record: CampaignRecord, _now: datetime) -> CampaignRecord:
            return submitted(record)

        return await self._act(campaign, change, None, kind="submit", caller=caller, reason=reason, scope=scope)

    async def approve(
        self, campaign: CampaignId, *, caller: str, reason: str, scope: Scope = EVERYTHING
    ) -> CampaignRecord:
        """Approve its start, its next run where it is halted, or an emergency after the fact.

        Raises:
            ForbiddenError: the caller has created it.
            ConflictError: the caller has approved this already.
            IllegalTransitionError, NotFoundError.
        """

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            return approved(record, caller, reason, now=now)

        return await self._act(campaign, change, None, kind="approve", caller=caller, reason=reason, scope=scope)

    async def start(
        self,
        campaign: CampaignId,
        *,
        caller: str,
        reason: str,
        supersede: bool = False,
        emergency: bool = False,
        seen: Check = unchecked,
        scope: Scope = EVERYTHING,
    ) -> CampaignRecord:
        """Take a draft that needs no approval, or one that has it, to running.

        ``supersede``: end what is active on its devices. ``emergency``: start without approval, through freezes, and
        do not soak; the reason is kept, and approvals are asked for afterwards. The halt rule is never skipped.

        Raises:
            IllegalTransitionError: it waits for approvals, or is past its start.
            ConflictError: another one is active on its devices; NotFoundError.
            InvalidInputError: an emergency without a reason.
            OverBudgetError: its blobs do not fit the broker, and devices have no other way to them.
            TrustError: its release is not one that devices would take today.
        """
        if emergency:
            _check_reason(reason, "An emergency")
        await self._check_release(campaign, supersede=supersede, scope=scope)

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            return started(record, now=now, emergency=reason if emergency else "")

        return await self._act(
            campaign,
            change,
            None,
            kind="start",
            caller=caller,
            reason=reason,
            supersede=supersede,
            seen=seen,
            scope=scope,
        )

    async def _check_release(self, campaign: CampaignId, *, supersede: bool, scope: Scope) -> None:
        record = await self._repository.get(campaign)
        check_whole(record, scope)
        await self._directives.check_release(await self.bundle_of(record), now=self._clock())
        others = await self._repository.active_beside(record) if supersede else []
        await self._room.check(record, instead_of=[other.id for other in others])

    async def advance(
        self,
        campaign: CampaignId,
        *,
        wave: int,
        caller: str,
        reason: str,
        seen: Check = unchecked,
        scope: Scope = EVERYTHING,
    ) -> CampaignRecord:
        """Let the open wave, which is number ``wave``, through a gate that waits for a person.

        Raises:
            IllegalTransitionError: it does not wait for anybody.
            ConflictError: another wave is open; NotFoundError.
        """

        def change(record: CampaignRecord, _now: datetime) -> CampaignRecord:
            return advanced(record, wave)

        return await self._act(
            campaign, change, None, kind="advance", caller=caller, reason=reason, seen=seen, scope=scope
        )

    async def pause(
        self, campaign: CampaignId, *, caller: str, reason: str, scope: Scope = EVERYTHING
    ) -> CampaignRecord:
        """Hold it: nobody starts, nobody activates. Raises: IllegalTransitionError, NotFoundError."""

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            return paused(record, Cause.OPERATOR, now=now)

        return await self._act(campaign, change, Action.HOLD, kind="pause", caller=caller, reason=reason, scope=scope)

    async def resume(
        self,
        campaign: CampaignId,
        *,
        caller: str,
        reason: str,
        supersede: bool = False,
        seen: Check = unchecked,
        scope: Scope = EVERYTHING,
    ) -> CampaignRecord:
        """Clear the operator's and the gate's cause, and run when no cause is left; or begin a halted one's next run.

        Raises:
            IllegalTransitionError: it is neither paused nor halted.
            ConflictError: halted, and approvals are missing or another campaign is active on its devices.
            InvalidInputError: halted, and no reason is given.
            OverBudgetError: halted, and devices have no way to its blobs now.
            TrustError: halted, and devices would not take its release today.
            NotFoundError: no such campaign.
        """
        if (await self._repository.get(campaign)).state is State.HALTED:
            await self._check_release(campaign, supersede=supersede, scope=scope)

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            if record.state is not State.HALTED:
                return resumed(record, PERSONS)
            _check_reason(reason, "A resume after a halt")
            check_resume(record, caller)
            return reopened(record, now=now)

        return await self._act(
            campaign,
            change,
            Action.OFFER,
            kind="resume",
            caller=caller,
            reason=reason,
            supersede=supersede,
            seen=seen,
            scope=scope,
        )

    async def rollback(
        self,
        campaign: CampaignId,
        *,
        caller: str,
        reason: str,
        supersede: bool = False,
        seen: Check = unchecked,
        scope: Scope = EVERYTHING,
    ) -> CampaignRecord:
        """Send its devices back to the release they ran before, by one order for each region.

        Raises:
            IllegalTransitionError, NotFoundError.
            ConflictError: another campaign is active on its devices, and is not to be superseded.
        """

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            return replace(rolling_back(record, now=now), sentence=f"Rolling back, by {caller}: {reason}")

        return await self._act(
            campaign,
            change,
            Action.ROLLBACK,
            kind="rollback",
            caller=caller,
            reason=reason,
            supersede=supersede,
            seen=seen,
            scope=scope,
        )

    async def halt(
        self, campaign: CampaignId, *, caller: str, reason: str, scope: Scope = EVERYTHING
    ) -> CampaignRecord:
        """Halt it by hand: downloads stop, trials revert. Raises: IllegalTransitionError, NotFoundError."""

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            return replace(halted(record, now=now), sentence=f"Halted by {caller}: {reason}")

        return await self._act(campaign, change, Action.HALT, kind="halt", caller=caller, reason=reason, scope=scope)

    async def cancel(
        self, campaign: CampaignId, *, caller: str, reason: str, scope: Scope = EVERYTHING
    ) -> CampaignRecord:
        """End it: downloads stop, a trial finishes by its own checks. Raises: IllegalTransitionError, NotFoundError."""

        def change(record: CampaignRecord, now: datetime) -> CampaignRecord:
            return ended(record, Event.CANCEL, now=now)

        return await self._act(campaign, change, Action.NONE, kind="cancel", caller=caller, reason=reason, scope=scope)

    async def _act(
        self,
        campaign: CampaignId,
        change: Callable[[CampaignRecord, datetime], CampaignRecord],
        action: Action | None,
        *,
        kind: str,
        caller: str,
        reason: str,
        supersede: bool = False,
        seen: Check = unchecked,
        scope: Scope,
    ) -> CampaignRecord:
        for _ in range(_TRIES):
            record = await self._repository.get(campaign)
            check_whole(record, scope)
            seen(record)
            now = self._now()
            changed = change(record, now)
            superseded = []
            if changed.state in ACTIVE and record.state not in ACTIVE:
                others = await self._repository.active_beside(changed)
                if others and not supersede:
                    raise ConflictError(
                        f"{name_of(others[0])} is active on these devices: end it first, or supersede it."
                    )
                for other in others:
                    check_whole(other, scope)
                superseded = [_superseded(other, changed, caller, now) for other in others]
            sentence = changed.sentence if changed.sentence != record.sentence else ""
            decision = DecisionRecord(now, kind, caller, sentence or reason)
            was_active = not ACTIVE.isdisjoint({record.state, changed.state})
            saved = await self._changes.apply(changed, action, decision, was_active=was_active, superseded=superseded)
            if saved is not None:
                return saved
        raise ConflictError("The campaign keeps changing under this order; look at it and try again.")

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    async def bundle_of(self, campaign: CampaignRecord) -> BundleRecord:
        return await self._changes.bundle_of(campaign)


def name_of(campaign: CampaignRecord) -> str:
    """Return what people know it by."""
    return f"{campaign.name} ({identifiers.show(identifiers.CAMPAIGN, campaign.id)})"


def _superseded(
    other: CampaignRecord, by: CampaignRecord, caller: str, now: datetime
) -> tuple[CampaignRecord, DecisionRecord]:
    sentence = f"Superseded by {name_of(by)}."
    changed = replace(ended(other, Event.CANCEL, now=now), sentence=sentence)
    return changed, DecisionRecord(now, Event.CANCEL.value, caller, sentence)


def _check_reason(reason: str, what: str) -> None:
    if reason.strip() in {"", NO_REASON}:
        raise InvalidInputError(f"{what} needs a reason.", pointer="/reason")
