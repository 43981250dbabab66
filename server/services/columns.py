"""What a survey asks of every device at once, as arrays with a row a device; a device reads and writes its own."""

from typing import Any, Final, Generic, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bool, int, float)
D = TypeVar("D", bound=np.generic)

_FIRST: Final = 1
"""Rows of columns that nobody has joined: a device that belongs to no fleet has one of its own."""

ABSENCE_HALF_LIFE_S: Final = 3.5 * 86_400

Rows = npt.NDArray[np.int64]


class Columns:
    """Arrays that grow; ``len`` rows of each are in use. ``vendor``, ``hardware`` and ``running`` are fingerprints."""

    def __init__(self) -> None:
        self._used = 0
        self.last_seen = np.zeros(_FIRST, np.float64)
        self.seen_stored = np.zeros(_FIRST, np.float64)
        self.member_since = np.zeros(_FIRST, np.float64)
        self.admitted_at = np.zeros(_FIRST, np.float64)
        self.revoked_at = np.zeros(_FIRST, np.float64)
        self.absences = np.zeros(_FIRST, np.float64)
        self.absent_at = np.zeros(_FIRST, np.float64)
        self.gone = np.zeros(_FIRST, np.bool_)
        self.held = np.zeros(_FIRST, np.bool_)
        self.has_admit = np.zeros(_FIRST, np.bool_)
        self.drops = np.zeros(_FIRST, np.int64)
        self.wake_interval_s = np.zeros(_FIRST, np.int64)
        self.audience = np.zeros(_FIRST, np.int64)
        self.vendor = np.zeros(_FIRST, np.uint64)
        self.hardware = np.zeros(_FIRST, np.uint64)
        self.running = np.zeros(_FIRST, np.uint64)

    def __len__(self) -> int:
        return self._used

    def join(self) -> int:
        """Return a new row, all zeros."""
        row = self._used
        if row == len(self.last_seen):
            for name, column in list(vars(self).items()):
                if isinstance(column, np.ndarray):
                    setattr(self, name, grown(column, row + 1, fill=0))
        self._used += 1
        return row

    def revoked(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Tell of each row whether its device is shut out until it is enrolled again."""
        return self.revoked_at[rows] >= self.admitted_at[rows]

    def absences_at(self, rows: Rows, now: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return of each row how often its device has been away, each time counting half as much after half a week."""
        return self.absences[rows] * np.exp2((self.absent_at[rows] - now) / ABSENCE_HALF_LIFE_S)


class Cell(Generic[T]):
    """A device's attribute that is kept in its row of the column of that name."""

    _name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, device: None, owner: type) -> Self: ...
    @overload
    def __get__(self, device: Any, owner: type) -> T: ...
    def __get__(self, device: Any, owner: type) -> Self | T:
        if device is None:
            return self
        found: T = getattr(device.columns, self._name).item(device.row)
        return found

    def __set__(self, device: Any, value: T) -> None:
        getattr(device.columns, self._name)[device.row] = value


def grown(column: npt.NDArray[D], rows: int, *, fill: int) -> npt.NDArray[D]:
    """Return a column that has so many rows at least; one that has too few grows by half of what it gets, or more."""
    have = column.shape[-1]
    if have >= rows:
        return column
    more = np.full((*column.shape[:-1], max(rows - have, have)), fill, column.dtype)
    return np.concatenate([column, more], axis=-1)


def fingerprint(name: bytes) -> int:
    """Return the first eight bytes of a digest or a UUID, which tell it from all others in a fleet; 0: there is none.

    Whoever makes two that are equal says no more than a device that claims the other: it is its own word.
    """
    return int.from_bytes(name[:8], "big")
