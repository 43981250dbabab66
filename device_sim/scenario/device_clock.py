"""What a device's own clock says when it runs fast or slowly, jumps, or knows nothing at each boot (pure)."""

from collections.abc import Sequence
from typing import Final

from device_sim.scenario.faults import Jump, NoClock, Skew, TimedFault

OF_THE_CLOCK: Final = (Skew, Jump, NoClock)
"""The faults that are carried out here."""


class DeviceClock:
    """One device's clock, in seconds of the fleet, as a function of the fleet's time."""

    def __init__(self, faults: Sequence[TimedFault]) -> None:
        self._faults = tuple(fault for fault in faults if isinstance(fault, OF_THE_CLOCK))
        self._booted_at: float | None = None

    @property
    def is_true(self) -> bool:
        """Whether it never differs from the fleet's time."""
        return not self._faults

    def boot(self, at: float) -> None:
        """The device boots: a clock that nobody keeps going begins at zero."""
        knows_nothing = any(isinstance(fault, NoClock) and fault.at <= at < fault.until for fault in self._faults)
        self._booted_at = self._ungrounded(at) if knows_nothing else None

    def reading(self, at: float) -> float:
        """Return what it says at a time of the fleet."""
        return self._ungrounded(at) - (self._booted_at or 0.0)

    def rate(self, at: float) -> float:
        """Return how many of its seconds go into one second of the fleet."""
        rate = 1.0
        for fault in self._faults:
            if isinstance(fault, Skew) and fault.at <= at < fault.until:
                rate += fault.rate - 1
        return rate

    def _ungrounded(self, at: float) -> float:
        reading = at
        for fault in self._faults:
            if isinstance(fault, Skew) and at > fault.at:
                reading += (min(at, fault.until) - fault.at) * (fault.rate - 1)
            elif isinstance(fault, Jump) and at >= fault.at:
                reading += fault.by
        return reading
