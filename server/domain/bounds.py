"""What a gate asks of the failures it has seen: excess silence, and one-sided 95 % bounds of a share (Wilson 1927)."""

from math import exp, lgamma, log, sqrt
from statistics import NormalDist
from typing import Final

_ONE_SIDED_95: Final = NormalDist().inv_cdf(0.95)
_ONCE_IN_A_HUNDRED: Final = 0.01
_NEGLIGIBLE: Final = 1e-9


def upper(failures: float, trials: int) -> float:
    """Return the bound from above; 1 where nothing was tried."""
    return 1.0 if trials == 0 else min(1.0, _wilson(failures, trials, _ONE_SIDED_95))


def lower(failures: float, trials: int) -> float:
    """Return the bound from below; 0 where nothing was tried."""
    return 0.0 if trials == 0 else max(0.0, _wilson(failures, trials, -_ONE_SIDED_95))


def excess(*, silent: int, judged: int, controls: int, control_silent: int) -> float:
    """Return how many of the silent, of so many judged, their neighbours' rate does not explain; never below 0."""
    if controls == 0:
        return float(silent)
    return max(0.0, silent - judged * control_silent / controls)


def is_luck(seen: int, expected: float) -> bool:
    """Tell whether at least ``seen`` are no rarer than once in a hundred times where so many are expected (Poisson)."""
    if seen <= expected:
        return True  # what is expected, or less, comes about every second time
    if expected <= 0:
        return False
    # From the first term of the tail on, whose logarithm is at hand also where exp(-expected) is 0.
    term = tail = exp(seen * log(expected) - expected - lgamma(seen + 1))
    number = seen
    while term > _NEGLIGIBLE:
        number += 1
        term *= expected / number
        tail += term
    return tail >= _ONCE_IN_A_HUNDRED


def _wilson(failures: float, trials: int, z: float) -> float:
    share = failures / trials
    centre = share + z * z / (2 * trials)
    spread = z * sqrt((max(0.0, share * (1 - share)) + z * z / (4 * trials)) / trials)
    return (centre + spread) / (1 + z * z / trials)
