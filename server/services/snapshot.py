"""What is known of a campaign at one moment: the fleet in memory joined with the executions in the database."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from server.db.bundles import BundleRecord
from server.db.campaigns import CampaignRecord, RegionRecord
from server.db.executions import Counts, ExecutionRecord, ExecutionRepository
from server.domain.decide import RegionView, Snapshot
from server.domain.eligibility import Target, fits
from server.domain.execution import State
from server.domain.fisher import Table
from server.domain.gate import height, is_due
from server.domain.identity import CampaignId, DeviceId, Region
from server.protocol.reasons import EXPLICIT_FAILURES
from server.services.fleet import Device, Fleet
from server.services.transitions import ceiling

_AFTER_REBOOT = frozenset({State.REBOOTING, State.TRIAL})
_BEFORE_REBOOT = frozenset({State.DOWNLOADING, State.INSTALLING})
_FAILING = frozenset({State.FAILED, State.REJECTED, State.ROLLED_BACK})
_NO_COUNTS = Counts(states={}, judged=0)


@dataclass(frozen=True, slots=True)
class Survey:
    """A snapshot for ``decide`` and, beside it, what it was counted from.

    ``heights`` are the candidates' by region, ``states`` counts the executions of all regions together.
    """

    snapshot: Snapshot
    heights: Mapping[Region, list[int]]
    states: Mapping[State, int]


class Surveyor:
    """Takes snapshots, and judges the silence of devices whose deadline has come."""

    def __init__(self, *, executions: ExecutionRepository, fleet: Fleet) -> None:
        self._executions = executions
        self._fleet = fleet
        self._heights: dict[CampaignId, dict[DeviceId, int]] = {}  # they never change, and a hash each takes its time

    async def judge(self, campaign: CampaignRecord, *, now: float, hearing_since: float) -> int:
        """Conclude which updated devices have gone silent at the deadline of their reboot; returns how many have.

        ``hearing_since``: since when our own session at the broker is up. A device cannot be blamed for what we could
        not hear, so every deadline counts from then at the earliest.
        """
        policy = campaign.policy
        if now - hearing_since < policy.silence_deadline_s:
            return 0
        by = datetime.fromtimestamp(now - policy.silence_deadline_s, UTC)
        unjudged = await self._executions.unjudged(campaign.id, rebooted_by=by)
        verdicts = [(record, self._is_silent(record, policy.reboot_s)) for record in unjudged]
        if verdicts:
            await self._executions.judge(campaign.id, verdicts, now=datetime.fromtimestamp(now, UTC))
        return sum(silent for _, silent in verdicts)

    async def judge_trials(self, campaign: CampaignRecord, *, now: float, hearing_since: float) -> None:
        """Conclude which devices have gone silent since, in a trial that should have ended."""
        policy = campaign.policy
        if now - hearing_since < policy.silence_deadline_s:
            return
        since = datetime.fromtimestamp(now - policy.silence_deadline_s - policy.trial_s, UTC)
        dead = [
            record
            for record in await self._executions.trials(campaign.id, since_before=since)
            if self._is_missed(record.device_id, now)
        ]
        if dead:
            await self._executions.mark_silent(campaign.id, dead, now=datetime.fromtimestamp(now, UTC))

    def remember_only(self, campaigns: Collection[CampaignId]) -> None:
        """Forget what is kept for the survey of all others."""
        for campaign in self._heights.keys() - set(campaigns):
            del self._heights[campaign]

    def _is_silent(self, record: ExecutionRecord, reboot_s: float) -> bool:
        device = self._fleet.get(record.device_id)
        assert record.rebooting_at is not None
        if device is None or device.revoked or record.state not in _AFTER_REBOOT:
            return False
        return device.last_seen < record.rebooting_at.timestamp() + reboot_s

    def _is_missed(self, device_id: DeviceId, now: float) -> bool:
        """Away, and not because we have shut it out."""
        device = self._fleet.get(device_id)
        return device is None or not (device.revoked or self._fleet.is_online(device, now))

    async def survey(self, campaign: CampaignRecord, bundle: BundleRecord, *, now: float) -> Survey:
        """Take a snapshot."""
        counts = await self._executions.count(campaign.id)
        started = await self._executions.started(campaign.id)
        target = Target(bundle.vendor_id, frozenset(bundle.class_ids), bundle.manifest_digest)
        views: list[RegionView] = []
        heights: dict[Region, list[int]] = {}
        known = self._heights.setdefault(campaign.id, {})
        most, before = ceiling(campaign), campaign.members_before
        for region in campaign.regions:
            members = []
            candidates = heights[region.region] = []
            for device in self._fleet.members(campaign.cohort, region.region):
                if before is not None and int(device.member_since) >= before:
                    continue
                device_height = known.get(device.id)
                if device_height is None:
                    device_height = known[device.id] = height(campaign.id, device.id)
                eligible = self._is_eligible(device, target, started)
                if eligible:
                    members.append((device, device_height))
                if (eligible or (not device.held and not device.vendor_id)) and is_due(device_height, most):
                    candidates.append(device_height)
            view = self._view(
                campaign, region, members, started=started, counts=counts.get(region.region, _NO_COUNTS), now=now
            )
            targeted = sum(is_due(device_height, region.target) for device_height in candidates)
            views.append(replace(view, candidates=len(candidates), targeted=targeted))
        snapshot = Snapshot(
            state=campaign.state,
            causes=campaign.causes,
            plan=campaign.effective_plan,
            policy=campaign.policy,
            regions=views,
            started_at=(campaign.started_at or campaign.created_at).timestamp(),
            wave=campaign.wave,
            blobs_ready=campaign.blobs_ready,
            looks=campaign.looks,
            seen_silent=campaign.seen_silent,
            watching_since=None if campaign.watching_since is None else campaign.watching_since.timestamp(),
        )
        states: Counter[State] = Counter()
        for region_counts in counts.values():
            for (state, _), number in region_counts.states.items():
                states[state] += number
        return Survey(snapshot, heights, states)

    def _is_eligible(self, device: Device, target: Target, started: Mapping[DeviceId, State]) -> bool:
        if started.get(device.id) is State.SKIPPED:
            return False
        if device.held or device.revoked or not fits(target, vendor_id=device.vendor_id, class_id=device.class_id):
            return False
        return device.id in started or device.running_digest != target.manifest_digest

    def _view(
        self,
        campaign: CampaignRecord,
        region: RegionRecord,
        members: list[tuple[Device, int]],
        *,
        started: Mapping[DeviceId, State],
        counts: Counts,
        now: float,
    ) -> RegionView:
        level = region.ramp.level(now)
        waiting = in_flight = reached = eligible_online = targeted_online = controls = control_silent = 0
        window_s = campaign.policy.silence_deadline_s - campaign.policy.reboot_s
        opened = region.opened_at or campaign.started_at
        horizon = now if opened is None else opened.timestamp() - self._fleet.grace_s
        for device, device_height in members:
            online = self._fleet.is_online(device, now)
            eligible_online += online
            targeted_online += online and is_due(device_height, region.target)
            state = started.get(device.id)
            if state is None or state is State.DUE:
                if is_due(device_height, level):
                    waiting += online
                    reached += online
                elif device.last_seen >= horizon:
                    controls += 1
                    control_silent += device.last_seen < now - window_s
                continue
            # A device that went away before its reboot neither blocks nor dilutes a wave.
            if state in _BEFORE_REBOOT and not online:
                continue
            reached += 1
            in_flight += state in _BEFORE_REBOOT or state in _AFTER_REBOOT
        states = counts.states
        return RegionView(
            region=region.region,
            ramp=region.ramp,
            eligible=len(members),
            eligible_online=eligible_online,
            targeted_online=targeted_online,
            reached=reached,
            waiting=waiting,
            in_flight=in_flight,
            confirmed=sum(n for (state, _), n in states.items() if state is State.CONFIRMED),
            failed=sum(
                n for (state, reason), n in counts.present.items() if state in _FAILING and reason in EXPLICIT_FAILURES
            ),
            table=Table(
                region=region.region,
                judged=counts.judged,
                silent=counts.silent,
                controls=controls,
                control_silent=control_silent,
            ),
        )
