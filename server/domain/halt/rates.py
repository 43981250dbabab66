"""Placing the bets of judged blocks, with a guess of the controls' rate that no outcome of theirs has touched.

The guess is what the block's sentinels did, shrunk towards what controls did in earlier blocks, shrunk towards 0.15 %.
It steers what is won on a bad release; the bets are valid whatever it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
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
_UPDATED, _SHADOW = int(Arm.UPDATED), int(Arm.SHADOW)
_FAMILY: Final = np.array([0, 1, 2, 3, 3, 3, 4, 4, 4, 5, 6])
"""By process: those that ask controls the same question share what is known of them."""


@dataclass(slots=True)
class Tables:
    """Judged blocks, parallel: ``counts`` and ``silent`` are of shape (blocks, arms, classes); ``d0``: see `bet`."""

    process: Indices
    d0: Floats
    region: Indices
    unsteady: Bools
    counts: npt.NDArray[np.int32]
    silent: npt.NDArray[np.int32]


def stack(tables: Sequence[Tables]) -> Tables:
    """Return one table of all; at least one."""
    return Tables(**{each.name: np.concatenate([getattr(one, each.name) for one in tables]) for each in fields(Tables)})


@dataclass(slots=True)
class Rates:
    """Controls seen and silent, fading over six hours, shape (families, steady or not, 2)."""

    past: Floats = field(default_factory=lambda: np.zeros((int(_FAMILY.max()) + 1, 2, 2)))

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


def place(tables: Tables, wealth: Wealth, rates: Rates, *, beta: float) -> None:
    """Bet on every block in its scopes: the fleet's, its region's, and its hardware classes' each with their own."""
    if not len(tables.process):
        return
    process, classes = tables.process, wealth.classes
    arms = (
        tables.counts[:, _UPDATED],
        tables.silent[:, _UPDATED],
        tables.counts[:, _SHADOW],
        tables.silent[:, _SHADOW],
    )
    parts = np.stack(arms, axis=-1)  # blocks, classes, 4
    whole = parts.sum(axis=1)
    block, hardware = np.nonzero((parts[:, :, 0] > 0) & (parts[:, :, 2] > 0))
    cells = np.concatenate([whole, parts[block, hardware]])
    among = np.concatenate([np.arange(len(process)), block])
    gain = log_e(
        updated=cells[:, 0],
        silent=cells[:, 1],
        controls=cells[:, 2],
        control_silent=cells[:, 3],
        rate=rates.guess(tables)[among],
        beta=beta,
        d0=tables.d0[among],
    )
    scope = np.concatenate([np.zeros_like(process), 1 + hardware])
    region = 1 + classes + tables.region
    for row, column, worth, cell in (
        (process[among], scope, gain, cells),
        (process, region, gain[: len(process)], whole),
    ):
        np.add.at(wealth.log, (row, column), worth)
        np.add.at(wealth.tally, (row, column), cell)
    rates.learn(tables)
