"""Asking gate webhooks: those of waves for which all else is met, again and again until they let them through.

What is answered is stored, and ``decide()`` makes of it what it says; nothing is decided here. A webhook that is slow
or away keeps nobody else waiting but its own campaign.
"""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import structlog

from firmware_store.errors import InvalidInputError, StoreUnavailableError, TidegateError
from server.db.campaign_records import CampaignRecord
from server.db.campaigns import CampaignRepository
from server.domain.campaign import State
from server.domain.consent import REASON_CHARACTERS_MOST, Answer, Awaited, Word, read_answer
from server.domain.identity import CampaignId
from server.services import identifiers
from server.services.errands import Errands
from server.services.transitions import answered

log = structlog.get_logger(__name__)

TICK_S: Final = 1.0
_TRIES: Final = 5


class UnreachableError(TidegateError):
    """A webhook does not answer; the text says how, and names no secret."""


class Asking(Protocol):
    """What the service needs of HTTP; ``server.outgoing.gate`` provides it."""

    async def ask(self, url: str, question: bytes) -> bytes:
        """Send a question (JSON) and return the answer's body, in bounded time.

        Raises:
            UnreachableError: there is none.
        """


class GateWebhooks:
    """``on_answer`` wakes the orchestrator."""

    def __init__(
        self, *, repository: CampaignRepository, asking: Asking, clock: Callable[[], float] = time.time
    ) -> None:
        self._repository = repository
        self._asking = asking
        self._clock = clock
        self._errands = Errands[CampaignId]("ask a webhook")
        self.on_answer: Callable[[], None] | None = None

    async def run(self) -> None:
        """Serve for ever."""
        await self._errands.run(self._look, TICK_S)

    async def _look(self) -> None:
        """Begin to ask for each campaign whose time it is, but for those that are asked for already."""
        try:
            waiting = await self._waiting()
        except StoreUnavailableError as exc:
            log.warning("webhooks_not_asked", reason=str(exc))
            return
        except Exception:  # a campaign that cannot be read ends no server
            log.exception("webhooks_not_asked")
            return
        for campaign in waiting:
            self._errands.begin(campaign.id, partial(self._try, campaign))

    async def tick(self) -> None:
        """Ask, once, for each campaign whose time it is, and store what is answered."""
        await asyncio.gather(*(self._ask(campaign) for campaign in await self._waiting()))

    async def _waiting(self) -> list[CampaignRecord]:
        now = self._clock()
        running = await self._repository.in_states(frozenset({State.RUNNING}))
        return [campaign for campaign in running if _is_time(campaign, now)]

    async def _try(self, campaign: CampaignRecord) -> None:
        try:
            await self._ask(campaign)
        except StoreUnavailableError as exc:
            log.warning("webhook_answer_not_stored", campaign=campaign.id.hex, reason=str(exc))
        except Exception:
            log.exception("webhook_not_asked", campaign=campaign.id.hex)

    async def _ask(self, campaign: CampaignRecord) -> None:
        assert campaign.wave is not None
        url = campaign.plan.waves[campaign.wave].gate.webhook
        assert url is not None
        try:
            word, reason = read_answer(await self._asking.ask(url, question_of(campaign, self._clock())))
        except (UnreachableError, InvalidInputError) as exc:
            word, reason = Word.NOTHING, str(exc)[:REASON_CHARACTERS_MOST]
        log.info("webhook_asked", campaign=campaign.id.hex, wave=campaign.wave + 1, word=word, reason=reason)
        await self._store(campaign, Answer(campaign.wave, word, reason, self._clock()))

    async def _store(self, asked_for: CampaignRecord, answer: Answer) -> None:
        """Keep the answer if it is still waited for: by then the campaign may be halted, or in another run."""
        for _ in range(_TRIES):
            campaign = await self._repository.get(asked_for.id)
            still = (campaign.run, campaign.wave, campaign.awaits) == (asked_for.run, answer.wave, Awaited.WEBHOOK)
            if not still:
                return
            if await self._repository.save(answered(campaign, answer)) is not None:
                if self.on_answer is not None:
                    self.on_answer()
                return


def question_of(campaign: CampaignRecord, now: float) -> bytes:
    """Return what a webhook is sent."""
    assert campaign.wave is not None
    members = {
        "campaign": identifiers.show(identifiers.CAMPAIGN, campaign.id),
        "name": campaign.name,
        "bundle": identifiers.show(identifiers.BUNDLE, campaign.bundle_id),
        "cohort": campaign.cohort,
        "regions": [region.region for region in campaign.regions],
        "wave": campaign.wave + 1,
        "waves": len(campaign.plan.waves),
        "run": campaign.run,
        "asked_at": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
    }
    return json.dumps(members).encode()


def _is_time(campaign: CampaignRecord, now: float) -> bool:
    if campaign.awaits is not Awaited.WEBHOOK or campaign.wave is None:
        return False
    answer = campaign.answer
    if answer is None or answer.wave != campaign.wave:
        return True
    return now - answer.at >= campaign.plan.waves[campaign.wave].gate.webhook_s
