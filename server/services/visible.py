"""Campaigns as somebody with limits sees them (pure).

One of its regions is enough to look at a campaign: whoever has devices in it should know what it does to them. What it
does elsewhere is left out. To change it takes all of its regions, for an order goes to all of them.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from firmware_store.errors import ForbiddenError, NotFoundError
from server.db.campaign_records import CampaignRecord
from server.domain.identity import DeviceId, Region
from server.domain.plan import Plan, Wave
from server.domain.scope import Scope

PARTIAL: Final = "It has more regions than you may see: of what it does, your regions' part is shown."
"""What stands for the sentence of such a campaign, which tells of all its regions."""


def is_whole(record: CampaignRecord, scope: Scope) -> bool:
    """Tell whether all of a campaign is within ``scope``."""
    return scope.has_all(_regions(record), record.cohort)


def check_seen(record: CampaignRecord, scope: Scope) -> None:
    """Return if some of a campaign is within ``scope``. Raises: NotFoundError, as if it were not there."""
    if not scope.has_some(_regions(record), record.cohort):
        raise NotFoundError("There is no such campaign.")


def check_whole(record: CampaignRecord, scope: Scope) -> None:
    """Return if all of a campaign is within ``scope``.

    Raises:
        NotFoundError: nothing of it is.
        ForbiddenError: only a part of it is.
    """
    check_seen(record, scope)
    if not is_whole(record, scope):
        raise ForbiddenError(f"This takes access to all of the campaign's regions, and yours is limited to {scope}.")


def part_of(record: CampaignRecord, scope: Scope, devices: Collection[DeviceId]) -> CampaignRecord:
    """Return what is shown of a campaign that is partly within ``scope``; ``devices``: those in there that it names."""
    return replace(
        record,
        regions=tuple(region for region in record.regions if scope.has_region(region.region)),
        plan=_part_of_plan(record.plan, frozenset(devices)),
        sentence=PARTIAL,
        answer=None,
    )


def _regions(record: CampaignRecord) -> list[Region]:
    return [region.region for region in record.regions]


def _part_of_plan(plan: Plan, devices: frozenset[DeviceId]) -> Plan:
    """Leave out devices elsewhere; of a wave that names no others, and those after it, only their number is shown."""
    waves: list[Wave] = []
    shown = True
    for wave in plan.waves:
        own = tuple(device for device in wave.devices if device in devices) if shown else ()
        shown = shown and bool(own)
        hidden = {"devices": own} if own else {"devices": (), "count": len(wave.devices)}
        waves.append(wave.model_copy(update=hidden) if wave.devices else wave)
    return Plan(waves=tuple(waves))
