"""Drawing up a campaign: what somebody asks for, made whole and checked against the devices that there are."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from firmware_store.errors import InvalidInputError
from server.db.bundles import BundleRepository
from server.db.campaign_records import CampaignRecord, RegionRecord
from server.db.devices import DeviceRepository
from server.domain.campaign import Membership
from server.domain.identity import BundleId, CampaignId, Cohort, Region
from server.domain.plan import Plan, Policy, check_steps, default_plan
from server.services.identifiers import new_uuid7


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody asks for; without a plan the default one is made.

    ``policy_from``: the named policy that ``policy`` is (name@version); empty: it is the draft's own.
    """

    name: str
    cohort: Cohort
    regions: tuple[Region, ...]
    bundle: BundleId
    plan: Plan | None
    policy: Policy
    reason: str
    membership: Membership = Membership.DYNAMIC
    policy_from: str = ""


async def drawn_up(
    draft: Draft, *, caller: str, now: datetime, bundles: BundleRepository, devices: DeviceRepository
) -> CampaignRecord:
    """Return the campaign that a draft is of; nothing is stored.

    Raises:
        InvalidInputError: its plan does not fit its regions or devices.
        NotFoundError: no such bundle.
    """
    if not draft.regions or len(set(draft.regions)) < len(draft.regions):
        raise InvalidInputError("A campaign has at least one region, each once.", pointer="/regions")
    await bundles.get(draft.bundle)
    policy = draft.policy
    counts = {region: await devices.count_in(draft.cohort, region) for region in draft.regions}
    plan = draft.plan or default_plan(
        draft.regions,
        counts[draft.regions[0]],
        largest_step=policy.largest_step,
        holdout=policy.holdout,
    )
    strangers = {name for wave in plan.waves for name in wave.regions} - set(draft.regions)
    if strangers:
        raise InvalidInputError(
            f"The plan raises regions that the campaign does not have: {', '.join(sorted(strangers))}.",
            pointer="/plan/waves",
        )
    check_steps(plan, policy, counts)
    await _check_named(plan, draft.cohort, draft.regions, devices)
    return CampaignRecord(
        id=CampaignId(new_uuid7()),
        name=draft.name,
        cohort=draft.cohort,
        bundle_id=draft.bundle,
        plan=plan,
        policy=policy,
        policy_from=draft.policy_from,
        reason=draft.reason,
        membership=draft.membership,
        created_by=caller,
        created_at=now,
        regions=tuple(RegionRecord(name) for name in draft.regions),
    )


async def _check_named(plan: Plan, cohort: Cohort, regions: Collection[Region], devices: DeviceRepository) -> None:
    """Return if every device that the plan names is one of the campaign's. Raises: InvalidInputError."""
    places = await devices.places(sorted(plan.named(len(plan.waves))))
    for index, wave in enumerate(plan.waves):
        for device in wave.devices:
            region, its_cohort = places.get(device, (None, None))
            if its_cohort != cohort or region not in regions:
                raise InvalidInputError(
                    f"Wave {index + 1} names {device}, which is not in this campaign's cohort and regions.",
                    pointer=f"/plan/waves/{index}/devices",
                )
