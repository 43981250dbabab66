"""What happens to updated devices after they have come back: they lose sessions again and again, or fall silent later.

Windows follow one another without overlap. In each, every device that was here is asked once: has it flapped (asked
at the window's end), or has it gone (it was online at the window's beginning and silent for long from its end)?
Updated devices of one age since their update are compared with those that never began.

*Why this is valid though each control serves in many windows.* A device tells each of the two events **once**, before
or after its update; from then on it is in neither group. So in the order in which devices happen to flap, each newly
flapping device shows for the first time which group it is in, and had the release done nothing, that is as random as
its height (the argument of the log-rank test). Counting the same chronic flapper in window after window would bet on
one accident of the draw many times. A control that begins during a window leaves it: it was alive to do so, which only
makes the rest look worse.

*Bad weather.* Of `flap` a window with any bad weather is left out. Of `stay` it is kept: its deadline's clock stands
still until the weather is good again, so an outage has ended before anybody is asked; and whom it takes for longer it
takes from both groups of its region, as random as their heights, which is all that the bet assumes. (Regions are never
thrown together: an outage of a region with many updated devices and few controls would look like the release.) Late
failures take hours to show; to throw away each window of a region that has had an outage cost a third more devices.
Where there are no controls nothing says that it was the weather: there such windows are left out.

*Left out* of `stay` is who is away by habit: who sleeps by habit sleeps again some hours after it was awake enough to
be updated. Left out of both are devices that declare that they sleep: to come and go is what they do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from server.domain.halt.ledger import ARMS, Arm, Kind, Ledger
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.rails import Rails
from server.domain.halt.rates import Tables
from server.domain.halt.roster import Roster, Status
from server.domain.halt.shadows import World
from server.domain.halt.view import Bools, Floats, Indices, Moment, Population
from server.domain.halt.wealth import AGE_LIMITS_S, Process
from server.domain.halt.weather import Weather

AGES: Final = len(AGE_LIMITS_S) + 1
_CONTROL, _SENTINEL, _NOBODY = AGES, AGES + 1, AGES + 2


@dataclass(frozen=True, slots=True)
class Row:
    """One block of a window: updated devices of ``age``, and controls, of one region and steadiness."""

    age: int
    unsteady: bool
    region: int
    uses_sentinels: bool
    is_compared: bool

    def holds(self, region: npt.NDArray[np.int16], unsteady: Bools) -> Bools:
        """Return which devices belong here (mask), by their regions and steadiness."""
        mine: Bools = (unsteady == self.unsteady) & (region == self.region)
        return mine

    def arm(self, group: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Return the arm of each device by its group, -1 for none."""
        table = np.full(_NOBODY + 1, -1, np.int8)
        table[self.age] = Arm.UPDATED
        table[_CONTROL] = Arm.SHADOW
        table[_SENTINEL] = Arm.SHADOW if self.uses_sentinels else Arm.SENTINEL
        if not self.is_compared:
            table[_CONTROL:] = -1
        out: npt.NDArray[np.int8] = table[group]
        return out

    def pick(self, counts: Indices) -> npt.NDArray[np.int32]:
        """Return the row's part of ``counts`` (groups, regions, 2, classes), shape (arms, classes)."""
        groups = counts[:, self.region, int(self.unsteady)]
        out = np.zeros((ARMS, counts.shape[3]), np.int32)
        for group, arm in enumerate(self.arm(np.arange(_NOBODY, dtype=np.int8))):
            if arm >= 0:
                out[arm] += groups[group].astype(np.int32)
        return out


@dataclass(slots=True)
class Windows:
    """The windows of now: when they began (Unix seconds, nan: not yet), and what has happened in them so far.

    ``drops`` counts lost sessions and ``was_online`` says who was here at the beginning, shape n; ``spoilt`` and
    ``stay_spoilt`` are regions with a moment of bad weather in the windows of `flap` and `stay`. ``unseen`` are regions
    where we could not see, or neutral watchers saw bad weather, in the window of `flap`: updated devices that watch
    the weather for want of others call their own flapping bad weather.
    """

    flap_from: float = np.nan
    stay_from: float = np.nan
    drops: npt.NDArray[np.int16] = field(default_factory=lambda: np.empty(0, np.int16))
    was_online: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    spoilt: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    stay_spoilt: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    unseen: Bools = field(default_factory=lambda: np.empty(0, np.bool_))

    def grow(self, devices: int, regions: int) -> None:
        """Make room for devices and regions that have appeared since."""
        spare = devices - len(self.drops)
        self.drops = np.concatenate([self.drops, np.zeros(spare, np.int16)])
        self.was_online = np.concatenate([self.was_online, np.zeros(spare, np.bool_)])
        self.spoilt = np.concatenate([self.spoilt, np.zeros(regions - len(self.spoilt), np.bool_)])
        self.stay_spoilt = np.concatenate([self.stay_spoilt, np.zeros(regions - len(self.stay_spoilt), np.bool_)])
        self.unseen = np.concatenate([self.unseen, np.zeros(regions - len(self.unseen), np.bool_)])

    def count_drops(self, moment: Moment, weather: Weather) -> None:
        """Take in who has lost a session, and where the weather was bad."""
        stops = weather.judging_stops(moment.now)
        if np.isnan(self.flap_from):
            self.flap_from = moment.now
        if len(moment.dropped):
            devices, times = np.unique(moment.dropped, return_counts=True)
            self.drops[devices] = np.minimum(self.drops[devices] + times, 1000)
        self.spoilt |= stops
        self.stay_spoilt |= stops
        self.unseen |= stops & (weather.is_known or weather.blind_until > moment.now)

    def flap(self, world: World, moment: Moment, rails: Rails) -> Tables | None:
        """Return the blocks of a window that has ended, once; regions with bad weather in it are left out.

        Steady devices that there is nobody to compare with are counted for the guard rail.
        """
        policy, population, roster = world.policy, world.population, world.roster
        if moment.now - self.flap_from < policy.flap_window_s:
            return None
        group = self._groups(world, moment, since=self.flap_from, after_s=policy.flap_after_s)
        here = moment.present & ~roster.has_flapped & (moment.last_seen >= self.flap_from)
        group[~here | self.unseen[population.region]] = _NOBODY
        roster.has_flapped |= self._count_bare(world, group, rails)
        group[self.spoilt[population.region]] = _NOBODY
        has = (self.drops >= policy.flap_drops) & (group != _NOBODY)
        counts = _count(group, population)
        flapping = _count(np.where(has, group, _NOBODY).astype(np.int8), population)
        rows = [row for row in lay_out(counts, policy) if row.is_compared]
        roster.has_flapped |= has
        self.drops[:] = 0
        self.spoilt[:] = self.unseen[:] = False
        self.flap_from = moment.now
        return Tables(
            process=np.array([Process.FLAP_FIRST_HOUR + row.age for row in rows], np.int64),
            d0=np.full(len(rows), policy.d0),
            region=np.array([row.region for row in rows], np.int64),
            unsteady=np.array([row.unsteady for row in rows], np.bool_),
            counts=np.array([row.pick(counts) for row in rows], np.int32).reshape(len(rows), ARMS, counts.shape[3]),
            silent=np.array([row.pick(flapping) for row in rows], np.int32).reshape(len(rows), ARMS, counts.shape[3]),
        )

    def _count_bare(self, world: World, group: npt.NDArray[np.int8], rails: Rails) -> Bools:
        """Count steady updated devices without controls, one vote for each site; return those that have flapped."""
        policy, population = world.policy, world.population
        bare = np.zeros(len(population), np.bool_)
        for row in lay_out(_count(group, population), policy):
            if not row.is_compared and not row.unsteady:
                bare |= (group == row.age) & row.holds(population.region, population.unsteady)
        has: Bools = bare & (self.drops >= policy.flap_drops)
        voters = _one_of_each_site(np.flatnonzero(bare), population)
        rails.see_flapping(watched=len(voters), flapping=int(np.count_nonzero(has[voters])), policy=policy)
        return has

    def stay(self, world: World, moment: Moment, ledger: Ledger, clock: Floats) -> None:
        """Open the blocks of a window that has ended: who was here when it began must be heard from after its end."""
        policy, population, roster = world.policy, world.population, world.roster
        if np.isnan(self.stay_from):
            self._begin_stay(world, moment)
        if moment.now - self.stay_from < policy.stay_window_s:
            return
        group = self._groups(world, moment, since=self.stay_from, after_s=0)
        group[~(self.was_online & moment.present & ~roster.has_gone) | ~population.settled] = _NOBODY
        since = moment.now - policy.reboot_s
        silent = np.flatnonzero((group != _NOBODY) & (moment.last_seen < since))
        counts = _count(group, population)
        for row in lay_out(counts, policy, with_controls_alone=True):
            picked, mine = row.pick(counts), silent
            if not row.is_compared:
                if self.stay_spoilt[row.region]:
                    continue
                mine, picked = _one_vote_per_site(row, group, silent, population)
            number = ledger.open_blocks(
                Kind.STAY,
                region=[row.region],
                rhythm=[row.unsteady],
                is_compared=[row.is_compared],
                clock=[clock[row.region]],
                now=moment.now,
                age=row.age,
            )
            ledger.counts[-1] = picked
            arm = row.arm(group[mine])
            arm[~row.holds(population.region[mine], population.unsteady[mine])] = -1
            mine, arm = mine[arm >= 0], arm[arm >= 0]
            ledger.add_open(np.repeat(number, len(mine)), arm, mine, since)
        self._begin_stay(world, moment)

    def _begin_stay(self, world: World, moment: Moment) -> None:
        self.stay_from = moment.now
        self.stay_spoilt[:] = False
        came_back = moment.last_seen >= world.roster.rebooted_at + world.policy.reboot_s
        self.was_online = moment.online & (came_back | (world.roster.status == Status.NEVER))

    def _groups(self, world: World, moment: Moment, *, since: float, after_s: float) -> npt.NDArray[np.int8]:
        """Return each device's group: its age at the window's beginning, control, sentinel or nobody."""
        roster, population = world.roster, world.population
        group = np.full(len(population), _NOBODY, np.int8)
        never = roster.status == Status.NEVER
        never &= population.height >= moment.level[population.region]
        group[never] = _CONTROL
        group[never & (population.height >= world.sentinel_height)] = _SENTINEL
        updated = np.flatnonzero(roster.rebooted_at <= since - after_s)
        group[updated] = np.searchsorted(AGE_LIMITS_S, since - roster.rebooted_at[updated], side="right")
        group[world.sleeps] = _NOBODY
        if population.named is not None:
            group[population.named] = _NOBODY
        return group


def lay_out(counts: Indices, policy: HaltPolicy, *, with_controls_alone: bool = False) -> Iterator[Row]:
    """Yield the blocks of a window from ``counts`` (groups, regions, 2, classes): regions are never thrown together.

    A region with too few controls below the sentinels takes these too; with too few of both nothing is compared.
    ``with_controls_alone``: also blocks of the first age in which nobody is updated.
    """
    sizes = counts.sum(axis=3)
    few = sizes[_CONTROL]
    both = few + sizes[_SENTINEL]
    for age in range(AGES):
        asked = (sizes[age] > 0) | (with_controls_alone & (age == 0) & (both > 0))
        for region, unsteady in np.argwhere(asked).tolist():
            yield Row(
                age=age,
                unsteady=bool(unsteady),
                region=region,
                uses_sentinels=bool(few[region, unsteady] < policy.min_controls),
                is_compared=bool(both[region, unsteady] >= policy.min_controls),
            )


def settle_gone(roster: Roster, ledger: Ledger, population: Population) -> None:
    """Take devices that have gone once already out of all open blocks: an event counts once."""
    if len(ledger.device):
        kind = ledger.kind[ledger.rows(ledger.block)]
        ledger.withdraw((kind == Kind.STAY) & roster.has_gone[ledger.device], population.hardware)


def _count(group: npt.NDArray[np.int8], population: Population) -> Indices:
    """Return how many devices each group has, shape (groups, regions, 2, classes)."""
    regions, classes = len(population.regions), len(population.classes)
    cell = group.astype(np.int64) * (2 * regions) + population.region * np.int64(2) + population.unsteady
    cell = cell * classes + population.hardware
    size = (_NOBODY + 1) * regions * 2 * classes
    return np.bincount(cell, minlength=size).reshape(-1, regions, 2, classes)[:_NOBODY]


def _one_vote_per_site(
    row: Row, group: npt.NDArray[np.int8], silent: Indices, population: Population
) -> tuple[Indices, npt.NDArray[np.int32]]:
    """Return the silent devices that vote, and the counts of all that do: the first device of each site."""
    mine = (group == row.age) & row.holds(population.region, population.unsteady)
    voters = _one_of_each_site(np.flatnonzero(mine), population)
    counts = np.zeros((ARMS, len(population.classes)), np.int32)
    counts[Arm.UPDATED] = np.bincount(population.hardware[voters], minlength=len(population.classes))
    return silent[np.isin(silent, voters)], counts


def _one_of_each_site(devices: Indices, population: Population) -> Indices:
    if population.site is None:
        return devices
    out: Indices = devices[np.unique(population.site[devices], return_index=True)[1]]
    return out
