"""The server that a run plays on: one that runs already, or one of the run's own, which can be restarted."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from device_sim.fleet import Fleet
from firmware_store.root import init_dev_keys
from server.cli.demo import stage

CUT_S: Final = 1.0
"""Where the broker is not ours to restart, all sessions are cut for so long at least."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and the folder with the keys of its releases."""

    url: str
    token: str
    keys: Path


class Host(Protocol):
    """Where a run's devices and campaigns are."""

    address: Address

    async def restart(self, *, away_s: float, fleet: Fleet) -> None:
        """Take the broker away, all sessions with it, for so many seconds at least."""


@asynccontextmanager
async def hosted(folder: Path, server: Address | None, *, heartbeat_s: int) -> AsyncIterator[Host]:
    """Yield the host for the block: ``server``, or one with its own database and broker below ``folder``.

    Raises:
        StoreUnavailableError: it did not come up; its log says why.
    """
    if server is not None:
        yield _Guest(server)
        return
    async with AsyncExitStack() as stack:
        yield await _Own.started(folder, stack, heartbeat_s=heartbeat_s)


class _Guest:
    """Somebody else's server: its broker stays up, and the devices lose their lines."""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def restart(self, *, away_s: float, fleet: Fleet) -> None:
        fleet.cut_off()
        await asyncio.sleep(max(away_s, CUT_S))
        await fleet.let_back()


class _Own:
    """A server process with its own PostgreSQL and broker, on one data directory."""

    def __init__(self, folder: Path, *, heartbeat_s: int) -> None:
        self._folder = folder / "server"
        self._heartbeat_s = heartbeat_s
        self._running = AsyncExitStack()
        self._served: stage.Served | None = None
        self.address = Address("", "", self._folder / "keys")

    @classmethod
    async def started(cls, folder: Path, stack: AsyncExitStack, *, heartbeat_s: int) -> "_Own":
        own = cls(folder, heartbeat_s=heartbeat_s)
        init_dev_keys(own.address.keys, fleet=None, now=int(time.time()))
        stack.push_async_callback(own.stop)
        await own.start()
        return own

    async def start(self) -> None:
        self._running = AsyncExitStack()
        served = stage.server(self._folder, heartbeat_s=self._heartbeat_s, keep=False, before=self._served)
        self._served = await self._running.enter_async_context(served)
        self.address = Address(self._served.url, self._served.token, self.address.keys)

    async def stop(self) -> None:
        await self._running.aclose()

    async def restart(self, *, away_s: float, fleet: Fleet) -> None:  # noqa: ARG002 - the broker itself goes away
        await self.stop()
        await asyncio.sleep(away_s)
        await self.start()
