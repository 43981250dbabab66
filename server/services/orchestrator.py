"""The loop that moves campaigns: snapshot, ``decide()``, carry it out by compare-and-set, publish.

It wakes at once for a person's order and for a device that has gone silent at its deadline, a little later for what
devices report, and at least each second. It keeps no state of its own: whatever it needs is in the database or heard
from the devices again, so that kill -9 at any point loses nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

from firmware_store.errors import (
    BrokerUnavailableError,
    CodecError,
    ConflictError,
    ExpiredError,
    SignerUnavailableError,
    StoreUnavailableError,
    TrustError,
)
from server.db.bundles import BundleRecord
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.campaigns import CampaignRepository
from server.domain.campaign import JUDGED, OFFERING, Cause
from server.domain.consent import Awaited
from server.domain.decide import Decision, Kind, decide
from server.domain.halt import Verdict
from server.domain.late import choose
from server.domain.paced import rooms
from server.domain.snapshot import Snapshot
from server.protocol.orders import Action
from server.services.admits import ADMIT_S, Admits
from server.services.changes import TRUST_ACTOR, Changes
from server.services.deltas import Deltas
from server.services.directives import Directives
from server.services.evidence import Evidence
from server.services.metrics import Metrics
from server.services.silence import Silence
from server.services.sites import may_reboot
from server.services.snapshot import Counts, Surveyor
from server.services.transitions import decided, halted, paused, resumed
from server.services.wire import Wire

log = structlog.get_logger(__name__)

TICK_S: Final = 1.0
LEAST_BETWEEN_S: Final = 0.1
"""Whatever happens, campaigns are evaluated at most ten times a second."""

REST_RATIO: Final = 9.0
"""News of devices rests so many times as long as the evaluation before it took.

An evaluation surveys the whole fleet, so that with each committed batch it would take the time that committing needs.
"""

ACTOR: Final = "orchestrator"


class Orchestrator:
    """One loop for all campaigns of this process."""

    def __init__(
        self,
        *,
        repository: CampaignRepository,
        changes: Changes,
        directives: Directives,
        surveyor: Surveyor,
        silence: Silence,
        evidence: Evidence,
        wire: Wire,
        metrics: Metrics,
        grace_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._changes = changes
        self._directives = directives
        self._surveyor = surveyor
        self._silence = silence
        self._evidence = evidence
        self._wire = wire
        self._metrics = metrics
        self._grace_s = grace_s
        self._clock = clock
        self._since = datetime.fromtimestamp(clock(), UTC)
        self._urgent = asyncio.Event()
        self._news = asyncio.Event()
        self._judged: list[CampaignRecord] = []
        self.chores: Sequence[Callable[[float], Awaitable[None]]] = ()
        """What else is done at each tick, before campaigns are evaluated; each is told the time."""
        self.evaluated_at: float | None = None
        self.admits: Admits | None = None
        self.deltas: Deltas | None = None

    def wake(self) -> None:
        """Something was ordered; look now."""
        self._urgent.set()
        self._news.set()

    def note_news(self) -> None:
        """Devices have reported something; look when evaluations have rested long enough."""
        self._news.set()

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            began = time.monotonic()
            await self._try(self.tick)
            rest_s = rest_after(time.monotonic() - began)
            await asyncio.sleep(LEAST_BETWEEN_S)
            await self._rest(rest_s - LEAST_BETWEEN_S)
            await _is_set(self._news, TICK_S - rest_s)
            self._urgent.clear()
            self._news.clear()

    async def _rest(self, seconds: float) -> None:
        """Let news wait; an order ends the rest, and so does a device that goes silent.

        The devices' deadlines are looked at meanwhile, which an index makes cheap; most of them pass without a word
        worth an evaluation, since the device was heard.
        """
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            if await _is_set(self._urgent, min(left_s, LEAST_BETWEEN_S)) or await self._try(self.judge_deadlines):
                self.wake()
                return

    async def _try(self, work: Callable[[], Awaitable[int | None]]) -> int | None:
        try:
            return await work()
        except (StoreUnavailableError, BrokerUnavailableError) as exc:
            log.warning("evaluation_postponed", reason=str(exc))
        except Exception:
            log.exception("evaluation_failed")
            self._metrics.failed_evaluations.inc()
        return None

    async def judge_deadlines(self) -> int:
        """Judge the devices whose deadline has come since the last evaluation; returns how many are silent."""
        up_since = self._wire.up_since
        if up_since is None:
            return 0
        now = self._clock()
        silent = 0
        for campaign in self._judged:
            fair_since = self._evidence.fair_since(campaign, hearing_since=up_since)
            silent += await self._silence.judge_reboots(campaign, now=now, fair_since=fair_since)
        return silent

    async def tick(self) -> None:
        """Evaluate every campaign that is judged, once."""
        if self._wire.up_since is not None:
            await self._directives.publish_waiting(now=self._clock())
        for chore in self.chores:
            await self._one_of_many(chore(self._clock()), chore=getattr(chore, "__qualname__", ""))
        self._judged = await self._repository.in_states(JUDGED)
        self._surveyor.remember_only([campaign.id for campaign in self._judged])
        self._evidence.remember_only([campaign.id for campaign in self._judged])
        for campaign in self._judged:
            await self._one_of_many(self._evaluate(campaign), campaign=campaign.id.hex)
        self.evaluated_at = self._clock()
        self._metrics.evaluated.set(self.evaluated_at)

    async def _one_of_many(self, work: Awaitable[None], **named: str) -> None:
        """Do a part of a tick: what goes wrong in it stops no other, unless database or broker are away."""
        try:
            await work
        except (StoreUnavailableError, BrokerUnavailableError):
            raise
        except (TrustError, ConflictError, SignerUnavailableError) as exc:
            log.warning("evaluation_postponed", reason=str(exc), **named)
        except Exception:
            log.exception("evaluation_failed", **named)
            self._metrics.failed_evaluations.inc()

    async def _evaluate(self, campaign: CampaignRecord) -> None:
        now = self._clock()
        up_since = self._wire.up_since
        if up_since is None:
            return  # deaf: levels stop by themselves, and nobody is judged by what we cannot hear
        bundle = await self._changes.bundle_of(campaign)
        may_offer = True
        try:
            if not await self._heed_trust(campaign, bundle, now):
                return
        except SignerUnavailableError as exc:
            # Nothing can be offered, held or given back; what devices show is judged, and a halt is kept, all the same.
            log.warning("trust_not_heeded", campaign=campaign.id.hex, reason=str(exc))
            may_offer = False
        fair_since = self._evidence.fair_since(campaign, hearing_since=up_since)
        await self._silence.judge_reboots(campaign, now=now, fair_since=fair_since)
        await self._silence.judge_trials(campaign, now=now, fair_since=fair_since)
        if now - up_since < self._grace_s:
            return  # presence is not known yet
        offered = self._directives.offered_to(campaign.id)
        survey = await self._surveyor.survey(campaign, bundle, now=now, offered=offered)
        verdict = await self._evidence.look(
            campaign, survey.roster, survey.sighting, survey.progress, hearing_since=up_since
        )
        decision = decide(self._complete(survey.counts.snapshot, verdict, campaign, now), now)
        may_offer = may_offer and campaign.state in OFFERING
        if decision.kind is Kind.NOTHING and may_offer:
            # all levels rise before anybody late is admitted
            await self._let_in(campaign, bundle, survey.counts, verdict, now)
        if decision.kind in {Kind.NOTHING, Kind.PACE} and may_offer:
            self._let_reboot(campaign, survey.counts, now)
        standing = await self._carry_out(campaign, survey.counts, decision, now)
        if standing is not None and may_offer and standing.state in OFFERING:
            await self._directives.renew(standing, bundle, now=now)

    def _complete(self, snapshot: Snapshot, verdict: Verdict, campaign: CampaignRecord, now: float) -> Snapshot:
        """Return the snapshot with what the survey does not know."""
        is_waiting = self.deltas is not None and self.deltas.is_awaited(campaign, now)
        return replace(snapshot, verdict=verdict, blobs_ready=snapshot.blobs_ready and not is_waiting)

    async def _let_in(
        self, campaign: CampaignRecord, bundle: BundleRecord, counts: Counts, verdict: Verdict, now: float
    ) -> None:
        """Let in named devices where there is room, then late ones, then those that sleep."""
        if self.admits is None or not (counts.late or counts.named or counts.sleepers):
            return
        snapshot = counts.snapshot
        left = rooms(
            snapshot.lines,
            verdict,
            snapshot.starting_in_classes,
            policy=campaign.policy,
            now=now,
            starts_per_s=snapshot.starts_per_s,
        )
        in_regions = {line.region: room for line, room in zip(snapshot.lines, left.in_regions, strict=True)}
        in_classes = left.in_classes.tolist()
        named = choose(counts.named, room=left.whole, in_regions=in_regions, in_classes=in_classes)
        if named:
            places = {one.device: one.region for one in counts.named}
            await self._directives.offer_to(campaign, bundle, [(places[name], name) for name in named], now=now)
            return  # what is left of the room is known when they are counted
        chosen = choose(counts.late, room=left.whole, in_regions=in_regions, in_classes=in_classes)
        self.admits.grant(campaign.id, chosen, until=now + ADMIT_S, now=now)
        room = min(left.whole - len(chosen), verdict.room_of_sleepers - counts.sleepers_starting)
        woken = choose(counts.sleepers, room=room, in_regions=in_regions, in_classes=in_classes)
        self.admits.grant(campaign.id, woken, until=now + ADMIT_S, now=now)

    def _let_reboot(self, campaign: CampaignRecord, counts: Counts, now: float) -> None:
        """Let devices reboot as their sites have room; not before what an earlier process has granted has expired."""
        is_own = campaign.started_at is not None and campaign.started_at >= self._since
        is_known = is_own or now - self._since.timestamp() >= ADMIT_S
        if self.admits is not None and counts.rebooters and is_known:
            chosen = may_reboot(counts.rebooters, most=campaign.policy.site_reboots_most)
            self.admits.grant_reboots(campaign.id, chosen, now=now)

    async def _heed_trust(self, campaign: CampaignRecord, bundle: BundleRecord, now: float) -> bool:
        """Hold a campaign that nothing may be offered for today, and halt one whose release devices must not take.

        False if it has changed. A status or a root halts campaigns as it is accepted; what is done here is for all
        that has come about in another way, such as a campaign that was started at the same moment.
        """
        at = datetime.fromtimestamp(now, UTC)
        try:
            await self._directives.check_release(bundle, now=now)
        except (ExpiredError, SignerUnavailableError) as exc:
            if campaign.state not in OFFERING:
                return True
            sentence = f"Held: {exc}"
            changed, action = replace(paused(campaign, Cause.TRUST, now=at), sentence=sentence), Action.HOLD
        except (TrustError, CodecError) as exc:
            sentence = f"Halted: {exc}."
            changed, action = replace(halted(campaign, now=at), sentence=sentence), Action.HALT
        else:
            if Cause.TRUST not in campaign.causes:
                return True
            sentence = "Resumed: root and status are valid again."
            changed, action = resumed(campaign, frozenset({Cause.TRUST})), Action.OFFER
        kind = {Action.HOLD: "pause", Action.HALT: "halt", Action.OFFER: "resume"}[action]
        await self._changes.apply(changed, action, DecisionRecord(at, kind, TRUST_ACTOR, sentence))
        return False

    async def _carry_out(
        self, campaign: CampaignRecord, counts: Counts, decision: Decision, now: float
    ) -> CampaignRecord | None:
        """Carry a decision out; returns the campaign if its offers stand, perhaps with new lines to publish."""
        if decision.kind is Kind.NOTHING:
            return campaign
        at = datetime.fromtimestamp(now, UTC)
        change = decided(campaign, decision, counts.heights, now=at)
        is_no_news = decision.kind is Kind.WAIT and decision.awaits in {campaign.awaits, Awaited.NOBODY}
        if decision.kind is Kind.PACE or is_no_news:  # what is said again and again fills no table
            return await self._repository.save(change.campaign)
        record = DecisionRecord(at, decision.kind.value, ACTOR, decision.sentence, decision.evidence)
        await self._changes.apply(change.campaign, change.action, record, regions=change.regions)
        return None


def rest_after(evaluation_s: float) -> float:
    """Return for how many seconds news rests after an evaluation that took so long."""
    return min(max(REST_RATIO * evaluation_s, LEAST_BETWEEN_S), TICK_S)


async def _is_set(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for an event, but not for long; True if it is set."""
    if not event.is_set() and timeout_s > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()
    return event.is_set()
