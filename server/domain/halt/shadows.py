"""Who may serve as a control: devices that are online and have never begun, by region and rhythm.

A *rhythm* is how a device comes and goes: 0 steady, 1 unsteady, and from 2 on those that sleep, by the length of their
wake interval (each rhythm twice as long as the one before). Of these, controls need not be awake: an updated device has
just been heard, its controls within one and a half of their intervals, so that a little more of them may be dead.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from server.domain.halt.policy import HaltPolicy
from server.domain.halt.roster import Roster, Status
from server.domain.halt.view import DARK_WAKES, Bools, Floats, Indices, Moment, Population

FULL: Final = 1 << 32
"""The level that every device is below."""

FIRST_SLEEPER: Final = 2
RHYTHMS: Final = FIRST_SLEEPER + 22
"""The longest wake interval, 31 days, is less than 2^22 seconds."""


@dataclass(slots=True)
class World:
    """The fleet as far as it does not change within a step, and who of it may serve as a control."""

    population: Population
    policy: HaltPolicy
    roster: Roster
    members: list[Indices] = field(default_factory=list)
    """Devices by stratum, see ``stratum``."""
    wake_s: Floats = field(init=False)
    sleeps: Bools = field(init=False)
    stratum: Indices = field(init=False)
    """Of each device: ``RHYTHMS`` x region + rhythm."""
    returns_s: Floats = field(init=False)
    """How long after its report of a reboot a device must be heard from; one that sleeps must have woken again."""

    def __post_init__(self) -> None:
        self.wake_s = self.population.wakes_s
        self.sleeps = self.wake_s > 0
        rhythm = self.population.unsteady.astype(np.int64)
        rhythm[self.sleeps] = FIRST_SLEEPER + np.log2(np.maximum(self.wake_s[self.sleeps], 1)).astype(np.int64)
        self.stratum = self.population.region * np.int64(RHYTHMS) + rhythm
        self.returns_s = self.policy.reboot_s + self.wake_s
        order = np.argsort(self.stratum, kind="stable")
        ends = np.searchsorted(self.stratum[order], np.arange(RHYTHMS * len(self.population.regions) + 1))
        self.members = [order[a:b] for a, b in pairwise(ends)]

    @property
    def sentinel_height(self) -> int:
        """The height that sentinels begin at."""
        return int(self.policy.sentinels_from * FULL)


@dataclass(slots=True)
class Scene:
    """What one step sees: the moment, the fleet, the regions' good-weather clocks (seconds), and who is free.

    ``free`` devices may be controls: online (or asleep), comparable, and never begun (mask, shape n).
    """

    moment: Moment
    world: World
    clock: Floats
    free: Bools = field(init=False)
    _members: dict[int, Indices] = field(init=False, default_factory=dict)
    _pools: dict[int, Indices] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        never = self.world.roster.status == Status.NEVER
        world, moment = self.world, self.moment
        here = moment.online | (world.sleeps & (moment.last_seen >= moment.now - DARK_WAKES * world.wake_s))
        self.free = here & moment.present & never

    def members(self, stratum: int) -> Indices:
        """Return the free devices of a stratum."""
        if stratum not in self._members:
            mine = self.world.members[stratum]
            self._members[stratum] = mine[self.free[mine]]
        return self._members[stratum]

    def pool(self, region: int, rhythm: int, margin: float) -> Indices:
        """Return who may shadow devices of this stratum.

        Below the sentinels and not among the next to be due (``margin`` above the level) where enough are left; else
        all above the level, sentinels too; where the stratum has too few, those of its rhythm in the whole fleet, if
        that is more.
        """
        stratum = RHYTHMS * region + rhythm
        if stratum not in self._pools:
            self._pools[stratum] = self._find_pool(region, rhythm, margin)
        return self._pools[stratum]

    def watchers(self, region: int, rhythm: int) -> Indices:
        """Return the stratum's sentinels that may tell the rate to expect; of those that sleep there are none."""
        if rhythm >= FIRST_SLEEPER:
            return np.empty(0, np.int64)
        mine = self.members(RHYTHMS * region + rhythm)
        out: Indices = mine[self.world.population.height[mine] >= self.world.sentinel_height]
        return out

    def _find_pool(self, region: int, rhythm: int, margin: float) -> Indices:
        world, all_heights = self.world, self.world.population.height
        least, level = world.policy.min_controls, self.moment.level[region]
        own = self.members(RHYTHMS * region + rhythm)
        height = all_heights[own]
        above = height >= level
        own, height = own[above], height[above]
        best: Indices = own[(height >= level + margin) & (height < world.sentinel_height)]
        if len(best) >= least:
            return best
        below: Indices = own[height < world.sentinel_height]
        if len(below) >= least or len(own) >= least:
            return below if len(below) >= least else own
        strata = range(rhythm, len(world.members), RHYTHMS)
        fleet = np.concatenate([self.members(each) for each in strata])
        fleet = fleet[all_heights[fleet] >= self.moment.level[world.population.region[fleet]]]
        out: Indices = fleet if len(fleet) >= max(least, len(own)) else own
        return out
