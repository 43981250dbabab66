"""The silence of updated devices whose deadline has come: counted against the release, once, and written down."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from server.db.campaign_records import CampaignRecord
from server.db.executions import ExecutionRecord, ExecutionRepository
from server.domain.execution import State
from server.domain.identity import DeviceId, Region
from server.services.fleet import Fleet

AFTER_REBOOT: Final = frozenset({State.REBOOTING, State.TRIAL})


class Silence:
    """Judges devices at their deadlines.

    ``fair_since``: by region of the campaign, since when our own session at the broker has been up and the weather
    good. A device cannot be blamed for what we could not hear, so every deadline counts from then at the earliest.
    """

    def __init__(self, *, executions: ExecutionRepository, fleet: Fleet) -> None:
        self._executions = executions
        self._fleet = fleet

    async def judge_reboots(self, campaign: CampaignRecord, *, now: float, fair_since: Mapping[Region, float]) -> int:
        """Conclude which updated devices have gone silent at the deadline of their reboot; returns how many have."""
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

    def _is_silent(self, record: ExecutionRecord, reboot_s: float) -> bool:
        device = self._fleet.get(record.device_id)
        assert record.rebooting_at is not None
        if device is None or device.revoked or record.state not in AFTER_REBOOT:
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


def _judged_regions(fair_since: Mapping[Region, float], by: float) -> set[Region]:
    return {region for region, since in fair_since.items() if since <= by}
