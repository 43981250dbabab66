"""Blocks, and the trials in them that are still open.

A block is what one bet is made on: updated devices of one region and steadiness that entered together, their shadows,
and a sample of sentinels that only guess the rate. A trial asks one question: *heard from at or after ``since``, by
the block's deadline?* Once the answer is yes it stays yes, so such a trial is struck off at once and only counted; what
is left open is what is silent so far, and that is all that has to be kept.
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
    "unsteady",
    "is_compared",
    "is_local",
    "is_first_done",
    "began",
    "clock",
    "counts",
)


@dataclass(slots=True)
class Ledger:
    """Blocks (one row each, ``number`` ascending) and open trials (one entry each), as parallel arrays.

    ``counts`` are the devices of each block by arm and hardware class. ``clock`` is the region's good-weather clock at
    the block's last entry, ``began`` the time of its first. ``is_compared`` is false where there is nothing to bet on,
    ``is_local`` where the block's devices are of several regions.
    """

    classes: int
    next_number: int = 0
    number: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    kind: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    age: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    region: npt.NDArray[np.int16] = field(default_factory=lambda: np.empty(0, np.int16))
    unsteady: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    is_compared: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    is_local: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
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

    def open_block(
        self,
        kind: Kind,
        *,
        region: int,
        unsteady: bool,
        now: float,
        clock: float,
        is_compared: bool,
        age: int = 0,
        is_local: bool = True,
    ) -> int:
        """Add an empty block and return its number."""
        number = self.next_number
        self.next_number += 1
        self.number = np.append(self.number, np.int64(number))
        self.kind = np.append(self.kind, np.int8(kind))
        self.age = np.append(self.age, np.int8(age))
        self.region = np.append(self.region, np.int16(region))
        self.unsteady = np.append(self.unsteady, np.bool_(unsteady))
        self.is_compared = np.append(self.is_compared, np.bool_(is_compared))
        self.is_local = np.append(self.is_local, np.bool_(is_local))
        self.is_first_done = np.append(self.is_first_done, np.bool_(False))
        self.began = np.append(self.began, now)
        self.clock = np.append(self.clock, clock)
        self.counts = np.concatenate([self.counts, np.zeros((1, ARMS, self.classes), np.int32)])
        return number

    def young_block(
        self, kind: Kind, *, region: int, unsteady: bool, is_compared: bool, newer_than: float
    ) -> int | None:
        """Return the number of the block that still takes such devices, if there is one."""
        fits = (self.kind == kind) & (self.region == region) & (self.unsteady == unsteady)
        rows = np.flatnonzero(fits & (self.is_compared == is_compared) & (self.began > newer_than))
        return int(self.number[rows[-1]]) if len(rows) else None

    def enter(
        self, block: int, arm: Arm, devices: Indices, hardware: npt.NDArray[np.int16], *, since: float, clock: float
    ) -> None:
        """Open a trial for each of ``devices`` (of ``hardware``): silent until heard from at or after ``since``."""
        row = int(np.searchsorted(self.number, block))
        self.counts[row, arm] += np.bincount(hardware, minlength=self.classes).astype(np.int32)
        self.clock[row] = clock
        self.add_open(block, arm, devices, since=since)

    def add_open(self, block: int, arm: Arm, devices: Indices, *, since: float) -> None:
        """Open trials without counting their devices: the caller has counted them."""
        many = len(devices)
        self.device = np.concatenate([self.device, devices.astype(np.int32)])
        self.block = np.concatenate([self.block, np.full(many, block, np.int64)])
        self.arm = np.concatenate([self.arm, np.full(many, arm, np.int8)])
        self.since = np.concatenate([self.since, np.full(many, since)])

    def settle(self, last_seen: Floats) -> None:
        """Strike off every trial whose device has been heard from."""
        if len(self.device):
            self.keep(last_seen[self.device] < self.since)

    def withdraw(self, leaves: Bools, hardware: npt.NDArray[np.int16]) -> None:
        """Take trials (mask over the open ones) out of their blocks, counts included."""
        if not leaves.any():
            return
        rows = np.searchsorted(self.number, self.block[leaves])
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
        at = place[np.searchsorted(self.number, self.block)]
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
        self.keep(stays[np.searchsorted(self.number, self.block)])
        for name in _COLUMNS:
            setattr(self, name, getattr(self, name)[stays])
