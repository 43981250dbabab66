"""Rollbacks under way: who has come back, who cannot, and when it is over.

The order is one directive for each region, given by ``Campaigns.rollback``; devices that are away find it when they
return. It stands until every device that ran the release has answered, or ``policy.rollback_s`` is over.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from server.db.bundles import BundleRecord, BundleRepository
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.campaigns import CampaignRepository
from server.db.executions import ExecutionRepository, Returns
from server.domain.campaign import Event, State
from server.domain.decide import duration
from server.domain.identity import CampaignId
from server.domain.scope import EVERYTHING, Scope
from server.protocol.orders import Action
from server.services import identifiers
from server.services.changes import Changes
from server.services.transitions import ended

ACTOR: Final = "orchestrator"

REST_RATIO: Final = 9.0
"""A rollback is left alone so many times as long as the last look at all its devices took."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rollback is. ``lasted``: from the decision to the last device that has confirmed its return.

    ``hint``: how those without a way back get their previous release, empty where there are none.
    """

    since: datetime
    returns: Returns
    lasted: timedelta | None
    hint: str


class Rollbacks:
    """Ends them, and says how far they are."""

    def __init__(
        self,
        *,
        repository: CampaignRepository,
        executions: ExecutionRepository,
        bundles: BundleRepository,
        changes: Changes,
    ) -> None:
        self._repository = repository
        self._executions = executions
        self._bundles = bundles
        self._changes = changes
        self._rests_until: dict[CampaignId, float] = {}

    async def tick(self, now: float) -> None:
        """End every rollback that nobody has to be waited for any longer."""
        under_way = await self._repository.in_states(frozenset({State.ROLLING_BACK}))
        self._rests_until = {one.id: self._rests_until.get(one.id, 0.0) for one in under_way}
        for campaign in under_way:
            if now >= self._rests_until[campaign.id]:
                began = time.monotonic()
                await self._consider(campaign, datetime.fromtimestamp(now, UTC))
                self._rests_until[campaign.id] = now + REST_RATIO * (time.monotonic() - began)

    async def _consider(self, campaign: CampaignRecord, now: datetime) -> None:
        since = campaign.rolling_since
        assert since is not None
        returns = await self._executions.returns(campaign.id)
        if returns.waiting and now - since < timedelta(seconds=campaign.policy.rollback_s):
            return
        sentence = sentence_of(returns, since)
        evidence = {
            "returned": returns.returned,
            "no_way_back": returns.no_way_back,
            "never_answered": returns.waiting,
            "seconds": None if returns.last is None else (returns.last - since).total_seconds(),
        }
        over = replace(ended(campaign, Event.RETURN, now=now), sentence=sentence)
        decision = DecisionRecord(now, Event.RETURN.value, ACTOR, sentence, evidence)
        await self._changes.apply(over, Action.NONE, decision)

    async def progress(self, campaign: CampaignRecord, *, scope: Scope = EVERYTHING) -> Progress | None:
        """Return how far its rollback is, or was when it ended; None if there was none."""
        since = campaign.rolling_since
        if since is None:
            return None
        returns = await self._executions.returns(campaign.id, scope=scope)
        hint = ""
        if returns.no_way_back:
            bundle = await self._bundles.get(campaign.bundle_id)
            hint = hint_of(bundle, await self._bundles.before(bundle))
        return Progress(since, returns, None if returns.last is None else returns.last - since, hint)


def sentence_of(returns: Returns, since: datetime) -> str:
    """Say how a rollback has ended."""
    devices = returns.returned + returns.no_way_back + returns.waiting
    if not devices:
        return "Rolled back: no device ran the release."
    took = "" if returns.last is None else f" in {duration((returns.last - since).total_seconds())}"
    text = f"Rolled back{took}: {returns.returned:,} of {devices:,} devices run their previous release"
    return text + "".join(_rest(returns)) + "."


def _rest(returns: Returns) -> Sequence[str]:
    parts = []
    if returns.no_way_back:
        parts.append(f"; {returns.no_way_back:,} {'has' if returns.no_way_back == 1 else 'have'} no way back")
    if returns.waiting:
        parts.append(f"; {returns.waiting:,} never answered")
    return parts


def hint_of(bundle: BundleRecord, previous: BundleRecord | None) -> str:
    """Say how devices without a way back get the previous release: none of them takes a lower number."""
    if previous is None:
        return f"No earlier release is here; build one under a sequence number above {bundle.sequence_number}."
    name = identifiers.show(identifiers.BUNDLE, previous.id)
    return (
        f"Build release {previous.version} ({name}) again under a sequence number above {bundle.sequence_number} "
        f"(it has {previous.sequence_number}), and start a campaign of it: the devices without a way back take it."
    )
