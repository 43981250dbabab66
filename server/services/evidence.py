"""The halt rule at work: one for each run of a campaign, fed with what has happened, and saved so that it goes on.

A restart goes on with the same test: the rule's state and the order of its devices are in the database, and what
happened while nobody looked counts as time in which we were blind.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import numpy as np
import structlog

from server.db.campaign_records import CampaignRecord
from server.db.executions import Progress
from server.db.halts import Accepted, HaltRepository
from server.domain.campaign import Cause
from server.domain.execution import IN_FLIGHT, TERMINAL, State
from server.domain.halt import Call, HaltRule, Moment, Verdict
from server.domain.halt.conclusion import RAIL
from server.domain.halt.roster import Status
from server.domain.halt.view import NOBODY, Indices
from server.domain.identity import CampaignId, DeviceId, Region
from server.protocol.reasons import Reason
from server.services.roster import Roster, Sighting
from server.services.turns import beside

log = structlog.get_logger(__name__)

LATE_S: Final = 10.0
"""An evaluation that comes so long after the one before was blind in between."""

SAVE_EVERY_S: Final = 1.0
"""While anything is under way; where nothing is, once a block."""

_UNHEARD: Final = frozenset({Reason.NO_BROKER, Reason.NO_WELCOME})
"""A trial that ended for these was silent, whatever is heard of the device afterwards."""

_BEGUN: Final = IN_FLIGHT | TERMINAL | {State.SILENT}


@dataclass(slots=True)
class _Case:
    """One run of a campaign under the rule."""

    run: int
    rule: HaltRule
    known: dict[DeviceId, Progress] = field(default_factory=dict)
    drops: Indices = field(default_factory=lambda: NOBODY)
    looked_at: float | None = None
    is_held: bool = False
    accepted: Accepted | None = None
    """The hold that a person has ended last."""
    bad_weather: frozenset[str] = frozenset()
    verdict: Verdict | None = None
    """Of the last look."""
    is_paged: bool = False
    saved_at: float = 0.0
    saved_devices: int = 0


class Evidence:
    """Steps the rules, and keeps them."""

    def __init__(self, repository: HaltRepository) -> None:
        self._repository = repository
        self._cases: dict[CampaignId, _Case] = {}

    def remember_only(self, campaigns: Collection[CampaignId]) -> None:
        """Forget all others; what they need is stored."""
        for campaign in self._cases.keys() - set(campaigns):
            del self._cases[campaign]

    def fair_since(self, campaign: CampaignRecord, *, hearing_since: float) -> dict[Region, float]:
        """Return, by region, since when silence says something of a device: we hear it, and the weather is good.

        As of the last look; bad weather that has come since is seen at the next one.
        """
        case = self._cases.get(campaign.id)
        since = {region.region: hearing_since for region in campaign.regions}
        if case is None or case.rule.now is None:
            return since
        for name, good_s in zip(case.rule.population.regions, case.rule.weather.streak, strict=True):
            since[Region(name)] = max(hearing_since, case.rule.now - float(good_s))
        return since

    def bad_weather(self, campaign: CampaignId) -> frozenset[str]:
        """Return the regions that stood still at the last look, because devices that only watch were dark there."""
        case = self._cases.get(campaign)
        return frozenset() if case is None else case.bad_weather

    def verdict(self, campaign: CampaignId) -> Verdict | None:
        """Return what was concluded at the last look; None where this process has not looked yet."""
        case = self._cases.get(campaign)
        return None if case is None else case.verdict

    def rule(self, campaign: CampaignId) -> HaltRule | None:
        """Return the rule of the campaign's present run, to be read only; None where this process has not looked."""
        case = self._cases.get(campaign)
        return None if case is None else case.rule

    async def look(
        self,
        campaign: CampaignRecord,
        roster: Roster,
        sighting: Sighting,
        progress: Mapping[DeviceId, Progress],
        *,
        hearing_since: float,
    ) -> Verdict:
        """Show the rule what has happened since the last look, and return what it concludes."""
        case = self._cases.get(campaign.id)
        if case is None or case.run != campaign.run:
            case = self._cases[campaign.id] = await self._open(campaign, roster)
        if case.rule.population is not roster.population:
            case.rule.grow(roster.population)
        now = sighting.now
        looked_at = now if case.looked_at is None else case.looked_at
        is_blind = now - looked_at > LATE_S or looked_at < hearing_since < now
        verdict = await beside(len(roster), self._step, campaign, case, roster, sighting, progress, is_blind=is_blind)
        is_news = progress != case.known or verdict.in_flight > 0
        case.looked_at, case.known, case.drops = now, dict(progress), sighting.drops
        _note_weather(campaign, case, verdict, now)
        if now - case.saved_at >= (SAVE_EVERY_S if is_news else campaign.policy.halt.block_s):
            await self._save(campaign, case, roster, now)
        before = case.accepted
        verdict = _unless_accepted(campaign, case, verdict)
        if case.accepted is not None and case.accepted is not before:
            await self._repository.accept(campaign.id, campaign.run, case.accepted)
        case.verdict = verdict
        return verdict

    async def _open(self, campaign: CampaignRecord, roster: Roster) -> _Case:
        seed = int.from_bytes(campaign.id.bytes[-8:]) ^ campaign.run
        saved = await self._repository.load(campaign.id, campaign.run)
        population, policy = roster.population, campaign.policy.halt
        if saved is None:
            return _Case(campaign.run, await beside(len(roster), HaltRule, population, policy, seed))
        try:
            rule = await beside(len(roster), HaltRule.load, saved.body, population, policy)
        except ValueError as exc:
            log.exception("halt_state_unreadable", campaign=campaign.id.hex, reason=str(exc))
            return _Case(campaign.run, HaltRule(population, policy, seed), looked_at=0.0)
        if saved.run != campaign.run:  # resumed after a halt: what devices did stays known, all bets begin anew
            return _Case(campaign.run, rule.renewed(seed))
        looked_at, devices = saved.saved_at.timestamp(), len(saved.roster)
        return _Case(campaign.run, rule, looked_at=looked_at, saved_devices=devices, accepted=saved.accepted)

    async def _save(self, campaign: CampaignRecord, case: _Case, roster: Roster, now: float) -> None:
        joined = len(roster) != case.saved_devices
        await self._repository.save(
            campaign.id,
            campaign.run,
            await beside(len(roster), case.rule.dump),
            roster=roster.ids if joined else None,
            now=datetime.fromtimestamp(now, UTC),
        )
        case.saved_at, case.saved_devices = now, len(roster)

    def _step(
        self,
        campaign: CampaignRecord,
        case: _Case,
        roster: Roster,
        sighting: Sighting,
        progress: Mapping[DeviceId, Progress],
        *,
        is_blind: bool,
    ) -> Verdict:
        return case.rule.step(self._moment(campaign, case, roster, sighting, progress, is_blind=is_blind))

    def _moment(
        self,
        campaign: CampaignRecord,
        case: _Case,
        roster: Roster,
        sighting: Sighting,
        progress: Mapping[DeviceId, Progress],
        *,
        is_blind: bool,
    ) -> Moment:
        news = {device: one for device, one in progress.items() if case.known.get(device) != one}
        run_at = 0.0 if campaign.run_at is None or campaign.run == 1 else campaign.run_at.timestamp()
        before = case.known
        rebooted = [
            device
            for device, one in news.items()
            if device in roster.index
            and one.rebooted_at is not None
            and one.rebooted_at >= run_at
            and (device not in before or before[device].rebooted_at is None)
        ]
        last_seen = sighting.last_seen.copy()
        unheard = [(device, one) for device, one in progress.items() if one.reason in _UNHEARD]
        for device, one in unheard:
            if one.rebooted_at is not None and device in roster.index:
                last_seen[roster.index[device]] = one.rebooted_at
        lost = np.zeros_like(sighting.drops)
        known = len(case.drops)  # what those who have joined since lost elsewhere is no news
        lost[:known] = sighting.drops[:known] - case.drops
        return Moment(
            now=sighting.now,
            last_seen=last_seen,
            online=sighting.online,
            present=sighting.present,
            level=np.asarray([region.ramp.level(sighting.now) for region in campaign.regions], np.int64),
            started=self._started(case, roster, news),
            rebooted=roster.indices(rebooted),
            rebooted_at=np.asarray([news[device].rebooted_at for device in rebooted], np.float64),
            over=roster.indices(_who(news, before, lambda one: _is_over(one, run_at))),
            failed=roster.indices(_who(news, before, lambda one: one.is_explicit_failure)),
            succeeded=roster.indices(_who(news, before, lambda one: one.state is State.CONFIRMED)),
            dropped=np.repeat(np.arange(len(lost)), np.maximum(lost, 0)),
            is_blind=is_blind,
        )

    def _started(self, case: _Case, roster: Roster, news: Mapping[DeviceId, Progress]) -> Indices:
        """Return who has begun. A rule that was taken up knows who had, and how it went: only others are news to it.

        Who was over (cancelled by the halt, say) may begin again in the run after it.
        """
        begun = _who(news, case.known, lambda one: one.state in _BEGUN)
        started = roster.indices(begun)
        if case.known:
            return started
        flying = roster.indices([device for device in begun if news[device].state in IN_FLIGHT])
        status = case.rule.roster.status[started]
        out: Indices = started[(status == Status.NEVER) | ((status == Status.OVER) & np.isin(started, flying))]
        return out


def _note_weather(campaign: CampaignRecord, case: _Case, verdict: Verdict, now: float) -> None:
    """Say when regions begin or cease to stand still, and once that somebody must look at a spike that lasts."""
    if verdict.bad_weather != case.bad_weather:
        log.info("weather_changed", campaign=campaign.id.hex, bad=sorted(verdict.bad_weather))
    case.bad_weather = verdict.bad_weather
    lasts = verdict.bad_since is not None and now - verdict.bad_since >= campaign.policy.halt.weather_page_s
    if lasts and not case.is_paged:
        log.error("weather_stays_bad", campaign=campaign.id.hex, bad=sorted(verdict.bad_weather))
    case.is_paged = lasts


def _unless_accepted(campaign: CampaignRecord, case: _Case, verdict: Verdict) -> Verdict:
    """A hold that a person has ended is none any more, until there is more to say."""
    is_held = Cause.EVIDENCE in campaign.causes
    if case.is_held and not is_held:
        case.accepted = Accepted(verdict.channel, verdict.silent, verdict.bad_since)
        case.rule.accept()
    elif case.accepted is not None and case.accepted.channel == RAIL and verdict.call < Call.HOLD:
        # The silent devices are back, the flapping was looked at: the same number another time is news.
        case.accepted = Accepted("", 0, case.accepted.bad_since)
    case.is_held = is_held
    if case.accepted is None:
        return verdict
    if verdict.bad_since == case.accepted.bad_since:
        verdict = replace(verdict, bad_since=None)
    if verdict.call is Call.HOLD and (verdict.channel, verdict.silent) == case.accepted[:2]:
        return replace(verdict, call=Call.GO if verdict.pace == 1 else Call.BRAKE)
    return verdict


def _is_over(one: Progress, run_at: float) -> bool:
    """It will not reboot any more in this run; what it did in an earlier one was judged then."""
    if one.rebooted_at is not None:
        return one.rebooted_at < run_at
    return one.state in TERMINAL


def _who(
    news: Mapping[DeviceId, Progress], before: Mapping[DeviceId, Progress], holds: Callable[[Progress], bool]
) -> Sequence[DeviceId]:
    """Return those of whom something holds now that did not before."""
    return [device for device, one in news.items() if holds(one) and not (device in before and holds(before[device]))]
