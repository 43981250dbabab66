"""What a survey asks of every device at once, as arrays with a row a device; a device reads and writes its own."""

from typing import Any, Final, Generic, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bool, int, float)

_FIRST: Final = 1
"""Rows of columns that nobody has joined: a device that belongs to no fleet has one of its own."""

_KINDS: Final = {
    "last_seen": np.float64,
    "seen_stored": np.float64,
    "member_since": np.float64,
    "admitted_at": np.float64,
    "revoked_at": np.float64,
    "absences": np.float64,
    "absent_at": np.float64,
    "gone": np.bool_,
    "held": np.bool_,
    "has_admit": np.bool_,
    "drops": np.int64,
    "wake_interval_s": np.int64,
    "audience": np.int64,
    "vendor": np.uint64,
    "hardware": np.uint64,
    "running": np.uint64,
}

Rows = npt.NDArray[np.int64]


class Columns:
    """Arrays that grow; ``len`` rows of each are in use. ``vendor``, ``hardware`` and ``running`` are fingerprints."""

    last_seen: npt.NDArray[np.float64]
    seen_stored: npt.NDArray[np.float64]
    member_since: npt.NDArray[np.float64]
    admitted_at: npt.NDArray[np.float64]
    revoked_at: npt.NDArray[np.float64]
    absences: npt.NDArray[np.float64]
    absent_at: npt.NDArray[np.float64]
    gone: npt.NDArray[np.bool_]
    held: npt.NDArray[np.bool_]
    has_admit: npt.NDArray[np.bool_]
    drops: npt.NDArray[np.int64]
    wake_interval_s: npt.NDArray[np.int64]
    audience: npt.NDArray[np.int64]
    vendor: npt.NDArray[np.uint64]
    hardware: npt.NDArray[np.uint64]
    running: npt.NDArray[np.uint64]

    def __init__(self) -> None:
        self._used = 0
        for name, kind in _KINDS.items():
            setattr(self, name, np.zeros(_FIRST, kind))

    def __len__(self) -> int:
        return self._used

    def join(self) -> int:
        """Return a new row, all zeros."""
        row = self._used
        if row == len(self.last_seen):
            for name in _KINDS:
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        self._used += 1
        return row

    def revoked(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Tell of each row whether its device is shut out until it is enrolled again."""
        return self.revoked_at[rows] >= self.admitted_at[rows]

    def absences_at(self, rows: Rows, now: npt.NDArray[np.float64], half_life_s: float) -> npt.NDArray[np.float64]:
        """Return of each row how often its device has been away, each time counting half as much after so long."""
        return self.absences[rows] * np.exp2((self.absent_at[rows] - now) / half_life_s)


class Cell(Generic[T]):
    """A device's attribute that is kept in its row of the column of that name."""

    _name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        assert name in _KINDS
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


def fingerprint(name: bytes) -> int:
    """Return the first eight bytes of a digest or a UUID, which tell it from all others in a fleet; 0: there is none.

    Whoever makes two that are equal says no more than a device that claims the other: it is its own word.
    """
    return int.from_bytes(name[:8], "big")
