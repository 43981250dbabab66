"""A watch on the server's own parts: what has stood still for a while is told as an event, and so is its return.

Nobody is told of a moment's silence. What has happened before the server was started is not known here.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from firmware_store.errors import StoreUnavailableError
from server.db.outbox import OutboxRepository
from server.domain.events import Event, EventType
from server.services.orchestrator import Orchestrator
from server.services.store_watch import StoreWatch
from server.services.wire import Wire

log = structlog.get_logger(__name__)

LOOK_S: Final = 5.0
EVALUATOR_LATE_S: Final = 10.0
PATIENCE_S: Final = 30.0
"""What is not well for so long is told."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A part, the events that tell of its trouble and its return, and what asks it: None while it is well."""

    name: str
    lost: EventType
    back: EventType
    ask: Callable[[], Awaitable[str | None]]


class Watch:
    """Asks each part every few seconds."""

    def __init__(
        self,
        repository: OutboxRepository,
        parts: Sequence[Watched],
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._parts = parts
        self._patience_s = patience_s
        self._clock = clock
        self._bad_since: dict[str, float] = {}
        self._told: set[str] = set()

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            try:
                await self.look()
            except StoreUnavailableError as exc:
                log.warning("trouble_not_told", reason=str(exc))
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask each part once. Raises: StoreUnavailableError: what was to be told is told the next time."""
        for part in self._parts:
            trouble = await part.ask()
            now = self._clock()
            if trouble is None:
                self._bad_since.pop(part.name, None)
                if part.name in self._told:
                    await self._tell(part.back, part.name, "It is well again.")
                    self._told.discard(part.name)
            elif now - self._bad_since.setdefault(part.name, now) >= self._patience_s and part.name not in self._told:
                log.error("part_in_trouble", part=part.name, why=trouble)
                await self._tell(part.lost, part.name, trouble)
                self._told.add(part.name)

    async def _tell(self, kind: EventType, name: str, sentence: str) -> None:
        at = datetime.fromtimestamp(self._clock(), UTC)
        await self._repository.put(Event(kind, name, at, {"sentence": sentence}))


def parts_of(orchestrator: Orchestrator, wire: Wire, store: StoreWatch) -> list[Watched]:
    """Return what a server watches of itself."""

    async def evaluator() -> str | None:
        at = orchestrator.evaluated_at
        if at is None:
            return "Campaigns have not been evaluated since the start."
        late_s = time.time() - at
        return None if late_s < EVALUATOR_LATE_S else f"Campaigns were evaluated last {late_s:.0f} s ago."

    async def broker() -> str | None:
        return "There is no session with the broker." if wire.up_since is None else None

    async def blobs() -> str | None:
        state = await store.state()
        return None if state.is_well else f"The blob store is not well: {state.text}."

    return [
        Watched("evaluator", EventType.EVALUATOR_DEAD, EventType.EVALUATOR_BACK, evaluator),
        Watched("broker", EventType.BROKER_LOST, EventType.BROKER_BACK, broker),
        Watched("store", EventType.STORE_TROUBLE, EventType.STORE_BACK, blobs),
    ]
