"""Work that is looked for again and again, in a task for each key: whoever is slow keeps nobody waiting but itself."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Errands(Generic[K]):
    """``name`` is that of its tasks. What they do must not raise."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._busy: dict[K, asyncio.Task[None]] = {}

    def begin(self, key: K, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin it, unless that of this key is still under way."""
        task = self._busy.get(key)
        if task is None or task.done():
            self._busy[key] = asyncio.create_task(work(), name=self._name)

    async def run(self, look: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Serve for ever: ``look`` begins what there is to do. What is under way ends with this."""
        try:
            while True:
                self._busy = {key: task for key, task in self._busy.items() if not task.done()}
                await look()
                await asyncio.sleep(every_s)
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)
