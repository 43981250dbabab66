"""Who may serve as a control: devices that are online and have never begun, by region and steadiness."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from server.domain.halt.policy import HaltPolicy
from server.domain.halt.roster import Roster, Status
from server.domain.halt.view import Bools, Floats, Indices, Moment, Population

FULL: Final = 1 << 32
"""The level that every device is below."""


@dataclass(slots=True)
class World:
    """The fleet as far as it does not change within a step, and who of it may serve as a control."""

    population: Population
    policy: HaltPolicy
    roster: Roster
    members: list[Indices] = field(default_factory=list)
    """Devices by stratum (2 x region + unsteady)."""

    def __post_init__(self) -> None:
        stratum = self.population.region.astype(np.int64) * 2 + self.population.unsteady
        order = np.argsort(stratum, kind="stable")
        ends = np.searchsorted(stratum[order], np.arange(2 * len(self.population.regions) + 1))
        self.members = [order[a:b] for a, b in pairwise(ends)]

    @property
    def sentinel_height(self) -> int:
        """The height that sentinels begin at."""
        return int(self.policy.sentinels_from * FULL)


@dataclass(slots=True)
class Scene:
    """What one step sees: the moment, the fleet, the regions' good-weather clocks (seconds), and who is free.

    ``free`` devices may be controls: online, comparable, and never begun (mask, shape n).
    """

    moment: Moment
    world: World
    clock: Floats
    free: Bools = field(init=False)
    _members: dict[int, Indices] = field(init=False, default_factory=dict)
    _pools: dict[int, Indices] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        never = self.world.roster.status == Status.NEVER
        self.free = self.moment.online & self.moment.present & never

    def members(self, stratum: int) -> Indices:
        """Return the free devices of a stratum."""
        if stratum not in self._members:
            mine = self.world.members[stratum]
            self._members[stratum] = mine[self.free[mine]]
        return self._members[stratum]

    def pool(self, region: int, unsteady: bool, margin: float) -> Indices:
        """Return who may shadow devices of this stratum.

        Below the sentinels and not among the next to be due (``margin`` above the level) where enough are left; else
        all above the level, sentinels too; where the stratum has too few, those of its steadiness in the whole fleet,
        if that is more.
        """
        stratum = 2 * region + unsteady
        if stratum not in self._pools:
            self._pools[stratum] = self._find_pool(region, unsteady, margin)
        return self._pools[stratum]

    def watchers(self, region: int, unsteady: bool) -> Indices:
        """Return the stratum's sentinels that may tell the rate to expect."""
        mine = self.members(2 * region + unsteady)
        out: Indices = mine[self.world.population.height[mine] >= self.world.sentinel_height]
        return out

    def _find_pool(self, region: int, unsteady: bool, margin: float) -> Indices:
        world, all_heights = self.world, self.world.population.height
        least, level = world.policy.min_controls, self.moment.level[region]
        own = self.members(2 * region + unsteady)
        height = all_heights[own]
        above = height >= level
        own, height = own[above], height[above]
        best: Indices = own[(height >= level + margin) & (height < world.sentinel_height)]
        if len(best) >= least:
            return best
        below: Indices = own[height < world.sentinel_height]
        if len(below) >= least or len(own) >= least:
            return below if len(below) >= least else own
        strata = range(int(unsteady), len(world.members), 2)
        fleet = np.concatenate([self.members(each) for each in strata])
        fleet = fleet[all_heights[fleet] >= self.moment.level[world.population.region[fleet]]]
        out: Indices = fleet if len(fleet) >= max(least, len(own)) else own
        return out
