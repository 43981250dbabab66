"""What the rule remembers about each device: how far it is, and what it was asked already."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from server.domain.halt.view import Bools, Floats, Indices, Moment, Population


class Status:
    """How far a device is. Plain numbers: arrays compare with them fast."""

    NEVER: Final = 0
    STARTED: Final = 1
    REBOOTED: Final = 2
    GOOD: Final = 3
    SILENT: Final = 4
    FAILED: Final = 5
    OVER: Final = 6
    RETRY: Final = 7


@dataclass(slots=True)
class Roster:
    """Arrays of shape n. ``rebooted_at`` in Unix seconds, inf: not yet; likewise ``started_at``
    and ``online_since`` (inf: dark, -inf: since before the run). ``has_spoken``: said how it went.

    ``has_flapped`` and ``has_gone`` (silent for long) happened once since the run began, before or after the update:
    a device tells each of the two only once.
    """

    status: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    rebooted_at: Floats = field(default_factory=lambda: np.empty(0))
    started_at: Floats = field(default_factory=lambda: np.empty(0))
    online_since: Floats = field(default_factory=lambda: np.empty(0))
    has_spoken: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    has_flapped: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    has_gone: Bools = field(default_factory=lambda: np.empty(0, np.bool_))

    def grow(self, devices: int) -> None:
        """Append devices of which nothing is known yet."""
        spare = devices - len(self.status)
        self.status = np.concatenate([self.status, np.zeros(spare, np.uint8)])
        self.rebooted_at = np.concatenate([self.rebooted_at, np.full(spare, np.inf)])
        self.started_at = np.concatenate([self.started_at, np.full(spare, np.inf)])
        self.online_since = np.concatenate([self.online_since, np.full(spare, -np.inf)])
        self.has_spoken = np.concatenate([self.has_spoken, np.zeros(spare, np.bool_)])
        self.has_flapped = np.concatenate([self.has_flapped, np.zeros(spare, np.bool_)])
        self.has_gone = np.concatenate([self.has_gone, np.zeros(spare, np.bool_)])

    def watch(self, moment: Moment) -> None:
        """Note since when each device has been online."""
        np.copyto(self.online_since, moment.now, where=moment.online & (self.online_since == np.inf))
        np.copyto(self.online_since, np.inf, where=~moment.online)

    def begin(self, started: Indices, now: float) -> None:
        """Devices have begun; what has rebooted for this release already begins again and is not tried again."""
        self.started_at[started] = now
        is_retry = np.isfinite(self.rebooted_at[started])
        self.status[started] = np.where(is_retry, Status.RETRY, Status.STARTED)

    def reboot(self, rebooted: Indices, at: Floats) -> Indices:
        """Note the first reboots; return the places in ``rebooted`` that are first ones."""
        first = np.flatnonzero(~np.isfinite(self.rebooted_at[rebooted]))
        first = first[np.unique(rebooted[first], return_index=True)[1]]
        self.rebooted_at[rebooted[first]] = at[first]
        self.status[rebooted[first]] = Status.REBOOTED
        return first

    def speak(self, moment: Moment) -> tuple[int, int]:
        """Return how many say for the first time that the release failed, and how many that it succeeded."""
        return self._first_words(moment.failed), self._first_words(moment.succeeded)

    def finish(self, moment: Moment) -> None:
        """Take in who ended before a reboot, who failed, and whose retry succeeded."""
        ended = moment.over[self.status[moment.over] != Status.FAILED]
        self.status[ended[~np.isfinite(self.rebooted_at[ended])]] = Status.OVER
        retried = moment.over[self.status[moment.over] == Status.RETRY]
        self.status[retried] = Status.OVER
        self.status[moment.failed] = Status.FAILED
        status = self.status[moment.succeeded]
        self.status[moment.succeeded[(status == Status.RETRY) | (status == Status.FAILED)]] = Status.GOOD

    def flight(self) -> Indices:
        """Return who holds a slot; a silent or failed device keeps its own, so a bad release runs out of them."""
        status = self.status
        return np.flatnonzero((status != Status.NEVER) & (status != Status.GOOD) & (status != Status.OVER))

    def holds_slot(self, devices: Indices, now: float, longest_s: float) -> Bools:
        """Return which of these in flight, all of which sleep, keep their slots (mask): no verdict takes longer."""
        rebooted_at = self.rebooted_at[devices]
        begun_at = np.where(np.isfinite(rebooted_at), rebooted_at, self.started_at[devices])
        status = self.status[devices]
        out: Bools = (status == Status.SILENT) | (status == Status.FAILED) | (now - begun_at <= longest_s)
        return out

    def moving(self, moment: Moment) -> Bools:
        """Return who is on the way to a verdict (mask): dark before its reboot, a device may never get there."""
        begun = (self.status == Status.STARTED) | (self.status == Status.RETRY)
        out: Bools = (self.status == Status.REBOOTED) | (begun & moment.online)
        return out

    def _first_words(self, devices: Indices) -> int:
        """Note who of these has now said how it went; return how many say it for the first time."""
        if not len(devices):
            return 0
        new = np.unique(devices[~self.has_spoken[devices]])
        self.has_spoken[new] = True
        return len(new)


def by_region_and_class(devices: Indices, population: Population) -> Indices:
    """Return how many of ``devices`` each region has of each hardware class, shape (regions, classes)."""
    regions, classes = len(population.regions), len(population.classes)
    cell = population.region[devices].astype(np.int64) * classes + population.hardware[devices]
    return np.bincount(cell, minlength=regions * classes).reshape(regions, classes)
