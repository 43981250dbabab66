"""The fleet's time in a run with sockets: so many times faster than the clock, from when the fleet has come up."""

import asyncio
from collections.abc import Callable
from typing import Final

_LONG_BEFORE_S: Final = 1e7


class FleetClock:
    """Seconds of the fleet, on the running event loop. Until ``begin`` they are far below zero."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time() + _LONG_BEFORE_S

    def begin(self) -> None:
        """It is zero now."""
        self._began_at = self._loop.time()

    @property
    def now(self) -> float:
        """Seconds since the fleet has come up."""
        return (self._loop.time() - self._began_at) * self.speed

    def real_s(self, fleet_s: float) -> float:
        """Return how long so many seconds of the fleet take."""
        return fleet_s / self.speed

    def call_at(self, fleet_s: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        """Call ``act`` at a time of the fleet."""
        return self._loop.call_at(self._began_at + fleet_s / self.speed, act)

    def call_later(self, fleet_s: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        """Call ``act`` after so many seconds of the fleet."""
        return self._loop.call_later(fleet_s / self.speed, act)

    async def until(self, fleet_s: float) -> None:
        """Return at a time of the fleet."""
        await asyncio.sleep(max(0.0, (fleet_s - self.now) / self.speed))
