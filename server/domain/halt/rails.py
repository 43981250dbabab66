"""Guard rails: what halts or holds a campaign when there is nothing, or too little, to compare with.

And the devices' own word: a Bernoulli e-process of those that say the release failed against the tolerated share.
"""

from dataclasses import dataclass, field

import numpy as np

from server.domain.halt.bet import BETS, log_e_single
from server.domain.halt.pace import SMALL_FLEET
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.view import Call, Floats


@dataclass(slots=True)
class Explicit:
    """Devices that have said how it went, each once, and the log-wealth of betting on failure (shape bets)."""

    failed: int = 0
    succeeded: int = 0
    log: Floats = field(default_factory=lambda: np.zeros(len(BETS)))

    def hear(self, *, failed: int, succeeded: int, policy: HaltPolicy) -> None:
        """Bet on what these devices said, against at most ``explicit_ratio`` of failures."""
        self.failed += failed
        self.succeeded += succeeded
        self.log += log_e_single(trials=failed + succeeded, hits=failed, rate=policy.explicit_ratio)

    def wealth(self) -> float:
        """Return the mean over the bets."""
        return float(np.exp(np.minimum(self.log, 700.0)).mean())


@dataclass(slots=True)
class Rails:
    """Counts of the whole run: excess at G2 (``late_judged``, ``late_expected``), and what was judged ``bare``.

    ``late_silent`` and ``bare_silent`` are counted afresh at every step: devices that have come back do not count.
    """

    late_judged: int = 0
    late_expected: float = 0.0
    bare_judged: int = 0


def check(
    rails: Rails, *, late_silent: int, bare_silent: int, silent: int, fleet: int, policy: HaltPolicy
) -> tuple[Call, str]:
    """Return what the guard rails ask for, and which of them (``excess``, ``bare``, ``small`` or none)."""
    if late_silent - rails.late_expected >= max(policy.rail_excess, policy.rail_share * fleet):
        return Call.HALT, "excess"
    if bare_silent >= policy.bare_silent and bare_silent >= policy.bare_ratio * rails.bare_judged:
        return Call.HALT, "bare"
    if fleet < SMALL_FLEET and silent >= 1:
        return (Call.HALT if silent >= 2 else Call.HOLD), "small"
    return Call.GO, ""
