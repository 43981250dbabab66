"""Who may serve as a control: devices that are online and have never begun, by region and steadiness."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from server.domain.halt.policy import HaltPolicy
from server.domain.halt.roster import Roster, Status
from server.domain.halt.view import Indices, Moment, Population

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

    def free(self, devices: Indices, moment: Moment) -> Indices:
        """Return those of ``devices`` that are online, comparable, and have never begun."""
        fits = moment.online[devices] & moment.present[devices]
        out: Indices = devices[fits & (self.roster.status[devices] == Status.NEVER)]
        return out

    def pool(self, region: int, unsteady: bool, moment: Moment, margin: float) -> Indices:
        """Return who may shadow devices of this stratum.

        Below the sentinels and not among the next to be due where enough are left; else all above the level, sentinels
        too; where the stratum has too few, those of its steadiness in the whole fleet, if that is more.
        """
        least = self.policy.min_controls
        own = self.free(self.members[2 * region + unsteady], moment)
        height = self.population.height[own]
        above = height >= moment.level[region]
        own, height = own[above], height[above]
        best: Indices = own[(height >= moment.level[region] + margin) & (height < self.sentinel_height)]
        if len(best) >= least:
            return best
        below: Indices = own[height < self.sentinel_height]
        if len(below) >= least or len(own) >= least:
            return below if len(below) >= least else own
        fleet = np.concatenate([self.free(each, moment) for each in self.members[int(unsteady) :: 2]])
        out: Indices = fleet if len(fleet) >= max(least, len(own)) else own
        return out

    def watchers(self, region: int, unsteady: bool, moment: Moment, *, but: Indices) -> Indices:
        """Return the stratum's sentinels that may tell the rate to expect; nobody of ``but``."""
        free = self.free(self.members[2 * region + unsteady], moment)
        out: Indices = free[self.population.height[free] >= self.sentinel_height]
        return out[~np.isin(out, but)] if len(out) else out

    def controls(self, moment: Moment) -> int:
        """Return how many devices of the fleet could be controls now."""
        fits = moment.online & moment.present & (self.roster.status == Status.NEVER)
        return int(fits.sum())
