"""Placing the bets of judged blocks, with a guess of the controls' rate that no outcome of theirs has touched.

The guess is what the block's sentinels did, shrunk towards what controls did in earlier blocks, shrunk towards 0.15 %.
It steers what is won on a bad release; the bets are valid whatever it is.
"""

from dataclasses import dataclass, field
from math import exp
from typing import Final

import numpy as np
import numpy.typing as npt

from server.domain.halt.bet import log_e
from server.domain.halt.ledger import Arm
from server.domain.halt.view import Bools, Floats, Indices
from server.domain.halt.wealth import Wealth

_PRIOR_SILENT: Final = 0.3
_PRIOR_DEVICES: Final = 200.0
_MEMORY_S: Final = 21_600.0
_FAMILY: Final = np.array([0, 1, 2, 3, 3, 3, 4, 4, 4])
"""By process: those that ask controls the same question share what is known of them."""


@dataclass(slots=True)
class Tables:
    """Judged blocks, parallel: ``region`` (-1: several), ``unsteady``, and ``counts`` and ``silent`` of each
    (shape blocks, arms, classes).
    """

    process: Indices
    region: Indices
    unsteady: Bools
    counts: npt.NDArray[np.int32]
    silent: npt.NDArray[np.int32]


@dataclass(slots=True)
class Rates:
    """Controls seen and silent, fading over six hours, shape (families, steady or not, 2)."""

    past: Floats = field(default_factory=lambda: np.zeros((5, 2, 2)))

    def fade(self, elapsed_s: float) -> None:
        """Let what is known grow older."""
        self.past *= exp(-elapsed_s / _MEMORY_S)

    def guess(self, tables: Tables) -> Floats:
        """Return the expected rate of silence of each block's controls."""
        past = self.past[_FAMILY[tables.process], tables.unsteady.astype(np.int64)]
        usual = (past[:, 1] + _PRIOR_SILENT) / (past[:, 0] + _PRIOR_DEVICES)
        watched = tables.counts[:, Arm.SENTINEL].sum(axis=1)
        dark = tables.silent[:, Arm.SENTINEL].sum(axis=1)
        out: Floats = (dark + _PRIOR_DEVICES * usual) / (watched + _PRIOR_DEVICES)
        return out

    def learn(self, tables: Tables) -> None:
        """Remember what the controls did; only after the bets on them."""
        family, steadiness = _FAMILY[tables.process], tables.unsteady.astype(np.int64)
        seen = [tables.counts[:, Arm.SHADOW].sum(axis=1), tables.silent[:, Arm.SHADOW].sum(axis=1)]
        np.add.at(self.past, (family, steadiness), np.stack(seen, axis=1))


def place(tables: Tables, wealth: Wealth, rates: Rates, *, beta: float, d0: float) -> None:
    """Bet on every block in its scopes: the fleet's, its region's, and its hardware classes' each with their own."""
    if not len(tables.process):
        return
    rate = rates.guess(tables)
    process, classes = tables.process, wealth.classes
    updated, controls = tables.counts[:, Arm.UPDATED], tables.counts[:, Arm.SHADOW]
    silent, control_silent = tables.silent[:, Arm.UPDATED], tables.silent[:, Arm.SHADOW]
    whole = log_e(
        updated=updated.sum(axis=1),
        silent=silent.sum(axis=1),
        controls=controls.sum(axis=1),
        control_silent=control_silent.sum(axis=1),
        rate=rate,
        beta=beta,
        d0=d0,
    )
    cells = np.stack([updated, silent, controls, control_silent], axis=-1)
    local = tables.region >= 0
    at_region = 1 + classes + tables.region[local]
    for row_process, row_scope, gain, cell in (
        (process, np.zeros_like(process), whole, cells.sum(axis=1)),
        (process[local], at_region, whole[local], cells.sum(axis=1)[local]),
    ):
        np.add.at(wealth.log, (row_process, row_scope), gain)
        np.add.at(wealth.tally, (row_process, row_scope), cell)
    parts = log_e(
        updated=updated.ravel(),
        silent=silent.ravel(),
        controls=controls.ravel(),
        control_silent=control_silent.ravel(),
        rate=np.repeat(rate, classes),
        beta=beta,
        d0=d0,
    )
    each = np.repeat(process, classes)
    scope = np.tile(np.arange(1, 1 + classes), len(process))
    np.add.at(wealth.log, (each, scope), parts)
    np.add.at(wealth.tally, (each, scope), np.where(updated[..., None] > 0, cells, 0).reshape(-1, 4))
    rates.learn(tables)
