"""When a campaign's windows open next, region by region: a preview of what its devices will do by themselves."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from firmware_store.errors import InvalidInputError
from server.db.campaign_records import CampaignRecord
from server.domain.identity import Region
from server.domain.openings import Offset, fixed, of_zone, openings
from server.domain.windows import fits, needed_s
from server.services.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Opening:
    """One clock of a region: ``zone`` where one was named, else the offset that so many ``devices`` have told.

    ``utc_offset_minutes``: now; None for devices that have told none since this server runs: they are taken to be on
    UTC. ``is_open``: a device could start now. ``opens_at``: next (Unix seconds).
    """

    region: Region
    zone: str | None
    utc_offset_minutes: int | None
    devices: int
    is_open: bool
    opens_at: tuple[float, ...]


Told = Mapping[Region, Counter[int | None]]
"""How many devices of each region of a campaign have told which offset."""


def told_by(fleet: Fleet, campaign: CampaignRecord) -> Told:
    """Count the offsets, which is done in the loop that changes the fleet."""
    return {
        entry.region: Counter(device.utc_offset_minutes for device in fleet.members(campaign.cohort, entry.region))
        for entry in campaign.regions
    }


def preview(
    campaign: CampaignRecord, told: Told, zones: Mapping[Region, str], *, now: float, count: int
) -> list[Opening]:
    """Return when windows open next; ``zones``: regions whose devices all go by one zone's wall clock.

    It takes its time (and a thread), and looks at nothing that may change meanwhile.

    Raises:
        InvalidInputError: there is no such zone, or the campaign has no such region.
    """
    strangers = sorted(set(zones) - set(told))
    if strangers:
        raise InvalidInputError(f"The campaign has no region {strangers[0]}.", pointer="?zone")
    windows, needed = campaign.policy.device_windows, needed_s(campaign.policy.trial_s)
    known: dict[str | int | None, tuple[int, bool, tuple[float, ...]]] = {}

    def ask(clock: str | int | None) -> tuple[int, bool, tuple[float, ...]]:
        if clock not in known:
            offset: Offset = of_zone(clock) if isinstance(clock, str) else fixed(clock or 0)
            is_open = fits(windows, now, utc_offset_minutes=offset(now), needed_s=needed)
            found = openings(windows, now, offset, needed_s=needed, count=count) if windows else []
            known[clock] = offset(now), is_open, tuple(found)
        return known[clock]

    shown = []
    for region, offsets in told.items():
        if region in zones:
            offset, is_open, opens_at = ask(zones[region])
            shown.append(Opening(region, zones[region], offset, offsets.total(), is_open, opens_at))
            continue
        for minutes, devices in sorted(offsets.items(), key=lambda item: (item[0] is None, item[0] or 0)):
            _, is_open, opens_at = ask(minutes)
            shown.append(Opening(region, None, minutes, devices, is_open, opens_at))
    return shown
