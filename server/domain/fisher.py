"""The first halt rule: Fisher's exact test of silent updated devices against silent devices not yet updated.

Never threshold an offline rate: compare. Every updated device that has passed its deadline is asked one question,
*heard from at all since its reboot?*, and the devices of the same region above the level, a random sample because
heights are hashes, are asked whether they were heard from over a window of the same length. If the release is
harmless, the silent ones are spread over both groups by chance alone: given the margins of a region's table, the
number of silent updated devices is hypergeometric (Fisher 1935). Regions are strata: their counts are compared only
with their own neighbours, and the sum over regions has the convolution of their distributions (the exact form of
Cochran and Mantel-Haenszel). With one region it is Fisher's test to the letter.

The test is looked at again and again, so every look gets an equal share of the error: at most ``max_looks`` looks at
``alpha / max_looks`` each (Bonferroni). A look is spent only when another updated device has fallen silent since the
last one: anything else can only make the evidence weaker.

Where a region has fewer than ``min_controls`` controls, the whole fleet becomes one stratum; where the fleet has too
few as well, there is nothing to compare with, and a plain guard rail takes over: at least ``rail_silent`` silent
devices that are at least ``rail_ratio`` of those judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import NormalDist
from typing import Final

from server.domain.plan import Policy

_NEGLIGIBLE: Final = 1e-60
_ONE_SIDED_95: Final = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True)
class Table:
    """One stratum's 2 x 2 table: ``silent`` of ``judged`` updated, ``control_silent`` of ``controls`` not updated."""

    region: str
    judged: int
    silent: int
    controls: int
    control_silent: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look concluded. ``p_value`` is None when nothing was tested; ``rule`` names what fired."""

    halt: bool
    rule: str = ""
    p_value: float | None = None
    looks: int = 0


def p_value(tables: Sequence[Table]) -> float:
    """Return P(at least this many silent updated devices | all margins), one-sided; never below 1e-60.

    Raises:
        ValueError: a table has more silent devices than devices.
    """
    least, distribution = 0, [1.0]
    for table in tables:
        lowest, chances = _hypergeometric(table)
        least, distribution = least + lowest, _convolve(distribution, chances)
    total = sum(table.silent for table in tables)
    return min(1.0, max(_NEGLIGIBLE, sum(distribution[max(0, total - least) :])))


def excess_silent(table: Table) -> float:
    """Return how many more updated devices are silent than their neighbours' rate explains, never below 0."""
    if table.controls == 0:
        return float(table.silent)
    return max(0.0, table.silent - table.judged * table.control_silent / table.controls)


def upper_bound(failures: float, trials: int) -> float:
    """Return the one-sided 95 % Wilson bound of a proportion from above (Wilson 1927); 1 where nothing was tried."""
    return 1.0 if trials == 0 else min(1.0, _wilson(failures, trials, _ONE_SIDED_95))


def lower_bound(failures: float, trials: int) -> float:
    """Return the one-sided 95 % Wilson bound of a proportion from below; 0 where nothing was tried."""
    return 0.0 if trials == 0 else max(0.0, _wilson(failures, trials, -_ONE_SIDED_95))


def judge(tables: Sequence[Table], policy: Policy, *, looks: int, seen_silent: int) -> Verdict:
    """Look once at the silence of all regions together.

    Args:
        tables: one for each region of the campaign.
        policy: ``alpha``, ``max_looks``, ``min_judged``, ``min_controls``, ``rail_silent``, ``rail_ratio``.
        looks: looks spent so far.
        seen_silent: silent updated devices at the last look; without a further one no look is spent.
    """
    fleet = merge(tables)
    if fleet.silent == 0:
        return Verdict(halt=False, looks=looks)
    if fleet.controls < policy.min_controls:
        fires = fleet.silent >= policy.rail_silent and fleet.silent >= policy.rail_ratio * fleet.judged
        return Verdict(halt=fires, rule="rail", looks=looks)
    if fleet.judged < policy.min_judged or looks >= policy.max_looks or fleet.silent <= seen_silent:
        return Verdict(halt=False, looks=looks)
    p = p_value(_strata(tables, fleet, policy))
    return Verdict(halt=p <= policy.alpha / policy.max_looks, rule="silence", p_value=p, looks=looks + 1)


def merge(tables: Sequence[Table]) -> Table:
    """Return the whole fleet's table, named after the region with the most silent updated devices."""
    return Table(
        region=max(tables, key=lambda table: table.silent).region if tables else "",
        judged=sum(table.judged for table in tables),
        silent=sum(table.silent for table in tables),
        controls=sum(table.controls for table in tables),
        control_silent=sum(table.control_silent for table in tables),
    )


def _strata(tables: Sequence[Table], fleet: Table, policy: Policy) -> Sequence[Table]:
    """Regions are strata while each has controls enough of its own; else the fleet is one, so none is counted twice."""
    judged = [table for table in tables if table.judged]
    if all(table.controls >= policy.min_controls for table in judged):
        return judged
    return [fleet]


def _hypergeometric(table: Table) -> tuple[int, list[float]]:
    """Return (a, [P(X = a), P(X = a + 1), ..]): how many of the stratum's silent devices chance puts among its updated.

    Each probability comes from its neighbour's by their exact ratio, beginning at the mode; what is less likely than
    ``_NEGLIGIBLE`` times the mode is left out, so that the work grows with the spread and not with the fleet.
    """
    if not (0 <= table.silent <= table.judged and 0 <= table.control_silent <= table.controls):
        raise ValueError("A table has more silent devices than devices.")
    updated, silent = table.judged, table.silent + table.control_silent
    spare = (
        table.judged + table.controls - silent - updated
    )  # controls that are heard from when no updated one is silent
    mode = (updated + 1) * (silent + 1) // (table.judged + table.controls + 2)
    below: list[float] = []
    weight, x = 1.0, mode
    while x > max(0, -spare) and weight > _NEGLIGIBLE:
        weight *= x * (spare + x) / ((silent - x + 1) * (updated - x + 1))
        x -= 1
        below.append(weight)
    above = [1.0]
    weight, x = 1.0, mode
    while x < min(silent, updated) and weight > _NEGLIGIBLE:
        weight *= (silent - x) * (updated - x) / ((x + 1) * (spare + x + 1))
        x += 1
        above.append(weight)
    weights = [*reversed(below), *above]
    whole = fsum(weights)
    return mode - len(below), [weight / whole for weight in weights]


def _convolve(a: list[float], b: list[float]) -> list[float]:
    out = [0.0] * (len(a) + len(b) - 1)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            out[i + j] += p * q
    return out


def _wilson(failures: float, trials: int, z: float) -> float:
    share = failures / trials
    centre = share + z * z / (2 * trials)
    spread = z * sqrt((max(0.0, share * (1 - share)) + z * z / (4 * trials)) / trials)
    return (centre + spread) / (1 + z * z / trials)
