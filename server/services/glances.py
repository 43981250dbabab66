"""What was counted of campaigns for people to look at: of a large fleet, counting takes seconds, and is not done twice.

A count that was quick is done anew each time. One that was not is shown while it is not older than some times what it
took, and then once more while the next one is made.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from server.db.campaign_records import CampaignRecord
from server.domain.execution import State
from server.domain.identity import CampaignId
from server.domain.scope import Scope
from server.domain.snapshot import RegionView
from server.services.sites import Rebooter

log = structlog.get_logger(__name__)

QUICK_S: Final = 0.02
REST_RATIO: Final = 9.0
KEPT_MOST: Final = 64


@dataclass(frozen=True, slots=True)
class Glance:
    """The counts of a campaign's regions, of its executions by state, and who has written the release."""

    regions: Sequence[RegionView]
    states: Mapping[State, int]
    rebooters: Sequence[Rebooter]


@dataclass(frozen=True, slots=True)
class _Kept:
    glance: Glance
    took_s: float
    at: float


_Key = tuple[CampaignId, int, Scope]


class Glances:
    """The newest of each campaign, for each part of the fleet that somebody may see."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._looking: dict[_Key, asyncio.Task[None]] = {}

    def keep(self, glance: Glance, campaign: CampaignRecord, scope: Scope, *, took_s: float) -> None:
        """Take a new one up."""
        key = _key(campaign, scope)
        self._kept[key] = _Kept(glance, took_s, time.monotonic())
        self._kept.move_to_end(key)
        if len(self._kept) > KEPT_MOST:
            self._kept.popitem(last=False)

    async def get(
        self, campaign: CampaignRecord, scope: Scope, survey: Callable[[], Coroutine[Any, Any, None]]
    ) -> Glance:
        """Return one that is new enough; ``survey`` makes, and keeps, the next one."""
        key = _key(campaign, scope)
        kept = self._kept.get(key)
        if kept is None:
            await asyncio.shield(self._look(key, survey))  # one for all who ask
            return self._kept[key].glance
        if kept.took_s < QUICK_S:
            await survey()
            return self._kept[key].glance
        if time.monotonic() - kept.at > REST_RATIO * kept.took_s:
            self._look(key, survey)
        return kept.glance

    def _look(self, key: _Key, survey: Callable[[], Coroutine[Any, Any, None]]) -> "asyncio.Task[None]":
        """Let one be made in the background, unless that is under way."""

        def over(task: "asyncio.Task[None]") -> None:
            self._looking.pop(key, None)
            if not task.cancelled() and (exc := task.exception()) is not None:
                log.warning("survey_failed", reason=str(exc))

        if key not in self._looking:
            task = self._looking[key] = asyncio.create_task(survey(), name="survey for people")
            task.add_done_callback(over)
        return self._looking[key]


def _key(campaign: CampaignRecord, scope: Scope) -> _Key:
    return campaign.id, campaign.run, scope
