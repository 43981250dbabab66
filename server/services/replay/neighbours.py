"""Updated devices beside those that were online in their region at their reboot and have not begun: a plain count.

It knows no weather and draws no shadows, so it is no test; it shows to an eye what the halt rule is about.
"""

from collections import deque

import numpy as np

from server.domain.halt.view import Bools, Floats, Indices, Moment, Population


class Neighbours:
    """Counts blocks of one moment once their deadline has come, ``deadline_s`` after it."""

    def __init__(self, population: Population, *, deadline_s: float, reboot_s: float) -> None:
        self._region = population.region
        self._deadline_s = deadline_s
        self._reboot_s = reboot_s
        self._started = np.zeros(len(population), np.bool_)
        self._waiting: deque[tuple[float, Indices, Floats, Bools]] = deque()

    def step(self, moment: Moment) -> Floats:
        """Return updated devices, silent ones, neighbours and silent ones of the blocks that are due now, summed up."""
        self._started[moment.started] = True
        totals = np.zeros(4)
        while self._waiting and self._waiting[0][0] + self._deadline_s <= moment.now:
            began, devices, at, online = self._waiting.popleft()
            silent = moment.last_seen[devices] < at + self._reboot_s
            for region in np.unique(self._region[devices]):
                mine = self._region[devices] == region
                beside = online & ~self._started & (self._region == region)
                dark = np.count_nonzero(moment.last_seen[beside] < began + self._reboot_s)
                totals += mine.sum(), silent[mine].sum(), np.count_nonzero(beside), dark
        if len(moment.rebooted):
            self._waiting.append((moment.now, moment.rebooted, moment.rebooted_at, moment.online & ~self._started))
        return totals
