"""The brake before the halt: look at what is in flight before letting more of it fly."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from server.domain.halt.policy import HaltPolicy
from server.domain.halt.roster import Roster
from server.domain.halt.view import Bools, Indices, Moment

SLOW: Final = 0.1
"""Pace after all that was in flight has been judged, while the odds stay high."""


@dataclass(slots=True)
class Brake:
    """``waiting`` were in flight when the brake was pulled and are not judged yet; ``used_s`` counts all braking."""

    is_on: bool = False
    waiting: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    used_s: float = 0.0

    def press(
        self,
        *,
        odds: float,
        elapsed_s: float,
        moment: Moment,
        roster: Roster,
        sleeps: Bools,
        policy: HaltPolicy,
        counts: bool,
    ) -> float:
        """Return the pace: 1.0, or 0.0 while devices are waited for, or 0.1 after that.

        ``counts`` is false while nothing can be judged: such time is not taken from the budget. A device that has gone
        dark during its download is not waited for, it may never reboot; nor is one that sleeps, it takes hours.
        """
        if self.is_on and counts:
            self.used_s += elapsed_s
        if not self.is_on:
            if odds < policy.brake_at:
                return 1.0
            flight = roster.flight()
            self.is_on, self.waiting = True, flight[~sleeps[flight]]
        self.waiting = self.waiting[roster.moving(moment)[self.waiting]]
        if len(self.waiting):
            return 0.0
        self.is_on = odds >= policy.brake_at
        return SLOW if self.is_on else 1.0
