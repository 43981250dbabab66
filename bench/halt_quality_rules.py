"""Other rules to compare the halt rule with, each as its documents say, and generously where they say nothing.

None of them knows weather or controls (but for the z-test); all count an updated device that was not heard of between
its reboot and 15 minutes after it as failed, though neither AWS IoT Jobs nor hawkBit would learn of it by themselves.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from server.domain.halt.view import Bools, Call, Floats, Indices, Moment, Population, Verdict
from server.services.replay.neighbours import Neighbours
from server.services.replay.world import Count

DEADLINE_S: Final = 900.0
REBOOT_S: Final = 120.0
AT_LEAST: Final = 100
Z_AT: Final = 2.326
"""One-sided p = .01."""

_ANY: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Judged:
    """Updated devices whose deadline has come: the devices, and which of them are silent."""

    devices: Indices
    silent: Bools


@dataclass(slots=True)
class Stop:
    """When a rule stopped the release, and how many devices had started and suffered by then."""

    at: float
    call: Call
    count: Count | None = None


class Judge(Protocol):
    """Says when it would stop the release."""

    def look(self, judged: list[Judged], moment: Moment) -> Call: ...


@dataclass
class Share:
    """Stops when more than a share of the updated devices have failed, once at least 100 are judged.

    ``at_least``: also at exactly the share, as AWS's ``thresholdPercentage`` with ``minNumberOfExecutedThings``.
    """

    share: float
    at_least: bool = False
    judged: int = 0
    silent: int = 0

    def look(self, judged: list[Judged], moment: Moment) -> Call:
        del moment
        self.judged += sum(len(block.devices) for block in judged)
        self.silent += sum(int(block.silent.sum()) for block in judged)
        if self.judged < AT_LEAST:
            return Call.GO
        limit = self.share * self.judged
        return Call.HALT if self.silent > limit or (self.at_least and self.silent >= limit) else Call.GO


@dataclass
class GroupThreshold:
    """hawkBit's error condition: errors are strictly more than a whole percentage of the group; then it pauses.

    A group is a region. The share is of the whole group, also of those that have yet to start.
    """

    population: Population
    percent: int
    errors: Indices = field(init=False)
    sizes: Indices = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.population.regions)
        self.errors = np.zeros(count, np.int64)
        self.sizes = np.bincount(self.population.region, minlength=count)

    def look(self, judged: list[Judged], moment: Moment) -> Call:
        del moment
        for block in judged:
            silent = self.population.region[block.devices[block.silent]]
            self.errors += np.bincount(silent, minlength=len(self.errors))
        return Call.HOLD if np.any(self.errors * 100 > self.percent * self.sizes) else Call.GO


class RepeatedZ:
    """A two-proportion z-test of updated devices against those online beside them at their reboot, at every look."""

    def __init__(self, population: Population) -> None:
        self._neighbours = Neighbours(population, deadline_s=DEADLINE_S, reboot_s=REBOOT_S)
        self._totals = np.zeros(4)

    def look(self, judged: list[Judged], moment: Moment) -> Call:
        del judged
        self._totals += self._neighbours.step(moment)
        updated, silent, controls, control_silent = self._totals
        if not controls or not updated:
            return Call.GO
        pooled = (silent + control_silent) / (updated + controls)
        error = math.sqrt(pooled * (1 - pooled) * (1 / updated + 1 / controls))
        return Call.HALT if error and (silent / updated - control_silent / controls) / error > Z_AT else Call.GO


class Panel:
    """All of them watch one release that nobody stops; ``stops`` says when each would have."""

    def __init__(self, population: Population) -> None:
        self._judges: dict[str, Judge] = {
            "fixed-2": Share(0.02),
            "fixed-5": Share(0.05),
            "aws-20": Share(0.2, at_least=True),
            "hawkbit-5": GroupThreshold(population, 5),
            "z-test": RepeatedZ(population),
        }
        self.names = tuple(self._judges)
        self.stops: dict[str, Stop] = {}
        self._waiting: deque[tuple[float, Indices, Floats]] = deque()
        self._go = Verdict(
            room_in_regions=np.full(len(population.regions), _ANY, np.int64),
            room_in_classes=np.full(len(population.classes), _ANY, np.int64),
        )

    def step(self, moment: Moment) -> Verdict:
        judged = []
        while self._waiting and self._waiting[0][0] <= moment.now:
            _, devices, at = self._waiting.popleft()
            judged.append(Judged(devices, moment.last_seen[devices] < at + REBOOT_S))
        if len(moment.rebooted):
            self._waiting.append((moment.now + DEADLINE_S, moment.rebooted, moment.rebooted_at))
        for name, judge in self._judges.items():
            call = judge.look(judged, moment)
            if call > Call.GO and name not in self.stops:
                self.stops[name] = Stop(moment.now, call)
        return self._go

    def note(self, _: float, count: Count) -> None:
        """Remember how far the release was when rules stopped it a moment ago."""
        for stop in self.stops.values():
            stop.count = stop.count or count
