"""The bet on one block: updated devices of one region, class and minute against their shadows.

The null: over the block, the mean chance of silence of the updated devices is at most ``beta`` times their shadows'
plus ``d0``. The e-value below has an expectation of at most 1 under it, whatever the shadows' chances are (two-stream
e-variables for convex nulls: Turner, Ly and Grunwald 2021; stratified: Turner and Grunwald 2023). For any x in (0, 1)
and s >= 0, with a0 = beta x + d0 and u = beta (nT / nC) s:

    E = (1 + s (1 - a0))^xT (1 - s a0)^(nT - xT) * (1 - u (1 - x))^xC (1 + u x)^(nC - xC)

Take logarithms and ln(1 + z) <= z: the expectation of ln-linear terms sums to s nT (pT - beta pC - d0) <= 0. So ``x``
and ``s`` decide only how much is won when the release is bad; they come from ``c``, a guess of the shadows' rate that
must not depend on the outcomes that are bet on.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from server.domain.halt.view import Floats

BETS: Final = (0.004, 0.015, 0.05, 0.2, 0.7)
"""Alternatives: so much of what is not silent anyway is made silent by the release."""

_NEWTON_STEPS: Final = 2
_MOST_STAKE: Final = 1 - 1e-9
_LEAST_RATE: Final = 1e-6


def log_e(
    *,
    updated: npt.ArrayLike,
    silent: npt.ArrayLike,
    controls: npt.ArrayLike,
    control_silent: npt.ArrayLike,
    rate: npt.ArrayLike,
    beta: float,
    d0: npt.ArrayLike,
) -> Floats:
    """Return ln E of each block for each of ``BETS``, shape (blocks, bets); 0 where a side has no devices.

    Args:
        updated: nT, shape blocks, as the next three.
        silent: xT of them.
        controls: nC.
        control_silent: xC of them.
        rate: c, 0..1: the controls' expected rate of silence, known before their outcomes.
        beta: tolerated ratio.
        d0: tolerated on top, 0..1; one for all blocks or one for each.
    """
    n_t = np.atleast_1d(np.asarray(updated, np.float64))[:, None]
    x_t = np.atleast_1d(np.asarray(silent, np.float64))[:, None]
    n_c = np.atleast_1d(np.asarray(controls, np.float64))[:, None]
    x_c = np.atleast_1d(np.asarray(control_silent, np.float64))[:, None]
    c = np.clip(np.atleast_1d(np.asarray(rate, np.float64)), _LEAST_RATE, 0.5)[:, None]
    extra = np.atleast_1d(np.asarray(d0, np.float64))[:, None]
    plays = (n_t > 0) & (n_c > 0)
    n_t, n_c = np.where(plays, n_t, 1.0), np.where(plays, n_c, 1.0)
    a = c + np.asarray(BETS) * (1 - c)
    x = _control_rate(n_t, n_c, c, a, beta=beta, d0=extra)
    a0 = beta * x + extra
    s = np.maximum(a - a0, 0) / (a0 * (1 - a0))
    s = np.minimum(s, _MOST_STAKE / a0)
    s = np.minimum(s, _MOST_STAKE * n_c / (beta * n_t * (1 - x)))
    u = beta * n_t / n_c * s
    log = (
        x_t * np.log1p(s * (1 - a0))
        + (n_t - x_t) * np.log1p(-s * a0)
        + x_c * np.log1p(-u * (1 - x))
        + (n_c - x_c) * np.log1p(u * x)
    )
    out: Floats = np.where(plays, log, 0.0)
    return out


def log_e_single(*, trials: int, hits: int, rate: float) -> Floats:
    """Return ln E of ``hits`` of ``trials`` for each of ``BETS``, where the chance is at most ``rate`` (0..1)."""
    a = rate + np.asarray(BETS) * (1 - rate)
    out: Floats = hits * np.log(a / rate) + (trials - hits) * np.log((1 - a) / (1 - rate))
    return out


def _control_rate(n_t: Floats, n_c: Floats, c: Floats, a: Floats, *, beta: float, d0: Floats) -> Floats:
    """Return x: the rate at the null's edge that explains ``a`` and ``c`` best, so that the bet pays most."""
    top = beta * (beta * n_t + n_c)
    middle = d0 * (beta * n_t + n_c) - n_t * beta * a - n_c * c * beta
    x = (-middle + np.sqrt(middle * middle + 4 * top * n_c * c * d0)) / (2 * top)
    highest = np.maximum((a - d0) / beta, _LEAST_RATE)
    for _ in range(_NEWTON_STEPS):
        x = np.clip(x, np.minimum(c, highest), highest)
        a0 = beta * x + d0
        f = n_t * beta * (a - a0) / (a0 * (1 - a0)) + n_c * (c - x) / (x * (1 - x))
        slope = -n_t * beta * beta * _slope(a, a0) - n_c * _slope(c, x)
        x = x - f / slope
    out: Floats = np.clip(x, np.minimum(c, highest), highest)
    return out


def _slope(goal: Floats, at: Floats) -> Floats:
    """Return minus the derivative of (goal - z) / (z (1 - z)) at z = ``at``."""
    spread = at * (1 - at)
    out: Floats = (spread + (goal - at) * (1 - 2 * at)) / (spread * spread)
    return out
