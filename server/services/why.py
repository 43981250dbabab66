"""Why a device does not update now: one sentence, and every check behind it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from firmware_store.errors import TidegateError
from server.db.bundles import BundleRecord, BundleRepository
from server.db.campaign_records import CampaignRecord
from server.db.campaigns import CampaignRepository
from server.db.devices import DeviceRecord, DeviceRepository
from server.db.executions import ExecutionRepository
from server.domain.execution import IN_FLIGHT, State
from server.domain.gate import height
from server.domain.identity import CampaignId, DeviceId
from server.domain.scope import EVERYTHING, Scope
from server.protocol.topics import CohortAudience
from server.services.device import Device
from server.services.directives import Directives
from server.services.evidence import Evidence
from server.services.fleet import Fleet
from server.services.visible import PARTIAL, check_seen, is_whole
from server.services.why_campaign import audience
from server.services.why_checks import CHECKS
from server.services.why_facts import Check, Facts, Outcome
from server.services.wire import Wire

_BEFORE_REBOOT: Final = frozenset({State.DOWNLOADING, State.INSTALLING})
_STOPS: Final = frozenset({"campaign", "enrolled", "held", "trust", "server", "online", "directive", "window", "site"})
"""Checks that keep a device from going on with what it has begun, until it reboots."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The sentence, and the checks in their order; ``campaign`` None: none is for where the device is."""

    device: DeviceId
    campaign: CampaignRecord | None
    is_updating: bool
    sentence: str
    checks: tuple[Check, ...]


class Why:
    """Asks everybody who knows something of a device."""

    def __init__(
        self,
        *,
        campaigns: CampaignRepository,
        bundles: BundleRepository,
        devices: DeviceRepository,
        executions: ExecutionRepository,
        fleet: Fleet,
        directives: Directives,
        evidence: Evidence,
        wire: Wire,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._campaigns = campaigns
        self._bundles = bundles
        self._devices = devices
        self._executions = executions
        self._fleet = fleet
        self._directives = directives
        self._evidence = evidence
        self._wire = wire
        self._clock = clock

    async def ask(self, device: DeviceId, campaign: CampaignId | None = None, *, scope: Scope = EVERYTHING) -> Answer:
        """Explain a device in a campaign: in that one, or in the one that is or was last for where it is.

        What a campaign says of regions beyond ``scope`` is left out.

        Raises:
            NotFoundError: no such device, or no such campaign.
        """
        record = await self._devices.get(device, scope=scope)
        known = self._fleet.get(device) or _as_stored(record)
        if campaign is not None:
            found: CampaignRecord | None = await self._campaigns.get(campaign)
        else:
            found = await self._campaigns.reaching(known.cohort, known.region)
        if found is not None:
            check_seen(found, scope)
            found = found if is_whole(found, scope) else replace(found, sentence=PARTIAL)
        if found is None:
            says = f"no campaign is for cohort {known.cohort} in region {known.region}"
            check = Check("audience", Outcome.FAILED, says, "make one: `tidegate campaign create`")
            return Answer(device, None, False, f"{device} does not update because {says}.", (check,))
        facts = await self._gather(record, known, found, scope)
        if facts.region is None:
            check = audience(facts)
            return Answer(device, found, False, f"{device} does not update because {check.says}.", (check,))
        checks = tuple(check(facts) for check in CHECKS)
        return Answer(device, found, facts.state in IN_FLIGHT, sentence(facts, checks), checks)

    async def _gather(self, record: DeviceRecord, device: Device, campaign: CampaignRecord, scope: Scope) -> Facts:
        bundle = await self._bundles.get(campaign.bundle_id)
        now = self._clock()
        one = await self._executions.one(campaign.id, device.id)
        return Facts(
            now=now,
            record=record,
            device=device,
            fleet=self._fleet,
            campaign=campaign,
            bundle=bundle,
            height=height(campaign.id, device.id),
            execution=None if one is None else one[0],
            is_earlier=one is not None and one[1],
            verdict=self._evidence.verdict(campaign.id) if is_whole(campaign, scope) else None,
            refusal=await self._refusal(bundle, now),
            current=self._directives.counter(CohortAudience(device.region, device.cohort)),
            hearing_since=self._wire.up_since,
        )

    async def _refusal(self, bundle: BundleRecord, now: float) -> str:
        try:
            await self._directives.check_release(bundle, now=now)
        except TidegateError as exc:
            return str(exc)
        return ""


def sentence(facts: Facts, checks: tuple[Check, ...]) -> str:
    """Return what a person reads first: the first check that failed, or how far the device is."""
    name = facts.device.id
    failed = [check for check in checks if check.outcome is Outcome.FAILED]
    if facts.state in IN_FLIGHT:
        how = next(check.says for check in checks if check.name == "outcome").removeprefix("it is ")
        stops = [check for check in failed if check.name in _STOPS] if facts.state in _BEFORE_REBOOT else []
        return f"{name} is {how}, but {stops[0].says}." if stops else f"{name} is {how}."
    if not failed:
        return f"Nothing that is known keeps {name} from updating: it is due, and begins within a minute or so."
    return f"{name} does not update because {failed[0].says}."


def _as_stored(record: DeviceRecord) -> Device:
    """A device that this process does not know yet."""
    return Device(record.id, record.region, record.cohort, record.member_since.timestamp(), held=record.held)
