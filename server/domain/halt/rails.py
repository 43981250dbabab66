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
    ``flapping`` of ``flap_watched`` devices that were compared with nobody flapped in one window: the one with most.
    """

    late_judged: int = 0
    late_expected: float = 0.0
    bare_judged: int = 0
    flap_watched: int = 0
    flapping: int = 0

    def see_flapping(self, *, watched: int, flapping: int, policy: HaltPolicy) -> None:
        """Take in one window. Once the rail is reached it stays so until a person has looked (`HaltRule.accept`)."""
        is_much = flapping >= policy.bare_silent and flapping >= policy.bare_ratio * watched
        if is_much and flapping > self.flapping:
            self.flap_watched, self.flapping = watched, flapping


def check(
    rails: Rails, *, late_silent: int, bare_silent: int, silent: int, fleet: int, policy: HaltPolicy
) -> tuple[Call, str]:
    """Return what the guard rails ask for, and which (``excess``, ``bare``, ``small``, ``flapping`` or none)."""
    if late_silent - rails.late_expected >= max(policy.rail_excess, policy.rail_share * fleet):
        return Call.HALT, "excess"
    if bare_silent >= policy.bare_silent and bare_silent >= policy.bare_ratio * rails.bare_judged:
        return Call.HALT, "bare"
    is_small = fleet < SMALL_FLEET
    if is_small and silent >= 2:
        return Call.HALT, "small"
    if rails.flapping:
        return Call.HOLD, "flapping"
    if is_small and silent >= 1:
        return Call.HOLD, "small"
    return Call.GO, ""
