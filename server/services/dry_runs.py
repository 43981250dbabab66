"""What a campaign would do, shown before anything is stored; and the hash by which it is what was shown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from firmware_store.errors import ConflictError
from server.db.campaign_records import CampaignRecord
from server.domain.identity import Region
from server.domain.plan import Wave


@dataclass(frozen=True, slots=True)
class DryRun:
    """A campaign as it would be stored. ``devices``: of its cohort, by region. ``warnings``: a sentence each."""

    campaign: CampaignRecord
    devices: Mapping[Region, int]
    warnings: tuple[str, ...]


def plan_hash(campaign: CampaignRecord) -> str:
    """Return the SHA-256 of all that is carried out: release, audience, plan, policy; 64 hexadecimal digits.

    How many devices there are is no part of it, for that changes all the time; a default plan that follows from it is.
    """
    said = {
        "bundle": campaign.bundle_id.hex,
        "cohort": campaign.cohort,
        "regions": [region.region for region in campaign.regions],
        "plan": campaign.plan.model_dump(mode="json"),
        "policy": campaign.policy.model_dump(mode="json"),
        "membership": campaign.membership,
    }
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def check_plan(campaign: CampaignRecord, shown: str | None) -> None:
    """Return if a campaign is the one that was ``shown``; None: nobody says so. Raises: ConflictError."""
    if shown is not None and plan_hash(campaign) != shown:
        raise ConflictError("What would be run is not what was shown: look at the plan again.")


def reached(wave: Wave, campaign: CampaignRecord, devices: Mapping[Region, int]) -> int:
    """Return how many devices a wave lets in, and those before it, in the regions that it raises."""
    if wave.devices:
        return len(wave.devices)
    most = 1 - campaign.policy.holdout
    of_regions = [devices[region] for region in (wave.regions or devices)]
    if wave.ratio is not None:
        return sum(round(min(wave.ratio, most) * number) for number in of_regions)
    assert wave.count is not None, "one target"
    return sum(min(wave.count, round(most * number)) for number in of_regions)


def warnings_of(
    campaign: CampaignRecord, devices: Mapping[Region, int], beside: Sequence[str], untrusted: str | None
) -> tuple[str, ...]:
    """Return what a person should know before the start. ``beside``: names of what is active on its devices now."""
    found = [
        f"There is no device of {campaign.cohort} in {region}." for region, number in devices.items() if not number
    ]
    found += [f"{name} is active on these devices: it has to end first, or be superseded." for name in beside]
    if untrusted is not None:
        found.append(f"Devices would not take this release today: {untrusted}")
    if campaign.policy.approvals:
        found.append(f"It needs approvals before its start: {campaign.policy.approvals}.")
    waiting = [index + 1 for index, wave in enumerate(campaign.plan.waves) if wave.gate.manual]
    if waiting:
        found.append(f"A person lets these waves through: {', '.join(map(str, waiting))}.")
    return tuple(found)
