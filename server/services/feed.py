"""Events as they come: one reader of the outbox for all who listen, and for each of them a place in it.

Nothing is queued for anybody: whoever is slow stays behind in the outbox, and loses nothing for as long as events are
kept. The newest are in memory, so that a thousand listeners cost one query.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

import structlog

from firmware_store.errors import RateLimitedError, StoreUnavailableError, WithdrawnError
from server.db.outbox import CLEAR_ROWS, OutboxRepository
from server.domain.events import Choice, Event, Published
from server.domain.scope import EVERYTHING, Scope

log = structlog.get_logger(__name__)

LOOK_S: Final = 0.25
HEARTBEAT_S: Final = 15.0
READ_MOST: Final = 500
REMEMBERED: Final = 2000
LISTENERS_MOST: Final = 200
KEPT_MOST: Final = 1_000_000
CLEAR_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing was to be told for a while; all up to ``seq`` was."""

    seq: int


class Feed:
    """``kept``: for how long events are kept, at most ``KEPT_MOST`` of them."""

    def __init__(
        self,
        repository: OutboxRepository,
        *,
        kept: timedelta,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._kept = kept
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._newest: deque[Published] = deque(maxlen=REMEMBERED)
        self._head: int | None = None
        self._moved = asyncio.Event()
        self._listeners = 0
        self._is_closed = False

    # --- reading ---

    async def run(self) -> None:
        """Serve for ever."""
        cleared_at = time.monotonic()
        while True:
            try:
                while await self._read_on():
                    pass
                if time.monotonic() - cleared_at >= CLEAR_S:
                    cleared_at = time.monotonic()
                    await self.clear()
            except StoreUnavailableError as exc:
                log.warning("events_not_read", reason=str(exc))
            await asyncio.sleep(LOOK_S)

    async def _read_on(self) -> bool:
        """Take in what has come; True if there may be more."""
        if self._head is None:
            _, self._head = await self._repository.ends()
        events = await self._repository.following(self._head, READ_MOST)
        if events:
            self._newest.extend(events)
            self._head = events[-1].seq
            self._wake()
        return len(events) == READ_MOST

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def clear(self) -> None:
        """Clear what is kept no longer. Raises: StoreUnavailableError."""
        before = datetime.fromtimestamp(self._clock(), UTC) - self._kept
        cleared = CLEAR_ROWS
        while cleared == CLEAR_ROWS:
            cleared = await self._repository.clear(before=before, most=KEPT_MOST)

    async def tell(self, event: Event) -> None:
        """Tell of something that is no change of the database. Raises: StoreUnavailableError."""
        await self._repository.put(event)

    def close(self) -> None:
        """Let everybody who listens go: the server stops."""
        self._is_closed = True
        self._wake()

    # --- listening ---

    async def follow(
        self, choice: Choice, *, after: int | None, for_ever: bool = True, scope: Scope = EVERYTHING
    ) -> AsyncGenerator[Published | Quiet, None]:
        """Yield the chosen events with numbers above ``after`` (None: from now on), in order, and none twice.

        Without ``for_ever`` it ends when all were told that are there.

        Raises:
            WithdrawnError: some of what came after ``after`` is not kept any more, or was never here.
            RateLimitedError: too many listen already.
            StoreUnavailableError: the database does not answer.
        """
        if self._listeners >= LISTENERS_MOST:
            raise RateLimitedError(f"{LISTENERS_MOST} listen already.", retry_after_s=HEARTBEAT_S)
        self._listeners += 1
        try:
            oldest, head = await self._repository.ends()
            place = head if after is None else after
            if not oldest - 1 <= place <= head:
                raise WithdrawnError(f"Events are kept from {oldest} to {head}: begin again without a place.")
            yield Quiet(place)
            async with aclosing(self._follow(choice, place, None if for_ever else head, scope)) as following:
                async for told in following:
                    yield told
        finally:
            self._listeners -= 1

    async def _follow(
        self, choice: Choice, place: int, last: int | None, scope: Scope
    ) -> AsyncGenerator[Published | Quiet, None]:
        told_at = time.monotonic()
        while not self._is_closed:
            moved = self._moved
            events = await self._after(place)
            for event in events:
                if event.seq != place + 1:
                    raise WithdrawnError("Events were cleared before they were told: begin again.")
                place = event.seq
                if choice.has(event) and event.is_shown(scope):
                    yield event
                    told_at = time.monotonic()
            if last is not None and place >= last:
                return
            if not events:
                await _wait(moved, told_at + self._heartbeat_s - time.monotonic())
            if time.monotonic() - told_at >= self._heartbeat_s:
                yield Quiet(place)
                told_at = time.monotonic()

    async def _after(self, place: int) -> list[Published]:
        if self._newest and self._newest[0].seq <= place + 1:
            first = place + 1 - self._newest[0].seq
            return list(islice(self._newest, first, first + READ_MOST))
        return await self._repository.following(place, READ_MOST)


async def _wait(moved: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await moved.wait()
    except TimeoutError:
        return
