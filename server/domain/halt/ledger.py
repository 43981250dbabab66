"""Blocks, and the trials in them that are still open.

A block is what one bet is made on: updated devices of one region and rhythm (`shadows`) that entered together, their
shadows, and a sample of sentinels that only guess the rate. A trial asks one question: *heard from at or after
``since``, by the block's deadline?* Once the answer is yes it stays yes, so such a trial is struck off at once and only
counted; what is left open is what is silent so far, and that is all that has to be kept.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from server.domain.halt.view import Bools, Floats, Indices


class Kind(IntEnum):
    """What a block's devices went through."""

    REBOOT = 0
    STALL = 1
    STAY = 2


class Arm(IntEnum):
    """Whom a trial is about."""

    UPDATED = 0
    SHADOW = 1
    SENTINEL = 2


ARMS: Final = len(Arm)
_COLUMNS: Final = (
    "number",
    "kind",
    "age",
    "region",
    "rhythm",
    "is_compared",
    "is_first_done",
    "began",
    "clock",
    "counts",
)


@dataclass(slots=True)
class Ledger:
    """Blocks (one row each, ``number`` ascending) and open trials (one entry each), as parallel arrays.

    ``counts`` are the devices of each block by arm and hardware class. ``clock`` is what the region's good-weather
    clock says when the block's deadline begins to run: at its last entry, or so much later as its devices sleep.
    ``began`` is the time of its first. ``is_compared`` is false where there is nothing to bet on.
    """

    classes: int
    next_number: int = 0
    number: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    kind: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    age: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    region: npt.NDArray[np.int16] = field(default_factory=lambda: np.empty(0, np.int16))
    rhythm: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    is_compared: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    is_first_done: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    began: Floats = field(default_factory=lambda: np.empty(0))
    clock: Floats = field(default_factory=lambda: np.empty(0))
    counts: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty((0, ARMS, 0), np.int32))
    device: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    block: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    arm: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    since: Floats = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if self.counts.shape[2] < self.classes:
            spare = self.classes - self.counts.shape[2]
            self.counts = np.pad(self.counts, ((0, 0), (0, 0), (0, spare)))

    def grow(self, classes: int) -> None:
        """Make room for hardware classes that have appeared since."""
        self.classes = classes
        self.__post_init__()

    def open_blocks(
        self,
        kind: Kind,
        *,
        region: npt.ArrayLike,
        rhythm: npt.ArrayLike,
        is_compared: npt.ArrayLike,
        clock: npt.ArrayLike,
        now: float,
        age: int = 0,
    ) -> Indices:
        """Add empty blocks (``region`` to ``clock``: one value each) and return their numbers."""
        regions = np.asarray(region, np.int16)
        many = len(regions)
        numbers = np.arange(self.next_number, self.next_number + many, dtype=np.int64)
        self.next_number += many
        new = {
            "number": numbers,
            "kind": np.full(many, kind, np.int8),
            "age": np.full(many, age, np.int8),
            "region": regions,
            "rhythm": np.asarray(rhythm, np.int8),
            "is_compared": np.asarray(is_compared, np.bool_),
            "is_first_done": np.zeros(many, np.bool_),
            "began": np.full(many, now),
            "clock": np.asarray(clock, np.float64),
            "counts": np.zeros((many, ARMS, self.classes), np.int32),
        }
        for name in _COLUMNS:
            setattr(self, name, np.concatenate([getattr(self, name), new[name]]))
        return numbers

    def young_blocks(self, kind: Kind, newer_than: float) -> dict[tuple[int, int, bool], int]:
        """Return the blocks that still take devices, by region, rhythm, and whether they are compared."""
        rows = np.flatnonzero((self.kind == int(kind)) & (self.began > newer_than))
        keys = zip(self.region[rows].tolist(), self.rhythm[rows].tolist(), self.is_compared[rows].tolist(), strict=True)
        return dict(zip(keys, self.number[rows].tolist(), strict=True))

    def enter(
        self,
        block: Indices,
        arm: npt.NDArray[np.int8],
        device: Indices,
        hardware: npt.NDArray[np.int16],
        since: float | Floats,
    ) -> None:
        """Open a trial for each of ``device`` (of ``hardware``): silent until heard from at or after ``since``."""
        np.add.at(self.counts, (self.rows(block), arm, hardware), np.int32(1))
        self.add_open(block, arm, device, since)

    def add_open(self, block: Indices, arm: npt.NDArray[np.int8], device: Indices, since: float | Floats) -> None:
        """Open trials without counting their devices: the caller has counted them."""
        self.device = np.concatenate([self.device, device.astype(np.int32)])
        self.block = np.concatenate([self.block, block])
        self.arm = np.concatenate([self.arm, arm])
        self.since = np.concatenate([self.since, np.full(len(device), since)])

    def rows(self, block: Indices) -> Indices:
        """Return the rows of these block numbers."""
        if not len(block):
            return np.empty(0, np.int64)
        first = int(self.number[0])
        row_of = np.zeros(self.next_number - first, np.int64)
        row_of[self.number - first] = np.arange(len(self.number))
        out: Indices = row_of[block - first]
        return out

    def belongs(self, block: Indices, rows: Indices) -> Bools:
        """Return which of these block numbers are those of ``rows`` (mask)."""
        chosen = np.zeros(len(self.number), np.bool_)
        chosen[rows] = True
        out: Bools = chosen[self.rows(block)]
        return out

    def settle(self, last_seen: Floats) -> None:
        """Strike off every trial whose device has been heard from."""
        if len(self.device):
            self.keep(last_seen[self.device] < self.since)

    def withdraw(self, leaves: Bools, hardware: npt.NDArray[np.int16]) -> None:
        """Take trials (mask over the open ones) out of their blocks, counts included."""
        if not leaves.any():
            return
        rows = self.rows(self.block[leaves])
        np.subtract.at(self.counts, (rows, self.arm[leaves], hardware[self.device[leaves]]), np.int32(1))
        self.keep(~leaves)

    def keep(self, stays: Bools) -> None:
        """Keep only these of the open trials (mask)."""
        if not stays.all():
            self.device, self.block = self.device[stays], self.block[stays]
            self.arm, self.since = self.arm[stays], self.since[stays]

    def silent(self, rows: Indices, hardware: npt.NDArray[np.int16]) -> npt.NDArray[np.int32]:
        """Return how many trials of these blocks are still open: shape (rows, arms, classes)."""
        place = np.full(len(self.number), -1, np.int64)
        place[rows] = np.arange(len(rows))
        at = place[self.rows(self.block)]
        mine = at >= 0
        out = np.zeros((len(rows), ARMS, self.classes), np.int32)
        np.add.at(out, (at[mine], self.arm[mine], hardware[self.device[mine]]), np.int32(1))
        return out

    def close(self, rows: Indices) -> None:
        """Forget these blocks and their trials."""
        if not len(rows):
            return
        stays = np.ones(len(self.number), np.bool_)
        stays[rows] = False
        self.keep(stays[self.rows(self.block)])
        for name in _COLUMNS:
            setattr(self, name, getattr(self, name)[stays])
