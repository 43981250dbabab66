"""Holding the lease: what a node may do between two renewals, and what ends it.

The database refuses what a node writes that does not hold the lease any more, whatever that node believes. The broker
cannot, so nothing is published once the lease may have passed to another: from its life after the moment at which the
last renewal that came through was *sent*, on a clock that nobody sets.
"""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn, Self

import structlog

from firmware_store.errors import ConfigurationError, ConflictError, LeaseLostError, StoreUnavailableError
from firmware_store.private_files import write_new_file
from server.db.lease import LEASE_LIFE, LeaseSession

log = structlog.get_logger(__name__)

LIFE_S: Final = LEASE_LIFE.total_seconds()
RENEW_S: Final = 5.0
AGAIN_S: Final = 1.0
"""How soon a renewal that failed is tried again, and how often a standby asks whether the lease is free."""

NODE_FILE: Final = "node"
_NODE_MOST_BYTES: Final = 100

_UPTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Return seconds on a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(_UPTIME)


class Lease:
    """A lease that was acquired; ``kept`` renews it. ``on_late`` hears that it had run out and nobody had taken it."""

    def __init__(
        self, session: LeaseSession, generation: int, *, sent: float, clock: Callable[[], float] = uptime
    ) -> None:
        self._session = session
        self._clock = clock
        self._deadline = sent + LIFE_S
        self.generation = generation
        self.on_late: Callable[[], None] | None = None

    @classmethod
    async def acquire(cls, session: LeaseSession, *, clock: Callable[[], float] = uptime) -> Self | None:
        """Take it, or return None while another node holds it. Raises: StoreUnavailableError."""
        sent = clock()
        generation = await session.acquire()
        if generation is None:
            return None
        log.info("lease_acquired", node=session.node, generation=generation)
        return cls(session, generation, sent=sent, clock=clock)

    def is_held(self) -> bool:
        """Tell whether nobody else can have it yet."""
        return self._clock() < self._deadline

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renew it while the block runs, and give it back at its end.

        Raises:
            LeaseLostError: another has it, or the database did not say otherwise in time; the block was cancelled.
        """
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self.keep(), name="lease")
                try:
                    yield
                finally:
                    keeping.cancel()
        finally:
            if self.is_held():
                with contextlib.suppress(StoreUnavailableError):
                    await self._session.release(self.generation)

    async def keep(self) -> NoReturn:
        """Serve for ever. Raises: LeaseLostError."""
        while True:
            await asyncio.sleep(RENEW_S)
            while not await self._renew():  # noqa: ASYNC110 - no event of ours
                await asyncio.sleep(AGAIN_S)

    async def _renew(self) -> bool:
        sent, was_held = self._clock(), self.is_held()
        try:
            is_ours = await self._session.renew(self.generation)
        except StoreUnavailableError as exc:
            if not self.is_held():
                raise LeaseLostError(f"This node could not renew its lease, and stops: {exc}") from exc
            log.warning("lease_not_renewed", reason=str(exc))
            return False
        if not is_ours:
            self._deadline = sent
            raise LeaseLostError("Another node has taken over; this one stops.")
        self._deadline = sent + LIFE_S
        if not was_held:
            log.warning("lease_renewed_late", generation=self.generation)
            if self.on_late is not None:
                self.on_late()
        return True


async def acquire_now(session: LeaseSession) -> Lease:
    """Take the lease. Raises: ConfigurationError: another node has it. StoreUnavailableError."""
    lease = await Lease.acquire(session)
    if lease is None:
        raise ConfigurationError(
            f"{describe_other(session)} Stop it first, or start with --standby to take over when it is gone."
        )
    return lease


async def await_lease(session: LeaseSession) -> Lease:
    """Return when no other node holds the lease any more, and this one does."""
    while True:
        try:
            lease = await Lease.acquire(session)
        except StoreUnavailableError as exc:
            log.warning("lease_not_acquired", reason=str(exc))
        else:
            if lease is not None:
                return lease
        await asyncio.sleep(AGAIN_S)


def describe_other(session: LeaseSession) -> str:
    """Say who held the lease when this node last asked."""
    other = session.other
    if other is None:
        return "Another node held the lease until just now."
    return f"Node {other.node} holds the lease of this database, for now until {other.until:%H:%M:%S} UTC."


def name_node(folder: Path) -> str:
    """Return the node's name, which is made at its first start and kept in its data directory. Blocking.

    Raises:
        ConfigurationError: the file cannot be written or read.
    """
    file = folder / NODE_FILE
    host = "".join(letter for letter in socket.gethostname() if letter.isalnum() or letter in "-.")[:40]
    with contextlib.suppress(ConflictError):
        folder.mkdir(parents=True, exist_ok=True)
        write_new_file(file, f"{host}-{secrets.token_hex(4)}\n".encode())
    try:
        with file.open("rb") as opened:
            name = opened.read(_NODE_MOST_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"Cannot read {file}: {exc}.") from exc
    if not name:
        raise ConfigurationError(f"{file} is empty: remove it.")
    return name
