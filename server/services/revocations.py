"""Releases that somebody should take back.

A halt binds nobody who gets hold of the directive key: the thief could offer the halted release again. A revocation
does, and only the status key signs that, which is not here. So each halt proposes one, and people are reminded.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from firmware_store.errors import StoreUnavailableError
from server.db.bundles import BundleRecord
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.revocations import RevocationId, RevocationRecord, RevocationRepository, Stage
from server.domain.scope import EVERYTHING, Scope
from server.services.identifiers import new_uuid7

log = structlog.get_logger(__name__)

REMIND_AFTER: Final = timedelta(days=1)
LOOK_S: Final = 600.0


def proposal_of(campaign: CampaignRecord, bundle: BundleRecord, decision: DecisionRecord) -> RevocationRecord:
    """Return the proposal that goes with a halt."""
    return RevocationRecord(
        id=RevocationId(new_uuid7()),
        manifest_digest=bundle.manifest_digest,
        campaign=campaign.id,
        sentence=decision.sentence,
        proposed_at=decision.at,
    )


class Revocations:
    """Looking at proposals, declining them, and not letting them be forgotten."""

    def __init__(self, repository: RevocationRepository, *, clock: Callable[[], float] = time.time) -> None:
        self._repository = repository
        self._clock = clock

    async def newest(
        self,
        limit: int,
        *,
        stage: Stage | None = None,
        before: RevocationId | None = None,
        scope: Scope = EVERYTHING,
    ) -> list[RevocationRecord]:
        """Return the newest of which the whole campaign is within ``scope``; ``before``: those that follow this one."""
        return await self._repository.newest(limit, stage=stage, before=before, scope=scope)

    async def decline(self, revocation: RevocationId, *, caller: str, reason: str) -> RevocationRecord:
        """Leave the release as it is. Raises: NotFoundError, ConflictError: it is settled already."""
        declined = await self._repository.decline(revocation, now=self._now(), actor=caller, reason=reason)
        log.info("revocation_declined", release=declined.manifest_digest.hex(), actor=caller, why=reason)
        return declined

    async def run(self) -> None:
        """Serve for ever: remind of each open proposal once a day, over restarts too."""
        while True:
            try:
                await self.remind()
            except StoreUnavailableError as exc:
                log.warning("reminders_postponed", reason=str(exc))
            await asyncio.sleep(LOOK_S)

    async def remind(self) -> None:
        """Log what is a day old, or was mentioned a day ago."""
        now = self._now()
        for proposal in await self._repository.due(now=now, since=now - REMIND_AFTER):
            log.warning(
                "revocation_proposed",
                release=proposal.manifest_digest.hex(),
                campaign=proposal.campaign.hex,
                since=proposal.proposed_at.isoformat(),
                why=proposal.sentence,
                remedy="sign and publish a status that revokes it, or decline",
            )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
