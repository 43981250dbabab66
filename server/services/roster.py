"""The devices of a campaign as arrays: what the halt rule looks at, and what levels are raised by.

A device keeps its index for the run of a campaign; new ones are appended.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from server.domain.gate import height
from server.domain.halt import Population
from server.domain.halt.view import Indices
from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.services.fleet import Device, Fleet
from server.services.turns import others_turn, slices

_GONE: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Sighting:
    """Every device of the roster at one moment; arrays of its length, as in ``Moment``."""

    now: float
    last_seen: npt.NDArray[np.float64]
    online: npt.NDArray[np.bool_]
    present: npt.NDArray[np.bool_]
    drops: npt.NDArray[np.int64]
    """How many sessions each has lost since this process began."""


class Roster:
    """Grows by the devices it is shown; order is kept. ``named``: canaries by name, which are compared with nobody."""

    def __init__(
        self,
        campaign: CampaignId,
        regions: Sequence[Region],
        fleet: Fleet,
        known: Iterable[DeviceId] = (),
        named: Collection[DeviceId] = (),
    ) -> None:
        self._campaign = campaign
        self._regions = {name: index for index, name in enumerate(regions)}
        self._classes: dict[str, int] = {}
        self.ids: list[DeviceId] = []
        self.index: dict[DeviceId, int] = {}
        self._region: list[int] = []
        self._hardware: list[int] = []
        self._height: list[int] = []
        self._unsteady: list[bool] = []
        self._by_habit: list[bool] = []
        self._wake_s: list[int] = []
        self._sites: dict[tuple[Region, str], int] = {}
        self._site: list[int] = []
        self._named = frozenset(named)
        self._population: Population | None = None
        for name in known:  # in the order of an earlier process; one that is not known any more keeps its place
            device = fleet.get(name)
            self._append(device or Device(name, regions[0], Cohort(""), 0.0))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._classes)

    def meet(self, device: Device) -> int:
        """Return the index of a device, which it is given now if it has none; take in a new wake interval."""
        found = self.index.get(device.id)
        if found is None:
            return self._append(device)
        if self._wake_s[found] != device.wake_interval_s:
            self._wake_s[found] = device.wake_interval_s
            self._population = None
        return found

    def height(self, index: int) -> int:
        return self._height[index]

    def hardware(self, index: int) -> int:
        return self._hardware[index]

    @property
    def population(self) -> Population:
        """The same object while nobody has joined, and nobody has changed how it sleeps."""
        if self._population is None:
            self._population = Population(
                regions=tuple(self._regions),
                classes=self.classes,
                region=np.asarray(self._region, np.int16),
                hardware=np.asarray(self._hardware, np.int16),
                height=np.asarray(self._height, np.uint32),
                unsteady=np.asarray(self._unsteady, np.bool_),
                away_by_habit=np.asarray(self._by_habit, np.bool_),
                site=np.asarray(self._site, np.int64),
                wake_s=np.asarray(self._wake_s, np.float64) if any(self._wake_s) else None,
                named=np.asarray([name in self._named for name in self.ids], np.bool_) if self._named else None,
            )
        return self._population

    async def sight(self, fleet: Fleet, present: Iterable[Device], now: float) -> Sighting:
        """Look at everybody; ``present`` are those who may be compared. Others get their turn meanwhile."""
        count = len(self)
        last_seen = np.full(count, _GONE)
        online = np.zeros(count, np.bool_)
        here = np.zeros(count, np.bool_)
        drops = np.zeros(count, np.int64)
        index = 0
        for some in slices(self.ids):
            for name in some:
                device = fleet.get(name)
                if device is not None:
                    last_seen[index] = device.last_seen
                    drops[index] = device.drops
                    online[index] = fleet.is_online(device, now)
                index += 1
            await others_turn(some)
        here[[self.index[device.id] for device in present]] = True
        return Sighting(now, last_seen, online, here, drops)

    def indices(self, devices: Iterable[DeviceId]) -> Indices:
        return np.asarray([self.index[name] for name in devices if name in self.index], np.int64)

    def _append(self, device: Device) -> int:
        index = self.index[device.id] = len(self.ids)
        self.ids.append(device.id)
        self._region.append(self._regions.get(device.region, 0))
        self._hardware.append(self._classes.setdefault(device.hardware, len(self._classes)))
        self._height.append(height(self._campaign, device.id))
        self._unsteady.append(device.is_unsteady)
        self._by_habit.append(device.is_away_by_habit)
        self._wake_s.append(device.wake_interval_s)
        # One that says nothing of its site is a site of its own.
        place = (device.region, device.site)
        self._site.append(self._sites.setdefault(place, len(self._sites)) if device.site else -1 - index)
        self._population = None
        return index
