"""What all bets together have come to: one number M, an average of e-processes and so one itself.

Every process (a channel; `stay` and `flap` one for each age since the update) bets in every scope (the whole fleet,
each hardware class, each region) with every alternative of `bet.BETS`, beginning with its share of 1. By Ville's
inequality a harmless release ever takes M to 100 with a chance of at most 1 in 100, however often and whenever it is
looked at; because the average is taken over subgroups too, none of them needs a correction.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np

from server.domain.halt.bet import BETS
from server.domain.halt.view import Floats, Indices


class Process(IntEnum):
    """Rows of the wealth; ``SHARES`` and ``CHANNELS`` in the same order."""

    G1 = 0
    G2 = 1
    STALL = 2
    STAY_FIRST_HOUR = 3
    STAY_FOUR_HOURS = 4
    STAY_LATER = 5
    FLAP_FIRST_HOUR = 6
    FLAP_FOUR_HOURS = 7
    FLAP_LATER = 8
    G1_ASLEEP = 9
    G2_ASLEEP = 10


SHARES: Final = np.array([0.45, 0.10, 0.05, *[0.20 / 3] * 3, *[0.20 / 3] * 3, 0, 0])
CHANNELS: Final = ("g1", "g2", "stall", "stay", "stay", "stay", "flap", "flap", "flap", "wake", "wake")
ASLEEP: Final = MappingProxyType({Process.G1: Process.G1_ASLEEP, Process.G2: Process.G2_ASLEEP})
"""What devices that sleep are asked instead; where there are any, half of the share is theirs."""
AGE_LIMITS_S: Final = (3600.0, 14_400.0)
"""Where one age since the update ends and the next begins."""

_ALL, _CLASSES, _REGIONS = 0.7, 0.2, 0.1
_MOST_LOG: Final = 700.0  # exp() of more is no float


@dataclass(slots=True)
class Wealth:
    """Log-wealths, shape (processes, scopes, bets); a scope is the fleet, then the classes, then the regions."""

    classes: int
    regions: int
    has_sleepers: bool = False
    log: Floats = field(default_factory=lambda: np.empty((0, 0, 0)))
    tally: Indices = field(default_factory=lambda: np.empty((0, 0, 0), np.int64))
    """Of each process and scope: updated, silent of them, controls, silent of them (shape processes, scopes, 4)."""

    def __post_init__(self) -> None:
        scopes = 1 + self.classes + self.regions
        if self.log.size == 0:
            self.log = np.zeros((len(Process), scopes, len(BETS)))
            self.tally = np.zeros((len(Process), scopes, 4), np.int64)

    def weights(self) -> Floats:
        """Return what each bet began with, shape (processes, scopes): a fifth of its scope's share of 1."""
        return _weights(self.classes, self.regions, self.has_sleepers)

    def terms(self) -> Floats:
        """Return each process's and scope's part of M, shape (processes, scopes)."""
        out: Floats = (self.weights()[:, :, None] * np.exp(np.minimum(self.log, _MOST_LOG))).sum(axis=2)
        return out

    def total(self) -> float:
        """Return M."""
        return float(self.terms().sum())

    def grow(self, classes: int, regions: int, *, has_sleepers: bool) -> None:
        """Make room for classes, regions and a rhythm that have appeared since; they begin at wealth 1.

        The shares inside a channel are shared anew, so M may fall a little and never rises by more than their sum. Once
        there were devices that sleep, they keep their share.
        """
        self.has_sleepers |= has_sleepers
        if (classes, regions) == (self.classes, self.regions):
            return
        old_classes, old_regions, log, tally = self.classes, self.regions, self.log, self.tally
        self.classes, self.regions = classes, regions
        self.log = np.zeros((len(Process), 1 + classes + regions, len(BETS)))
        self.tally = np.zeros((len(Process), 1 + classes + regions, 4), np.int64)
        for new, old in ((self.log, log), (self.tally, tally)):
            new[:, : 1 + old_classes] = old[:, : 1 + old_classes]
            new[:, 1 + classes : 1 + classes + old_regions] = old[:, 1 + old_classes :]


def largest(terms: Floats) -> tuple[Process, int]:
    """Return the process and the scope (its index) with the largest of these parts of M."""
    process, scope = np.unravel_index(int(terms.argmax()), terms.shape)
    return Process(int(process)), int(scope)


@lru_cache(maxsize=64)
def _weights(classes: int, regions: int, has_sleepers: bool) -> Floats:
    scope = np.empty(1 + classes + regions)
    scope[0] = _ALL
    scope[1 : 1 + classes] = _CLASSES / max(1, classes)
    scope[1 + classes :] = _REGIONS / max(1, regions)
    shares = SHARES.copy()
    if has_sleepers:
        for awake, asleep in ASLEEP.items():
            shares[[awake, asleep]] = SHARES[awake] / 2
    out: Floats = np.outer(shares, scope) / len(BETS)
    out.flags.writeable = False
    return out
