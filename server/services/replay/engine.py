"""Levels in virtual time: a plan's waves, raised as fast as their ramps and the rule's room allow.

Punctual devices start as the level passes them; those that were offline then are admitted when they are back, in the
room that is left. Both take from the same room, per region and per hardware class.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from server.domain.gate import FULL
from server.domain.halt import level_within
from server.domain.halt.pace import SMALL_FLEET, SMALL_STEPS
from server.domain.halt.view import Bools, Indices, Population, Verdict
from server.domain.identity import Region
from server.domain.plan import Plan, Wave

_CANARY_SHARE: Final = 0.01
_CANARY_MOST: Final = 200
_NONE: Final = np.empty(0, np.int64)


def plan_of_a_day(population: Population) -> Plan:
    """A canary baked for an hour, each region up to 85 % in its turn, 95 % of all, and the sentinels in four steps.

    Fleets under 50 devices: 1, 3 and 10 first, with a full verdict between.
    """
    regions = tuple(Region(name) for name in population.regions)
    first = int(np.count_nonzero(population.region == 0))
    waves = []
    if len(population) < SMALL_FLEET:
        waves += [Wave(regions=regions[:1], ratio=None, count=count, ramp_s=60, soak_s=9000) for count in SMALL_STEPS]
    else:
        canary = min(_CANARY_MOST, max(1, round(first * _CANARY_SHARE)))
        waves.append(Wave(regions=regions[:1], ratio=None, count=canary, ramp_s=900, soak_s=3600))
    waves += [Wave(regions=(name,), ratio=0.85, count=None, ramp_s=5400, soak_s=1800) for name in regions]
    waves.append(Wave(ratio=0.95, count=None, ramp_s=3600, soak_s=1800))
    waves += [Wave(ratio=ratio, count=None, ramp_s=600, soak_s=1200) for ratio in (0.9625, 0.975, 0.9875, 1.0)]
    return Plan(waves=tuple(waves))


class Engine:
    """Raises the levels of one campaign; ``is_complete`` once all waves are through."""

    def __init__(self, plan: Plan, population: Population, tick_s: float) -> None:
        self._plan = plan
        self._population = population
        self._tick_s = tick_s
        self._names = {name: index for index, name in enumerate(population.regions)}
        self._order = [self._by_height(region) for region in range(len(population.regions))]
        self._sorted = [population.height[order].astype(np.int64) for order in self._order]
        self.level = np.zeros(len(population.regions), np.int64)
        self._line = np.zeros(len(population.regions))
        self.is_complete = False
        self._open(0)

    def _by_height(self, region: int) -> Indices:
        members = np.flatnonzero(self._population.region == region)
        return members[np.argsort(self._population.height[members], kind="stable")]

    def _open(self, wave: int) -> None:
        self.wave = wave
        self._target = self.level.copy()
        for region in self._regions(self._plan.waves[wave]):
            self._target[region] = max(self._wanted(self._plan.waves[wave], region), self.level[region])
        self._line = self.level.astype(float)
        ramp_s = max(self._plan.waves[wave].ramp_s, self._tick_s)
        self._slope = (self._target - self.level) / ramp_s
        self._soaked_s = 0.0

    def _regions(self, wave: Wave) -> list[int]:
        return [self._names[name] for name in wave.regions] or list(range(len(self._order)))

    def _wanted(self, wave: Wave, region: int) -> int:
        if wave.ratio is not None:
            return round(wave.ratio * FULL)
        heights = self._sorted[region]
        return int(heights[min(wave.count or 1, len(heights)) - 1]) + 1 if len(heights) else 0

    def step(self, verdict: Verdict, *, idle: Bools, online: Bools) -> Indices:
        """Raise the levels by one tick; return the devices that start."""
        if verdict.is_blind:
            return _NONE
        room_class = verdict.room_in_classes.astype(np.int64).copy()
        room = verdict.room_in_regions.astype(np.int64).copy()
        started, whole = [], verdict.room
        ready = idle & online
        rising = [region for region, name in enumerate(self._names) if name not in verdict.bad_weather]
        below = self._population.height < self.level[self._population.region]
        for choose in (self._punctual, self._late):
            if choose == self._late and not np.any(ready & below):
                break  # which is so most of the time
            for region in rising:
                chosen = choose(region, ready, min(int(room[region]), whole), room_class, verdict.pace)
                ready[chosen] = False
                room[region] -= len(chosen)
                room_class -= np.bincount(self._population.hardware[chosen], minlength=len(room_class))
                whole -= len(chosen)
                started.append(chosen)
        self._soak()
        return np.concatenate(started) if started else _NONE

    def _punctual(self, region: int, ready: Bools, room: int, room_class: Indices, pace: float) -> Indices:
        """Raise the level as far as its line and the rooms allow; return whom it passes."""
        if self.level[region] >= self._target[region] or pace <= 0:
            return _NONE
        self._line[region] = min(self._line[region] + self._slope[region] * self._tick_s * pace, self._target[region])
        heights = self._sorted[region]
        low, high = np.searchsorted(heights, [self.level[region], int(self._line[region])])
        beyond = self._order[region][low:high]
        startable = beyond[ready[beyond]]
        highest = level_within(
            self._population.height[startable].astype(np.int64),
            self._population.hardware[startable].astype(np.int64),
            room=room,
            room_in_classes=room_class,
            level=int(self._line[region]),
        )
        self.level[region] = max(int(self.level[region]), highest)
        return startable[self._population.height[startable] < highest]

    def _late(self, region: int, ready: Bools, room: int, room_class: Indices, _: float) -> Indices:
        """Return those below the level that are back, the lowest first, as far as there is room."""
        due = self._order[region][: np.searchsorted(self._sorted[region], self.level[region])]
        late = due[ready[due]][:room] if room > 0 else _NONE
        return late[_fits(self._population.hardware[late], room_class)]

    def _soak(self) -> None:
        if self.is_complete or np.any(self.level < self._target):
            return
        self._soaked_s += self._tick_s
        if self._soaked_s < self._plan.waves[self.wave].soak_s:
            return
        if self.wave + 1 < len(self._plan.waves):
            self._open(self.wave + 1)
        else:
            self.is_complete = True


def _fits(classes: npt.NDArray[np.int16], room: Indices) -> Bools:
    """Which of these devices, in their order, fit the room of their classes; one that does not is passed over."""
    fits = np.ones(len(classes), np.bool_)
    if np.all(np.bincount(classes, minlength=len(room)) <= room):
        return fits
    for each, left in enumerate(room):
        fits[np.flatnonzero(classes == each)[max(int(left), 0) :]] = False
    return fits
