"""How fast levels rise: never above the plan's line, and never past what the evidence leaves room for (pure).

The halt rule says how many more devices may be in flight, per region and per hardware class. A region's level rises in
short lines, each to the height of the last device that there is room for; while the rule brakes, or a region's weather
is bad, its line stops where it is.

A cap on bytes per second bounds the slope: a line passes no more devices than may start in the time it takes. One that
would let in a single device too soon takes longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from server.domain.gate import DEAD_MAN_S, Ramp
from server.domain.halt import Verdict
from server.domain.halt.pace import level_within
from server.domain.halt.view import UNBOUNDED
from server.domain.identity import Region
from server.domain.plan import Policy

_EMPTY: Final = np.empty(0, np.int64)

CATCH_UP: Final = 2
"""A level that was held back rises so many times as fast as its plan, until it is where the plan has it."""


COUNTED_S: Final = 60.0
"""Starts are counted over so long, or over the time in which one device may start, where that is longer."""


@dataclass(frozen=True, slots=True)
class Startable:
    """Devices that would start if the level passed them: their heights, rising, and hardware classes (shape n)."""

    heights: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]

    @classmethod
    def nobody(cls) -> Self:
        return cls(_EMPTY, _EMPTY)

    def above(self, level: int) -> "Startable":
        """Return those that the level has not passed yet."""
        begin = int(np.searchsorted(self.heights, level))
        return Startable(self.heights[begin:], self.classes[begin:])

    def within(self, low: int, high: int) -> "Startable":
        """Return those whom a level passes on its way from ``low`` to ``high``."""
        begin, end = np.searchsorted(self.heights, (low, high))
        return Startable(self.heights[begin:end], self.classes[begin:end])

    def __len__(self) -> int:
        return len(self.heights)


class Line(NamedTuple):
    """One region's level: its line and the one that the plan has; those about to start, in flight, and above it.

    ``admitted``: late devices that were let in within ``counted_s``, where their rate is capped.
    """

    region: Region
    ramp: Ramp
    planned: Ramp
    starting: int
    in_flight: int
    startable: Startable
    admitted: int = 0

    def promised(self, now: float) -> Startable:
        """Return those whom the line has yet to pass on its way."""
        if now >= self.ramp.t1:
            return Startable.nobody()
        return self.startable.within(self.ramp.level(now), self.ramp.l1)


class Rooms(NamedTuple):
    """How many more devices may start: in all, by region (in the lines' order), and by hardware class."""

    whole: int
    in_regions: list[int]
    in_classes: npt.NDArray[np.int64]


def counted_s(starts_per_s: float) -> float:
    """Return over how many seconds the starts of a region are counted, for a cap on them."""
    return max(COUNTED_S, 1 / starts_per_s)


def rooms(
    lines: Sequence[Line],
    verdict: Verdict,
    starting_in_classes: Sequence[int],
    *,
    policy: Policy,
    now: float,
    starts_per_s: float = inf,
) -> Rooms:
    """Return what the verdict, the pace and the caps leave, without the devices that are about to start.

    These are the ``starting``, and whom a line under way has yet to pass: they were let in when it was drawn. A verdict
    without rooms leaves room for everybody; a region whose weather is bad has none.
    """
    pace = verdict.pace
    in_regions = []
    whole = verdict.room
    in_classes = _scaled(verdict.room_in_classes, len(starting_in_classes), pace)
    in_classes = in_classes - np.asarray(starting_in_classes, np.int64)
    for line, given in zip(lines, _scaled(verdict.room_in_regions, len(lines), pace), strict=True):
        promised = line.promised(now)
        taken = line.starting + len(promised)
        room = int(given) - taken
        if policy.in_flight_most:
            room = min(room, policy.in_flight_most - line.in_flight - taken)
        if starts_per_s < inf:
            room = min(room, _starts_most(starts_per_s) - len(promised) - line.admitted)
        in_regions.append(0 if _is_still(line, verdict) else max(0, room))
        if len(promised):
            in_classes = in_classes - np.bincount(promised.classes, minlength=len(in_classes))
        whole -= taken
    return Rooms(max(0, whole), in_regions, np.maximum(in_classes, 0))


def raised(
    lines: Sequence[Line],
    verdict: Verdict,
    starting_in_classes: Sequence[int],
    *,
    policy: Policy,
    now: float,
    starts_per_s: float = inf,
) -> dict[Region, Ramp]:
    """Return the new lines of the regions whose level should go on, or stop, now.

    ``starting_in_classes`` counts the devices that are about to start by hardware class; ``starts_per_s``: how many
    devices of a region may start each second.
    """
    changed = {}
    for line in lines:
        if _is_still(line, verdict) and line.ramp.l1 > line.ramp.level(now):
            changed[line.region] = line.ramp.frozen(now)
    rising = [
        index
        for index, line in enumerate(lines)
        if now >= line.ramp.t1 and line.ramp.l1 < line.planned.l1 and not _is_still(line, verdict)
    ]
    if not rising:
        return changed
    whole, in_regions, in_classes = rooms(
        lines, verdict, starting_in_classes, policy=policy, now=now, starts_per_s=starts_per_s
    )
    step_s = min(policy.halt.block_s / max(verdict.pace, 0.1), DEAD_MAN_S)
    for index in rising:
        line, room = lines[index], min(whole, in_regions[index])
        level = line.ramp.l1
        most = _highest(line, step_s, now, may_catch_up=verdict.pace >= 1)
        above = line.startable.above(level)
        new = level_within(above.heights, above.classes, room=room, room_in_classes=in_classes, level=most)
        if new > level:
            let_in = above.classes[above.heights < new]
            whole -= len(let_in)
            in_classes = in_classes - np.bincount(let_in, minlength=len(in_classes))
            start, takes_s = int(now), max(1, round(step_s), ceil(len(let_in) / starts_per_s))
            changed[line.region] = Ramp(start, level, start + takes_s, new)
    return changed


def _highest(line: Line, step_s: float, now: float, *, may_catch_up: bool) -> int:
    """Return how high a level may be in ``step_s``: on the plan's line, unless it is too far behind that."""
    level, planned = line.ramp.l1, line.planned
    if planned.t0 == planned.t1:
        return planned.l1
    rise = ceil((planned.l1 - planned.l0) * step_s / (planned.t1 - planned.t0))
    return max(level, min(level + (CATCH_UP if may_catch_up else 1) * rise, planned.level(now + step_s)))


def _starts_most(starts_per_s: float) -> int:
    """Return how many devices of a region may start in the time over which they are counted."""
    return max(1, int(starts_per_s * COUNTED_S))


def _is_still(line: Line, verdict: Verdict) -> bool:
    """The rule brakes, or nobody can be judged there."""
    return verdict.pace == 0 or verdict.is_blind or line.region in verdict.bad_weather


def _scaled(rooms: npt.NDArray[np.int64], count: int, pace: float) -> npt.NDArray[np.int64]:
    """Return ``count`` rooms at this pace: at a tenth of it a tenth, but one device where there is room for any.

    What appeared after the verdict has no room yet.
    """
    if not len(rooms):
        return np.full(count, UNBOUNDED, np.int64)
    scaled = np.floor(rooms * pace).astype(np.int64)
    least = np.where((rooms > 0) & (pace > 0), np.maximum(scaled, 1), 0)
    return least if len(least) >= count else np.concatenate([least, np.zeros(count - len(least), np.int64)])
