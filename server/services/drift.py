"""Drift: devices that do not run what the newest campaign that reaches them has brought.

What a device should run is the release of the campaign that was started last, of those that run, are watched or have
finished, whose level has passed its height (or which names it), and whose bundle is for its hardware. Where none does,
nothing is expected of it.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from server.db.bundles import BundleRepository
from server.db.campaign_records import CampaignRecord, RegionRecord
from server.db.campaigns import CampaignRepository
from server.db.devices import DeviceRecord, DeviceRepository
from server.domain.campaign import State
from server.domain.eligibility import Target, fits
from server.domain.filter import LIVE, Compare, Conjunction, Disjunction, Expression, Relation, fields_of
from server.domain.gate import height, is_due
from server.domain.identity import Cohort, DeviceId, Region
from server.domain.scope import EVERYTHING, Scope
from server.services.device import Device
from server.services.fleet import Fleet
from server.services.turns import others_turn, slices

BROUGHT: Final = (State.RUNNING, State.PAUSED, State.WATCHING, State.FINISHED)
CAMPAIGNS_MOST: Final = 200
"""The newest of them are looked at."""

PAGE: Final = 1000
PAGES_MOST: Final = 5


@dataclass(frozen=True, slots=True)
class Brought:
    """A campaign in one of its regions, with what it brings."""

    campaign: CampaignRecord
    region: RegionRecord
    target: Target
    version: str

    def reaches(self, device: Device, now: float) -> bool:
        """Tell whether it is for the device, and has come to it."""
        before = self.campaign.members_before
        if before is not None and int(device.member_since) >= before:
            return False
        if not fits(self.target, vendor_id=device.vendor_id, class_id=device.class_id):
            return False
        level = self.region.ramp.level(now)
        return device.id in self.campaign.named or is_due(height(self.campaign.id, device.id), level)


@dataclass(frozen=True, slots=True)
class Drifting:
    """A device, and what it should run."""

    record: DeviceRecord
    expected: Brought


@dataclass(frozen=True, slots=True)
class Part:
    """One region's devices that a campaign has reached, and how many of them run something else."""

    expected: Brought
    devices: int
    drifting: int


class Drift:
    """Compares what devices run with what they should."""

    def __init__(
        self,
        *,
        campaigns: CampaignRepository,
        bundles: BundleRepository,
        devices: DeviceRepository,
        fleet: Fleet,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._campaigns = campaigns
        self._bundles = bundles
        self._devices = devices
        self._fleet = fleet
        self._clock = clock

    async def count(self, *, scope: Scope = EVERYTHING) -> list[Part]:
        """Count the devices within ``scope``; others get their turn meanwhile."""
        now, counts = self._clock(), Counter[tuple[int, bool]]()
        places = await self._brought()
        found = [one for place in places.values() for one in place]
        numbers = {id(one): number for number, one in enumerate(found)}
        for (cohort, region), place in places.items():
            if not scope.has(region, cohort):
                continue
            for some in slices(self._fleet.members(cohort, region)):
                for device in some:
                    expected = _expected(device, place, now)
                    if expected is not None:
                        counts[numbers[id(expected)], _drifts(device, expected)] += 1
                await others_turn(some)
        return [
            Part(one, counts[number, False] + counts[number, True], counts[number, True])
            for number, one in enumerate(found)
            if counts[number, False] + counts[number, True]
        ]

    async def page(
        self, expression: Expression | None, *, after: str, limit: int, scope: Scope = EVERYTHING
    ) -> tuple[list[Drifting], str | None]:
        """Return up to ``limit`` devices that drift, of those that a filter lets through, and where to go on.

        The page may be short, or empty, and not the last: so much is read and no more.
        """
        wanted = expression or Conjunction(())
        now, places = self._clock(), await self._brought()
        found: list[Drifting] = []
        for _ in range(PAGES_MOST):
            records = await self._devices.find(wanted, after=after, limit=PAGE, scope=scope)
            for record in records:
                after = record.id
                device = self._fleet.get(DeviceId(record.id))
                expected = device and _expected(device, places.get((device.cohort, device.region), ()), now)
                if device and expected and _drifts(device, expected):
                    found.append(Drifting(record, expected))
                    if len(found) == limit:
                        return found, after
            if len(records) < PAGE:
                return found, None
        return found, after

    async def _brought(self) -> Mapping[tuple[Cohort, Region], Sequence[Brought]]:
        """Return what campaigns have brought to each audience, the one that was started last first."""
        states = Disjunction(tuple(Compare("state", Relation.EQUAL, state.value) for state in BROUGHT))
        campaigns = [one for one in await self._campaigns.newest(CAMPAIGNS_MOST, states) if one.started_at is not None]
        campaigns.sort(key=lambda one: one.started_at or one.created_at, reverse=True)
        places: dict[tuple[Cohort, Region], list[Brought]] = {}
        for campaign in campaigns:
            bundle = await self._bundles.get(campaign.bundle_id)
            target = Target(bundle.vendor_id, frozenset(bundle.class_ids), bundle.manifest_digest)
            for region in campaign.regions:
                brought = Brought(campaign, region, target, bundle.version)
                places.setdefault((campaign.cohort, region.region), []).append(brought)
        return places


def knows(expression: Expression | None) -> bool:
    """Tell whether the database alone can answer this filter."""
    return expression is None or LIVE.isdisjoint(fields_of(expression))


def _expected(device: Device, place: Sequence[Brought], now: float) -> Brought | None:
    if not device.vendor_id:
        return None
    return next((one for one in place if one.reaches(device, now)), None)


def _drifts(device: Device, expected: Brought) -> bool:
    return device.running_digest != expected.target.manifest_digest
