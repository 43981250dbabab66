"""One-sided 95 % bounds of a proportion (Wilson 1927): what a gate asks of the failures it has seen."""

from math import sqrt
from statistics import NormalDist
from typing import Final

_ONE_SIDED_95: Final = NormalDist().inv_cdf(0.95)


def upper(failures: float, trials: int) -> float:
    """Return the bound from above; 1 where nothing was tried."""
    return 1.0 if trials == 0 else min(1.0, _wilson(failures, trials, _ONE_SIDED_95))


def lower(failures: float, trials: int) -> float:
    """Return the bound from below; 0 where nothing was tried."""
    return 0.0 if trials == 0 else max(0.0, _wilson(failures, trials, -_ONE_SIDED_95))


def _wilson(failures: float, trials: int, z: float) -> float:
    share = failures / trials
    centre = share + z * z / (2 * trials)
    spread = z * sqrt((max(0.0, share * (1 - share)) + z * z / (4 * trials)) / trials)
    return (centre + spread) / (1 + z * z / trials)
