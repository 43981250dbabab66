"""The `late` channel: when the last control has been updated, each device is compared with its own kind's past.

The past is what steady controls did in windows of the same hour of the day; silence may be ``history_factor`` times as
frequent and a little more. An hour in which few were watched says nothing. Devices of one site go dark together, so a
site has one vote.

*The model.* Each vote is silent with a chance of at most ``history_factor`` times its hour's past rate plus
``history_d0``, whatever the votes before it were. Then each bet (`bet.log_e_single`) has an expectation of at most 1,
and the wealth is an e-process. That an hour is like the same hour before, and that sites go dark independently, is
assumed, not drawn by lot as heights are. Devices may die after a day in which none did, and a bet that was placed at
the beginning would have lost all by then; so a share of the stake is kept for each of the next windows, and begins
there (a mixture of e-processes is one). Only windows in good weather are bet on for that reason; the past may have bad
weather in it, which only makes it look worse. So the authority of this channel is to hold and call a person, not to
halt.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from server.domain.halt.bet import BETS, log_e_single
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.view import Floats

_HOURS: Final = 24
_SHARES: Final = 200
"""Windows of half an hour: a few more than the three days that are watched."""
_HOUR_S: Final = 3600
_LEAST_PAST: Final = 40
_MORE_SILENT: Final = 2.0
_MOST_RATE: Final = 0.9


@dataclass(slots=True)
class Late:
    """``past`` counts controls and silent ones by the hour (24, 2).

    ``log`` is the log-wealth by bet of the ``begun`` shares; the last began with the window of ``begun_at`` (Unix
    seconds).
    """

    past: Floats = field(default_factory=lambda: np.zeros((_HOURS, 2)))
    log: Floats = field(default_factory=lambda: np.full(len(BETS), -np.inf))
    begun: int = 0
    begun_at: float = -np.inf
    watched: int = 0
    silent: int = 0
    expected: float = 0.0

    def learn(self, *, at: float, controls: int, silent: int) -> None:
        """Remember what controls did in a window that ended at ``at`` (Unix seconds)."""
        self.past[_hour(at)] += (controls, silent)

    def bet(self, *, at: float, votes: int, silent: int, policy: HaltPolicy) -> None:
        """Bet on updated devices without controls, one vote for each site; nothing where the past is too short."""
        usual = self.usual(at)
        if usual is None:
            return
        if at > self.begun_at and self.begun < _SHARES:
            self.begun, self.begun_at = self.begun + 1, at
            self.log = np.logaddexp(self.log, -np.log(_SHARES))
        rate = min(_MOST_RATE, policy.history_factor * usual + policy.history_d0)
        self.log += log_e_single(trials=votes, hits=silent, rate=rate)
        self.watched += votes
        self.silent += silent
        self.expected += usual * votes

    def usual(self, at: float) -> float | None:
        """Return the past rate of silence at this hour, on the careful side; None where too few were watched."""
        watched, silent = self.past[_hour(at)]
        return None if watched < _LEAST_PAST else float((silent + _MORE_SILENT) / (watched + _MORE_SILENT))

    def wealth(self) -> float:
        """Return the mean over the bets, with what is not staked yet."""
        return float(np.exp(np.minimum(self.log, 700.0)).mean()) + 1 - self.begun / _SHARES


def _hour(at: float) -> int:
    return int(at // _HOUR_S) % _HOURS
