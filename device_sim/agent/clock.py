"""The monotonic clock that a device's agent goes by: the event loop's, unless a simulator has another one."""

import asyncio
from typing import Protocol


class Clock(Protocol):
    """Seconds since some moment of this boot or before it; they never go back within a boot."""

    def now(self) -> float: ...

    def seconds_until(self, at: float) -> float:
        """Return in how many real seconds it will say ``at``; not negative."""


class LoopClock:
    """The running event loop's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        return self._loop.time()

    def seconds_until(self, at: float) -> float:
        return max(0.0, at - self._loop.time())
