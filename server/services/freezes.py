"""Freezes: nothing goes on in a frozen region, and a campaign that has one of its regions frozen is held as a whole.

An emergency is not held. Nor is the halt rule: a campaign that is held is judged as any other.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog

from firmware_store.errors import InvalidInputError
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.campaigns import CampaignRepository
from server.db.freezes import FreezeRecord, FreezeRepository, check_reach, is_shown
from server.domain.campaign import OFFERING, Cause, Event, State
from server.domain.freeze import Freeze, check_zone
from server.domain.identity import Region
from server.domain.scope import EVERYTHING, Scope
from server.protocol.orders import Action
from server.services.changes import Changes
from server.services.identifiers import new_uuid7
from server.services.transitions import paused, resumed

log = structlog.get_logger(__name__)

ACTOR: Final = "freeze"

_YEARS: Final = (2000, 2200)
"""Instants of the first and the last year that a clock knows cannot be computed in every zone."""


class Freezes:
    """The calendar, and what it does to campaigns."""

    def __init__(
        self,
        *,
        repository: FreezeRepository,
        campaign_repository: CampaignRepository,
        changes: Changes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._campaign_repository = campaign_repository
        self._changes = changes
        self._clock = clock

    async def add(
        self,
        *,
        region: Region | None,
        zone: str,
        starts: datetime,
        ends: datetime,
        reason: str,
        caller: str,
        scope: Scope = EVERYTHING,
    ) -> FreezeRecord:
        """Add one; ``starts`` and ``ends`` are naive, of the zone's wall clock.

        Raises:
            InvalidInputError: no such zone, or it ends before it starts.
            ForbiddenError: it would also hold what is not within ``scope``.
        """
        check_reach(region, scope)
        freeze = Freeze(new_uuid7(), region, check_zone(zone), starts, ends, reason)
        if starts.tzinfo is not None or ends.tzinfo is not None:
            raise InvalidInputError(
                "A freeze starts and ends by the wall clock: leave the offset out.", pointer="/starts"
            )
        if not _YEARS[0] <= starts.year <= ends.year <= _YEARS[1]:
            raise InvalidInputError(f"A freeze lies between the years {_YEARS[0]} and {_YEARS[1]}.", pointer="/starts")
        if starts >= ends:
            raise InvalidInputError("A freeze ends after it has started.", pointer="/ends")
        record = FreezeRecord(freeze, caller, datetime.fromtimestamp(self._clock(), UTC))
        await self._repository.add(record)
        self._note("freeze_added", record, caller)
        return record

    async def all(self, *, scope: Scope = EVERYTHING) -> list[FreezeRecord]:
        """Return those that hold anything within ``scope``."""
        return [record for record in await self._repository.all() if is_shown(record, scope)]

    async def remove(self, freeze: UUID, *, caller: str, scope: Scope = EVERYTHING) -> FreezeRecord:
        """Raises: NotFoundError; ForbiddenError: it also holds what is not within ``scope``."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        record = await self._repository.remove(freeze, by=caller, now=now, scope=scope)
        self._note("freeze_removed", record, caller)
        return record

    def _note(self, event: str, record: FreezeRecord, caller: str) -> None:
        log.info(
            event, freeze=record.freeze.id.hex, region=record.freeze.region, actor=caller, why=record.freeze.reason
        )
        self._changes.note()

    async def tick(self, now: float) -> None:
        """Hold what is frozen now, and let go of what is not any more."""
        at = datetime.fromtimestamp(now, UTC)
        freezes = [record.freeze for record in await self._repository.all()]
        for campaign in await self._campaign_repository.in_states(OFFERING | {State.PAUSED}):
            freeze = _holding(campaign, freezes, at)
            if freeze is not None and Cause.FREEZE not in campaign.causes:
                sentence = f"Held by a freeze until {freeze.ends:%Y-%m-%d %H:%M} {freeze.zone}: {freeze.reason}"
                held = replace(paused(campaign, Cause.FREEZE, now=at), sentence=sentence)
                await self._changes.apply(held, Action.HOLD, DecisionRecord(at, Event.PAUSE.value, ACTOR, sentence))
            elif freeze is None and Cause.FREEZE in campaign.causes:
                going_on = resumed(campaign, frozenset({Cause.FREEZE}))
                await self._changes.apply(
                    going_on,
                    Action.OFFER,
                    DecisionRecord(at, Event.RESUME.value, ACTOR, "Resumed: the freeze is over."),
                )


def _holding(campaign: CampaignRecord, freezes: Sequence[Freeze], now: datetime) -> Freeze | None:
    """Return the freeze of one of its regions that ends last, if there is one; none holds an emergency."""
    if campaign.emergency:
        return None
    holding = [freeze for freeze in freezes if any(freeze.holds(region.region, now) for region in campaign.regions)]
    return max(holding, key=lambda freeze: freeze.is_over_at, default=None)
