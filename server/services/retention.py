"""Deleting what is old: by the server once a day, or by ``tidegate db retain``."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from firmware_store.errors import StoreUnavailableError
from server.db.audit import SERVER
from server.db.retention import BATCH_ROWS, Kind, RetentionRepository

log = structlog.get_logger(__name__)

EVERY_S: Final = 86_400.0
FIRST_S: Final = 600.0
"""After a start: whoever has set a shorter time by mistake has some minutes to take it back."""

RETRY_S: Final = 600.0
PAUSE_S: Final = 0.05
"""Between two batches, for everybody else who works with the database."""

Tell = Callable[[Kind, int, int], None]
"""Hears how many rows of a kind were deleted, and of how many."""


def tell_nobody(_kind: Kind, _done: int, _total: int) -> None:
    """Show no progress."""


class Retention:
    """``ages``: how old rows of a kind become; kinds that are not there are kept for ever."""

    def __init__(
        self, repository: RetentionRepository, ages: Mapping[Kind, timedelta], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._repository = repository
        self._ages = dict(ages)
        self._clock = clock

    async def run(self) -> None:
        """Serve for ever: once a day."""
        wait_s = FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self.clear(who=SERVER)
                wait_s = EVERY_S
            except StoreUnavailableError as exc:
                log.warning("retention_postponed", reason=str(exc))
                wait_s = RETRY_S

    async def count(self) -> dict[Kind, int]:
        """Return how many rows would be deleted. Raises: StoreUnavailableError."""
        return {kind: await self._repository.count(kind, before) for kind, before in self._limits().items()}

    async def clear(self, *, who: str, tell: Tell = tell_nobody, batch_rows: int = BATCH_ROWS) -> dict[Kind, int]:
        """Delete what is too old, in batches; return how many rows of each kind it was.

        Raises:
            StoreUnavailableError: what was deleted until then is.
        """
        deleted: dict[Kind, int] = {}
        try:
            for kind, before in self._limits().items():
                total = await self._repository.count(kind, before)
                deleted[kind] = 0
                while count := await self._repository.delete(kind, before, most=batch_rows):
                    deleted[kind] += count
                    tell(kind, deleted[kind], max(total, deleted[kind]))
                    if count < batch_rows:
                        break
                    await asyncio.sleep(PAUSE_S)
        finally:
            if any(deleted.values()):
                await self._repository.note(deleted, who=who, now=self._now())
                log.info("old_rows_deleted", **{kind.name.lower(): count for kind, count in deleted.items()})
        return deleted

    def _limits(self) -> dict[Kind, datetime]:
        now = self._now()
        return {kind: now - age for kind, age in self._ages.items()}

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def ages_of(*, days: int, decisions_days: int) -> dict[Kind, timedelta]:
    """Return how old what becomes; 0 days: it is kept for ever."""
    kinds = {Kind.EVENTS: days, Kind.CLAIMS: days, Kind.OPERATIONS: days, Kind.DECISIONS: decisions_days}
    return {kind: timedelta(days=age) for kind, age in kinds.items() if age}
