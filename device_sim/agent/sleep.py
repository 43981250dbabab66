"""When a device that sleeps goes to sleep, and when it wakes again."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

_LOOKS: Final = 8
_EARLY: Final = 0.2
"""It wakes up to such a part of its interval early, by chance: devices that began together drift apart."""


class Sleep:
    """Of one boot. ``awake_s``: how long it stays awake with nothing to do; None: it never goes to sleep by itself."""

    def __init__(self, *, wake_interval_s: int | None, awake_s: float | None) -> None:
        self._interval_s = wake_interval_s
        self._awake_s = awake_s
        self._loop = asyncio.get_running_loop()
        self._woke_at = self._loop.time()

    async def come(self, is_idle: Callable[[], bool]) -> None:
        """Return when there has been nothing to do for a while; never, if it does not sleep."""
        if self._awake_s is None or self._interval_s is None:
            await self._loop.create_future()
            return
        idle_looks = 0
        while idle_looks < _LOOKS:
            await asyncio.sleep(self._awake_s / _LOOKS)
            idle_looks = idle_looks + 1 if is_idle() else 0

    async def end(self) -> None:
        """Return at the next wake, at most the interval after the last one."""
        assert self._interval_s is not None
        interval_s = self._interval_s * (1 - _EARLY * secrets.randbelow(1000) / 1000)
        await asyncio.sleep(max(0.0, self._woke_at + interval_s - self._loop.time()))
        self._woke_at = self._loop.time()
