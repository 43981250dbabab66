"""The bet on one block: the check values of its derivation, and fairness under the null."""

from itertools import product
from math import comb

import numpy as np
import pytest
from scipy.stats import binom

from server.domain.halt.bet import BETS, log_e, log_e_single

BETA, D0 = 1.25, 0.001


def _log_e(updated, silent, controls, control_silent, rate):
    return log_e(
        updated=updated,
        silent=silent,
        controls=controls,
        control_silent=control_silent,
        rate=rate,
        beta=BETA,
        d0=D0,
    )


@pytest.mark.parametrize(
    ("block", "expected", "mean"),
    [
        ((10, 2, 500, 0, 0.0015), (1.2622, 3.3228, 5.1950, 6.6372, 4.2547), 209),
        ((10, 0, 500, 0, 0.0015), (-0.0089, -0.0442, -0.1395, -0.5006, -5.3225), 0.686),
        ((10, 3, 500, 5, 0.0015), (1.7858, 4.4342, 5.9431, 4.3326, -2.3566), 109.5),
        ((200, 3, 4000, 4, 0.001), (1.7558, 2.9040, 0.9758, -7.5104, -102.58), 5.34),
        ((1000, 60, 10000, 500, 0.05), (0.0000, -0.0432, -7.7743, -90.757, -721.25), 0.392),
    ],
)
def test_the_bets_of_known_blocks_come_out_as_derived(block, expected, mean) -> None:
    found = _log_e(*block)[0]

    assert np.allclose(found, expected, rtol=1e-4, atol=6e-5)
    assert np.exp(found).mean() == pytest.approx(mean, rel=3e-3)


@pytest.mark.parametrize("updated", [1, 3, 6])
@pytest.mark.parametrize("controls", [1, 4, 9])
@pytest.mark.parametrize("q", [0.0, 0.0005, 0.01, 0.3, 0.7])
@pytest.mark.parametrize("rate", [1e-6, 0.0015, 0.1])
def test_no_bet_is_worth_more_than_its_stake_at_the_edge_of_the_null(updated, controls, q, rate) -> None:
    p = BETA * q + D0
    outcomes = np.array(list(product(range(updated + 1), range(controls + 1))))
    x_t, x_c = outcomes[:, 0], outcomes[:, 1]
    chance = np.array([_binomial(updated, a, p) * _binomial(controls, b, q) for a, b in outcomes])

    worth = np.exp(_log_e(updated, x_t, controls, x_c, rate))

    assert chance.sum() == pytest.approx(1)
    assert ((chance[:, None] * worth).sum(axis=0) <= 1 + 1e-9).all()


@pytest.mark.parametrize("q", [0.0005, 0.01, 0.3])
def test_a_block_of_usual_size_is_worth_less_than_its_stake_at_the_edge_of_the_null(q) -> None:
    silent, control_silent = np.divmod(np.arange(21 * 201), 201)
    chance = binom.pmf(silent, 20, BETA * q + D0) * binom.pmf(control_silent, 200, q)

    worth = np.exp(_log_e(20, silent, 200, control_silent, q))

    assert ((chance[:, None] * worth).sum(axis=0) <= 1 + 1e-9).all()


@pytest.mark.parametrize(("q", "about"), [(0.0005, 0.74), (0.01, 0.77)])
def test_drawn_at_random_blocks_at_the_edge_of_the_null_lose_on_average(q, about) -> None:
    rng = np.random.default_rng(7)
    silent, control_silent = rng.binomial(20, BETA * q + D0, 200_000), rng.binomial(200, q, 200_000)

    worth = np.exp(_log_e(20, silent, 200, control_silent, q)).mean()

    assert worth == pytest.approx(about, abs=0.06)


def test_a_side_without_devices_is_no_bet() -> None:
    assert (_log_e([0, 5], [0, 5], [9, 0], [0, 0], [0.01, 0.01]) == 0).all()


def test_a_bet_on_one_group_is_fair_at_the_edge_of_its_null() -> None:
    chance = np.array([_binomial(12, hits, 0.02) for hits in range(13)])
    worth = np.array([np.exp(log_e_single(trials=12, hits=hits, rate=0.02)) for hits in range(13)])

    assert (chance[:, None] * worth).sum(axis=0) == pytest.approx(np.ones(len(BETS)))


def _binomial(n: int, k: int, p: float) -> float:
    return comb(n, k) * p**k * (1 - p) ** (n - k)
