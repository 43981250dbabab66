"""What is known of a campaign at one moment: the fleet in memory joined with the executions in the database."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np

from server.db.bundles import BundleRecord
from server.db.campaigns import CampaignRecord, RegionRecord
from server.db.executions import ExecutionRecord, ExecutionRepository, Progress
from server.db.halts import HaltRepository
from server.domain.bounds import excess
from server.domain.eligibility import Target, fits
from server.domain.execution import State
from server.domain.gate import height, is_due
from server.domain.identity import CampaignId, DeviceId, Region
from server.domain.late import Waiting
from server.domain.paced import Startable, counted_s
from server.domain.snapshot import RegionView, Snapshot
from server.protocol.reasons import Reason
from server.services.admits import ADMIT_S
from server.services.fleet import Device, Fleet
from server.services.roster import Roster, Sighting
from server.services.sites import AWAY, Rebooter
from server.services.transitions import ceiling

_AFTER_REBOOT: Final = frozenset({State.REBOOTING, State.TRIAL})
_WRITTEN: Final = AWAY | {State.INSTALLING}
_BEFORE_REBOOT: Final = frozenset({State.DOWNLOADING, State.INSTALLING})
_ELSEWHERE: Final = frozenset({Reason.OUTSIDE_WINDOW, Reason.HELD})
"""What is due, and may not start by its own or a person's will, neither blocks nor dilutes a wave."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A snapshot for ``decide``, which lacks only the verdict, and what it was counted from.

    ``heights`` are the candidates' by region, ``states`` counts the executions of all regions together, and
    ``late`` are devices that are online and wait to be admitted, ``sleepers`` those that sleep (``sleepers_starting``
    more have been admitted and are about to start), ``named`` those that wait for an offer of their own; ``rebooters``
    have written the release, where the policy bounds reboots.
    """

    snapshot: Snapshot
    heights: Mapping[Region, list[int]]
    states: Mapping[State, int]
    late: Sequence[Waiting]
    sleepers: Sequence[Waiting]
    sleepers_starting: int
    named: Sequence[Waiting]
    rebooters: Sequence[Rebooter]
    roster: Roster
    sighting: Sighting
    progress: Mapping[DeviceId, Progress]


@dataclass(slots=True)
class _Tally:
    """One region, while it is counted."""

    eligible: int = 0
    eligible_online: int = 0
    targeted: int = 0
    targeted_online: int = 0
    reached: int = 0
    waiting: int = 0
    in_flight: int = 0
    confirmed: int = 0
    failed: int = 0
    judged: int = 0
    silent: int = 0
    controls: int = 0
    control_silent: int = 0
    candidates: list[int] = field(default_factory=list)
    startable: list[tuple[int, int]] = field(default_factory=list)
    starting: int = 0
    admitted: int = 0
    starting_in_classes: Counter[int] = field(default_factory=Counter)
    late: list[Waiting] = field(default_factory=list)
    sleepers: list[Waiting] = field(default_factory=list)
    sleepers_starting: int = 0
    named: list[Waiting] = field(default_factory=list)

    def note_candidate(self, own_height: int, target: int, *, most: int) -> None:
        """Count a device that the campaign is for, unless it belongs to the holdout (at ``most`` and above)."""
        if is_due(own_height, most):
            self.candidates.append(own_height)
            self.targeted += is_due(own_height, target)


class Surveyor:
    """Takes snapshots, and judges the silence of devices whose deadline has come."""

    def __init__(self, *, executions: ExecutionRepository, halts: HaltRepository, fleet: Fleet) -> None:
        self._executions = executions
        self._halts = halts
        self._fleet = fleet
        self._rosters: dict[tuple[CampaignId, int], Roster] = {}

    async def judge(self, campaign: CampaignRecord, *, now: float, fair_since: Mapping[Region, float]) -> int:
        """Conclude which updated devices have gone silent at the deadline of their reboot; returns how many have.

        ``fair_since``: by region of the campaign, since when our own session at the broker has been up and the weather
        good. A device cannot be blamed for what we could not hear, so every deadline counts from then at the earliest.
        """
        policy = campaign.policy.halt
        judged = _judged_regions(fair_since, now - policy.g1_s)
        if not judged:
            return 0
        by = datetime.fromtimestamp(now - policy.g1_s, UTC)
        unjudged = await self._executions.unjudged(campaign.id, rebooted_by=by, wakes=policy.wakes)
        verdicts = [
            (record, self._is_silent(record, policy.reboot_s)) for record in unjudged if record.region in judged
        ]
        if verdicts:
            await self._executions.judge(campaign.id, verdicts, now=datetime.fromtimestamp(now, UTC))
        return sum(silent for _, silent in verdicts)

    async def judge_trials(self, campaign: CampaignRecord, *, now: float, fair_since: Mapping[Region, float]) -> None:
        """Conclude which devices have gone silent since, in a trial that should have ended."""
        policy = campaign.policy
        judged = _judged_regions(fair_since, now - policy.halt.g1_s)
        if not judged:
            return
        since = datetime.fromtimestamp(now - policy.halt.g1_s - policy.trial_s, UTC)
        dead = [
            record
            for record in await self._executions.trials(campaign.id, since_before=since)
            if record.region in judged and self._is_missed(record.device_id, now, wakes=policy.halt.wakes)
        ]
        if dead:
            await self._executions.mark_silent(campaign.id, dead, now=datetime.fromtimestamp(now, UTC))

    def remember_only(self, campaigns: Collection[CampaignId]) -> None:
        """Forget what is kept for the survey of all others."""
        for key in [key for key in self._rosters if key[0] not in campaigns]:
            del self._rosters[key]

    def _is_silent(self, record: ExecutionRecord, reboot_s: float) -> bool:
        device = self._fleet.get(record.device_id)
        assert record.rebooting_at is not None
        if device is None or device.revoked or record.state not in _AFTER_REBOOT:
            return False
        return device.last_seen < record.rebooting_at.timestamp() + reboot_s

    def _is_missed(self, device_id: DeviceId, now: float, *, wakes: int) -> bool:
        """Unheard for a while, or for so many of its wake intervals, and not because we have shut it out.

        A session that has just been lost is none: whether an outage took it shows a moment later.
        """
        device = self._fleet.get(device_id)
        if device is None:
            return True
        patience_s = max(self._fleet.grace_s, wakes * device.wake_interval_s)
        return not (device.revoked or now - device.last_seen <= patience_s)

    async def survey(
        self,
        campaign: CampaignRecord,
        bundle: BundleRecord,
        *,
        now: float,
        offered: Collection[DeviceId] = frozenset(),
    ) -> Survey:
        """Take a snapshot. ``offered``: who has an offer of its own already."""
        progress = await self._executions.progress(campaign.id)
        roster = await self._roster(campaign)
        target = Target(bundle.vendor_id, frozenset(bundle.class_ids), bundle.manifest_digest)
        present: list[Device] = []
        tallies: dict[Region, _Tally] = {}
        most, before = ceiling(campaign), campaign.members_before
        by_name = campaign.named
        admitted_since = now - counted_s(campaign.policy.starts_per_s(bundle.size_bytes))
        for region in campaign.regions:
            tally = tallies[region.region] = _Tally()
            level = region.ramp.level(now)
            horizon = self._horizon(campaign, region, now)
            for device in self._fleet.members(campaign.cohort, region.region):
                if before is not None and int(device.member_since) >= before:
                    continue
                if not device.vendor_id:  # it may turn out to be eligible at its first hello
                    if not device.held:
                        tally.note_candidate(height(campaign.id, device.id), region.target, most=most)
                    continue
                if not self._is_eligible(device, target, progress):
                    continue
                present.append(device)
                tally.admitted += _is_admitted_since(device, campaign.id, admitted_since)
                index = roster.meet(device)
                tally.note_candidate(roster.height(index), region.target, most=most)
                self._count(
                    tally,
                    campaign,
                    device,
                    progress.get(device.id),
                    now=now,
                    horizon=horizon,
                    level=level,
                    target=region.target,
                    own_height=roster.height(index),
                    hardware=roster.hardware(index),
                    is_named=device.id in by_name,
                    is_offered=device.id in offered,
                )
        states: Counter[State] = Counter(one.state for one in progress.values())
        self._count_ended(progress, tallies)
        in_classes: Counter[int] = sum((tally.starting_in_classes for tally in tallies.values()), Counter())
        snapshot = Snapshot(
            state=campaign.state,
            causes=campaign.causes,
            plan=campaign.effective_plan,
            policy=campaign.policy,
            regions=[_view(region, tallies[region.region]) for region in campaign.regions],
            started_at=(campaign.started_at or campaign.created_at).timestamp(),
            starting_in_classes=[in_classes[index] for index in range(len(roster.classes))],
            wave=campaign.wave,
            blobs_ready=campaign.blobs_ready,
            watching_since=None if campaign.watching_since is None else campaign.watching_since.timestamp(),
            advanced=campaign.advanced,
            awaits=campaign.awaits,
            sentence=campaign.sentence,
            answer=campaign.answer,
            device_bytes=bundle.size_bytes,
        )
        heights = {region: tally.candidates for region, tally in tallies.items()}
        late = [one for tally in tallies.values() for one in tally.late]
        named = [one for tally in tallies.values() for one in tally.named]
        sleepers = [one for tally in tallies.values() for one in tally.sleepers]
        starting = sum(tally.sleepers_starting for tally in tallies.values())
        sighting = roster.sight(self._fleet, present, now)
        rebooters = self._rebooters(campaign, progress, now)
        return Survey(snapshot, heights, states, late, sleepers, starting, named, rebooters, roster, sighting, progress)

    def _rebooters(
        self, campaign: CampaignRecord, progress: Mapping[DeviceId, Progress], now: float
    ) -> Sequence[Rebooter]:
        """Return who has written the release and is not through with it, where the policy bounds reboots."""
        if not campaign.policy.site_reboots_most:
            return ()
        found = []
        for name, one in progress.items():
            device = self._fleet.get(name)
            if device is None or device.held or device.revoked or one.state not in _WRITTEN:
                continue
            told = device.reboot
            found.append(
                Rebooter(
                    told_at=device.reboot_told_at,
                    height=height(campaign.id, name),
                    device=name,
                    site=(device.region, device.site) if device.site else None,
                    state=one.state,
                    is_told=told is not None and told.campaign == campaign.id and now < told.until,
                    is_online=self._fleet.is_online(device, now),
                )
            )
        return found

    async def _roster(self, campaign: CampaignRecord) -> Roster:
        """Return the run's roster, in the order that an earlier process gave it."""
        key = (campaign.id, campaign.run)
        if key not in self._rosters:
            saved = await self._halts.load(campaign.id, campaign.run)
            known = () if saved is None else saved.roster
            regions = [region.region for region in campaign.regions]
            named = campaign.plan.named(len(campaign.plan.waves))
            roster = Roster(campaign.id, regions, self._fleet, known, named)
            self._rosters.setdefault(key, roster)  # another survey may have been first
        return self._rosters[key]

    def _horizon(self, campaign: CampaignRecord, region: RegionRecord, now: float) -> float:
        """Devices that have been away since before the region opened are nobody to compare with."""
        opened = region.opened_at or campaign.started_at
        return now if opened is None else opened.timestamp() - self._fleet.grace_s

    def _is_eligible(self, device: Device, target: Target, progress: Mapping[DeviceId, Progress]) -> bool:
        one = progress.get(device.id)
        if one is not None and (one.is_earlier or one.state is State.SKIPPED):
            return False
        if device.held or device.revoked or not fits(target, vendor_id=device.vendor_id, class_id=device.class_id):
            return False
        return device.id in progress or device.running_digest != target.manifest_digest

    def _count(
        self,
        tally: _Tally,
        campaign: CampaignRecord,
        device: Device,
        one: Progress | None,
        *,
        now: float,
        horizon: float,
        level: int,
        target: int,
        own_height: int,
        hardware: int,
        is_named: bool,
        is_offered: bool,
    ) -> None:
        """Count one eligible device; one that is named is due without a level, as soon as it has its offer.

        One that is asleep counts as online where it is asked whose word a wave waits for, and nowhere else.
        """
        online = self._fleet.is_online(device, now)
        is_here = online or self._fleet.is_asleep(device, now)
        tally.eligible += 1
        tally.eligible_online += is_here
        tally.targeted_online += is_here and (is_named or is_due(own_height, target))
        if one is None or one.state is State.DUE:
            is_by_level = is_due(own_height, level)
            if is_by_level or is_named:
                if online and (one is None or one.reason not in _ELSEWHERE):
                    if device.wake_interval_s and not is_named:
                        self._count_sleeper(
                            tally, campaign, device, one, own_height=own_height, hardware=hardware, now=now
                        )
                        return
                    tally.waiting += 1
                    tally.reached += 1
                    if not is_by_level and not is_offered:
                        tally.named.append(Waiting(own_height, device.id, device.region, hardware))
                        return
                    self._count_waiting(tally, campaign, device, one, own_height=own_height, hardware=hardware, now=now)
                return
            if device.wake_interval_s:
                return  # it does not start by itself, and is nobody to compare others with
            if online:
                tally.startable.append((own_height, hardware))
            if device.last_seen >= horizon:
                window_s = campaign.policy.halt.g1_s - campaign.policy.halt.reboot_s
                tally.controls += 1
                tally.control_silent += device.last_seen < now - window_s
            return
        # A device that went away before its reboot neither blocks nor dilutes a wave.
        if one.state in _BEFORE_REBOOT and not online:
            return
        if device.wake_interval_s and not online and _rests(one, now, campaign.policy.halt.sleeper_s):
            return
        tally.reached += 1
        tally.in_flight += one.state in _BEFORE_REBOOT or one.state in _AFTER_REBOOT

    def _count_sleeper(
        self,
        tally: _Tally,
        campaign: CampaignRecord,
        device: Device,
        one: Progress | None,
        *,
        own_height: int,
        hardware: int,
        now: float,
    ) -> None:
        """Count a device that sleeps, is awake and due: it neither blocks nor dilutes a wave before it is admitted."""
        if _is_admitted(device, campaign, now):
            tally.sleepers_starting += 1
        elif one is not None and one.reason == Reason.LATE:
            tally.sleepers.append(Waiting(own_height, device.id, device.region, hardware))

    def _count_waiting(
        self,
        tally: _Tally,
        campaign: CampaignRecord,
        device: Device,
        one: Progress | None,
        *,
        own_height: int,
        hardware: int,
        now: float,
    ) -> None:
        """Count a device that is due: it is about to start, or it has said that it waits to be admitted."""
        if one is not None and one.reason == Reason.LATE and not _is_admitted(device, campaign, now):
            tally.late.append(Waiting(own_height, device.id, device.region, hardware))
        else:
            tally.starting += 1
            tally.starting_in_classes[hardware] += 1

    def _count_ended(self, progress: Mapping[DeviceId, Progress], tallies: Mapping[Region, _Tally]) -> None:
        """Count how executions have ended, whatever has become of their devices since."""
        for name, one in progress.items():
            device = self._fleet.get(name)
            tally = None if device is None else tallies.get(device.region)
            if tally is None:
                continue
            tally.confirmed += one.state is State.CONFIRMED
            tally.failed += not one.is_earlier and one.is_explicit_failure
            tally.silent += not one.is_earlier and one.state is State.SILENT
            tally.judged += one.is_judged


def _rests(one: Progress, now: float, longest_s: float) -> bool:
    """Tell whether a device has been asleep after its reboot for so long that nothing waits for it any more."""
    return one.state in _AFTER_REBOOT and one.rebooted_at is not None and now - one.rebooted_at > longest_s


def _is_admitted(device: Device, campaign: CampaignRecord, now: float) -> bool:
    return device.admit is not None and device.admit.campaign == campaign.id and device.admit.until > now


def _judged_regions(fair_since: Mapping[Region, float], by: float) -> set[Region]:
    return {region for region, since in fair_since.items() if since <= by}


def _is_admitted_since(device: Device, campaign: CampaignId, since: float) -> bool:
    return device.admit is not None and device.admit.campaign == campaign and device.admit.until - ADMIT_S > since


def _view(region: RegionRecord, tally: _Tally) -> RegionView:
    order = sorted(tally.startable)
    return RegionView(
        region=region.region,
        ramp=region.ramp,
        planned=region.planned,
        eligible=tally.eligible,
        eligible_online=tally.eligible_online,
        candidates=len(tally.candidates),
        targeted=tally.targeted,
        targeted_online=tally.targeted_online,
        reached=tally.reached,
        waiting=tally.waiting,
        starting=tally.starting,
        admitted=tally.admitted,
        in_flight=tally.in_flight,
        confirmed=tally.confirmed,
        failed=tally.failed,
        judged=tally.judged,
        silent=tally.silent,
        excess=excess(
            silent=tally.silent, judged=tally.judged, controls=tally.controls, control_silent=tally.control_silent
        ),
        controls=tally.controls,
        control_silent=tally.control_silent,
        startable=Startable(
            np.asarray([one for one, _ in order], np.int64), np.asarray([hardware for _, hardware in order], np.int64)
        ),
    )
