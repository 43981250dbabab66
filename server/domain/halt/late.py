"""The `late` channel: when the last control has been updated, each device is compared with its own kind's past.

The past is what controls did in windows of the same hour of the day, by steadiness; silence may be ``history_factor``
times as frequent and a little more. Devices of one site go dark together, so a site has one vote. All this rests on a
model of the past, not on chance alone; so its authority is to hold and call a person, not to halt.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from server.domain.halt.bet import BETS, log_e_single
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.view import Floats

_HOURS: Final = 24
_HOUR_S: Final = 3600
_PRIOR_SILENT: Final = 0.3
_PRIOR_DEVICES: Final = 200.0
_PRIOR_HOUR: Final = 50.0
_MOST_RATE: Final = 0.9


@dataclass(slots=True)
class Late:
    """``past`` counts controls and silent ones by steadiness and hour (2, 24, 2); ``log`` is the log-wealth by bet."""

    past: Floats = field(default_factory=lambda: np.zeros((2, _HOURS, 2)))
    log: Floats = field(default_factory=lambda: np.zeros(len(BETS)))
    watched: int = 0
    silent: int = 0
    expected: float = 0.0

    def learn(self, *, unsteady: bool, at: float, controls: int, silent: int) -> None:
        """Remember what controls did in a window that ended at ``at`` (Unix seconds)."""
        self.past[int(unsteady), _hour(at)] += (controls, silent)

    def bet(self, *, unsteady: bool, at: float, votes: int, silent: int, policy: HaltPolicy) -> None:
        """Bet on updated devices without controls; one vote for each site."""
        usual = self.usual(unsteady=unsteady, at=at)
        rate = min(_MOST_RATE, policy.history_factor * usual + policy.history_d0)
        self.log += log_e_single(trials=votes, hits=silent, rate=rate)
        self.watched += votes
        self.silent += silent
        self.expected += usual * votes

    def usual(self, *, unsteady: bool, at: float) -> float:
        """Return the past rate of silence at this hour, shrunk towards that of all hours."""
        mine = self.past[int(unsteady)]
        whole = (mine[:, 1].sum() + _PRIOR_SILENT) / (mine[:, 0].sum() + _PRIOR_DEVICES)
        hour = mine[_hour(at)]
        return float((hour[1] + _PRIOR_HOUR * whole) / (hour[0] + _PRIOR_HOUR))

    def wealth(self) -> float:
        """Return the mean over the bets."""
        return float(np.exp(np.minimum(self.log, 700.0)).mean())


def _hour(at: float) -> int:
    return int(at // _HOUR_S) % _HOURS
