"""The devices of a campaign as arrays: what the halt rule looks at, and what levels are raised by.

A device keeps its index for the run of a campaign; new ones are appended.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from server.domain.halt import Population
from server.domain.halt.view import Bools, Indices
from server.domain.identity import DeviceId, Region
from server.services.columns import Rows, grown
from server.services.device import HABIT_FROM, UNSTEADY_FROM, Device
from server.services.fleet import Fleet
from server.services.heights import Heights

_GONE: Final = float("-inf")
_NOT_MET: Final = -1
_INDEX, _HARDWARE, _WAKE_S = range(3)
"""What is kept of a device by its row of the fleet's columns."""


class _Piece(NamedTuple):
    """Some devices that were met together; arrays of their number."""

    row: Rows
    """In the fleet's columns; ``_NOT_MET``: the device is not known any more."""
    region: Indices
    hardware: Indices
    height: Indices
    unsteady: Bools
    by_habit: Bools
    wake_s: Indices
    site: Indices

    @classmethod
    def none(cls) -> Self:
        nobody, no = np.empty(0, np.int64), np.empty(0, np.bool_)
        return cls(nobody, nobody, nobody, nobody, no, no, nobody, nobody)

    @classmethod
    def gone(cls, *, hardware: int, height: int, site: int) -> Self:
        row, region, wakes = np.asarray([_NOT_MET]), np.zeros(1, np.int64), np.zeros(1, np.int64)
        no = np.zeros(1, np.bool_)
        return cls(row, region, np.asarray([hardware]), np.asarray([height]), no, no, wakes, np.asarray([site]))

    @classmethod
    def joined(cls, pieces: Sequence[Self]) -> Self:
        return cls(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))


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
        regions: Sequence[Region],
        fleet: Fleet,
        heights: Heights,
        known: Iterable[DeviceId] = (),
        named: Collection[DeviceId] = (),
    ) -> None:
        self._fleet = fleet
        self._heights = heights
        self._regions = {name: index for index, name in enumerate(regions)}
        self._classes: dict[str, int] = {}
        self.ids: list[DeviceId] = []
        self.index: dict[DeviceId, int] = {}
        self._pieces: list[_Piece] = []
        self._all = _Piece.none()
        self._by_row = np.full((3, 0), _NOT_MET, np.int64)
        self._sites: dict[tuple[Region, str], int] = {}
        self._named = frozenset(named)
        self._population: Population | None = None
        # in the order of an earlier process; one that is not known any more keeps its place
        for is_here, names in groupby(known, lambda name: fleet.get(name) is not None):
            if is_here:
                self.meet(fleet.rows_of(names))
            else:
                for name in names:
                    self._keep_place(name)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._classes)

    def meet(self, rows: Rows) -> Indices:
        """Return the indices of the devices in these rows of the fleet's columns.

        Whoever has none is given one now, in the order of the rows; new wake intervals are taken in.
        """
        self._by_row = grown(self._by_row, len(self._fleet.columns), fill=_NOT_MET)
        new = rows[self._by_row[_INDEX, rows] == _NOT_MET]
        if len(new):
            self._append(new)
        found: Indices = self._by_row[_INDEX, rows]
        wake_s = self._fleet.columns.wake_interval_s[rows]
        changed = self._by_row[_WAKE_S, rows] != wake_s
        if changed.any():
            self._everybody.wake_s[found[changed]] = wake_s[changed]
            self._by_row[_WAKE_S, rows] = wake_s
            self._population = None
        return found

    def hardware(self, rows: Rows) -> Indices:
        """Return the hardware classes of devices that were met, as indices of ``classes``."""
        found: Indices = self._by_row[_HARDWARE, rows]
        return found

    @property
    def population(self) -> Population:
        """The same object while nobody has joined, and nobody has changed how it sleeps."""
        if self._population is None:
            met = self._everybody
            self._population = Population(
                regions=tuple(self._regions),
                classes=self.classes,
                region=met.region.astype(np.int16),
                hardware=met.hardware.astype(np.int16),
                height=met.height.astype(np.uint32),
                unsteady=met.unsteady,
                away_by_habit=met.by_habit,
                site=met.site,
                wake_s=met.wake_s.astype(np.float64) if met.wake_s.any() else None,
                named=np.asarray([name in self._named for name in self.ids], np.bool_) if self._named else None,
            )
        return self._population

    def sight(self, present: Sequence[Indices], now: float) -> Sighting:
        """Look at everybody; ``present`` are those who may be compared."""
        rows = self._everybody.row
        columns = self._fleet.columns
        is_known = rows != _NOT_MET
        last_seen = np.where(is_known, columns.last_seen[rows], _GONE)
        online = is_known & self._fleet.are_online(rows, now)
        drops = np.where(is_known, columns.drops[rows], 0)
        here = np.zeros(len(self), np.bool_)
        for some in present:
            here[some] = True
        return Sighting(now, last_seen, online, here, drops)

    def indices(self, devices: Iterable[DeviceId]) -> Indices:
        return np.asarray([self.index[name] for name in devices if name in self.index], np.int64)

    @property
    def _everybody(self) -> "_Piece":
        if self._pieces:
            self._all = _Piece.joined([self._all, *self._pieces])
            self._pieces.clear()
        return self._all

    def _append(self, rows: Rows) -> None:
        columns = self._fleet.columns
        devices = [self._fleet.at(row) for row in rows.tolist()]
        names = [device.id for device in devices]
        indices = np.arange(len(self.ids), len(self.ids) + len(names))
        self.ids += names
        self.index.update(zip(names, indices.tolist(), strict=True))
        hardware = _each(columns.hardware[rows], lambda first: self._class(devices[first].hardware))
        wake_s = columns.wake_interval_s[rows]
        self._by_row[:, rows] = indices, hardware, wake_s
        away = columns.absences_at(rows, columns.last_seen[rows])
        self._pieces.append(
            _Piece(
                row=rows,
                region=_each(columns.audience[rows], lambda first: self._regions.get(devices[first].region, 0)),
                hardware=hardware,
                height=self._heights.of(rows),
                unsteady=away >= UNSTEADY_FROM,
                by_habit=away >= HABIT_FROM,
                wake_s=wake_s,
                site=self._sites_of(devices, indices),
            )
        )
        self._population = None

    def _keep_place(self, name: DeviceId) -> None:
        """A device that is not known any more: it is of no class that others are, and at a site of its own."""
        index = self.index[name] = len(self.ids)
        self.ids.append(name)
        hardware = self._class("")
        self._pieces.append(_Piece.gone(hardware=hardware, height=self._heights.of_stranger(name), site=-1 - index))

    def _class(self, hardware: str) -> int:
        return self._classes.setdefault(hardware, len(self._classes))

    def _sites_of(self, devices: Sequence[Device], indices: Indices) -> Indices:
        """One that says nothing of its site is a site of its own."""
        sites = -1 - indices
        for place, device in enumerate(devices):
            if device.site:
                sites[place] = self._sites.setdefault((device.region, device.site), len(self._sites))
        return sites


def _each(kinds: npt.NDArray[Any], index_of: Callable[[int], int]) -> Indices:
    """Return the index of each one's kind; ``index_of`` is asked once a kind, by the first of that kind, in order."""
    _, first, inverse = np.unique(kinds, return_index=True, return_inverse=True)
    index = np.zeros(len(first), np.int64)
    for kind in np.argsort(first).tolist():
        index[kind] = index_of(int(first[kind]))
    return index[inverse]
