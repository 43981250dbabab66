"""Changing many devices: shown first, then carried out batch by batch in the background, and told to those online.

One batch is one transaction, and what is left is in the database: a restart goes on where it was. Batches rest as long
as they took, so that reports of devices get their turn, and moves are told to so many devices a second, for each of
them connects again.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog

from firmware_store.errors import ForbiddenError, InvalidInputError, LeaseLostError, StoreUnavailableError
from server.db.changes import Batch
from server.db.devices import DeviceRecord, DeviceRepository
from server.db.operations import OperationRecord, OperationRepository, Plan
from server.domain.change import Change
from server.domain.filter import LIVE, POINTER, Expression, fields_of
from server.domain.identity import Cohort, DeviceId, Region
from server.domain.scope import EVERYTHING, Scope
from server.services import identifiers
from server.services.fleet import Fleet
from server.services.presence import Presence

log = structlog.get_logger(__name__)

BATCH: Final = 500
TOLD_PER_S: Final = 500.0
LOOK_S: Final = 5.0
"""Operations that an earlier process has left are looked for so often, and those that the database was away for."""

TOLD_AT_ONCE: Final = 25
"""Welcomes are signed: after so many of them others get their turn."""


class Operations:
    """Plans them, begins them, and carries them out, one after the other."""

    def __init__(
        self,
        *,
        repository: OperationRepository,
        devices: DeviceRepository,
        fleet: Fleet,
        presence: Presence,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._devices = devices
        self._fleet = fleet
        self._presence = presence
        self._clock = clock
        self._news = asyncio.Event()
        self._changing = asyncio.Lock()

    async def plan(self, expression: Expression, change: Change, *, scope: Scope = EVERYTHING) -> Plan:
        """Return what a change would do, and to which devices within ``scope``.

        Raises:
            InvalidInputError, ForbiddenError: see ``begin``.
        """
        _check(expression)
        _check_target(change, scope)
        return await self._repository.plan(expression, change, scope=scope)

    async def begin(
        self,
        expression: Expression,
        change: Change,
        *,
        text: str,
        caller: str,
        reason: str,
        digest: str | None,
        scope: Scope = EVERYTHING,
    ) -> OperationRecord:
        """Begin a change of all devices within ``scope`` that the filter, whose ``text`` is kept, lets through now.

        Raises:
            InvalidInputError: it looks at what changes while it is carried out.
            ConflictError: the devices are not those that ``digest`` names.
            ForbiddenError: it would move them beyond ``scope``.
        """
        _check(expression)
        _check_target(change, scope)
        record = OperationRecord(
            id=identifiers.new_uuid7(),
            filter=text,
            change=change,
            reason=reason,
            created_by=caller,
            created_at=self._now(),
            total=0,
            scope=scope,
        )
        begun = await self._repository.begin(record, expression, digest=digest)
        log.info("operation_began", operation=begun.id.hex, devices=begun.total, actor=caller, why=reason)
        self._news.set()
        return begun

    async def change(
        self,
        device: DeviceId,
        change: Change,
        *,
        caller: str,
        seen: Callable[[DeviceRecord], None] | None = None,
        scope: Scope = EVERYTHING,
    ) -> None:
        """Change one device at once; ``seen`` raises if it is not what the caller has looked at.

        Raises:
            NotFoundError, ConflictError, ForbiddenError.
        """
        async with self._changing:  # of two who have looked at the same, the second is to hear of the first
            record = await self._devices.get(device, scope=scope)  # elsewhere is not there, wherever it would move to
            if seen is not None:
                seen(record)
            _check_target(change, scope)
            batch = await self._repository.change_one(device, change, now=self._now(), scope=scope)
        log.info("device_changed", device=device, actor=caller, change=change.model_dump_json(exclude_defaults=True))
        await self._take_up(batch)

    async def get(self, operation: UUID, *, scope: Scope = EVERYTHING) -> OperationRecord:
        """Raises: NotFoundError."""
        return await self._repository.get(operation, scope=scope)

    async def newest(
        self, limit: int, *, before: UUID | None = None, scope: Scope = EVERYTHING
    ) -> list[OperationRecord]:
        return await self._repository.newest(limit, before=before, scope=scope)

    async def cancel(self, operation: UUID, *, caller: str, scope: Scope = EVERYTHING) -> OperationRecord:
        """End it: what is changed stays so, and what is not is left as it is. Raises: NotFoundError."""
        ended = await self._repository.end(operation, "cancelled", now=self._now(), scope=scope)
        log.info("operation_cancelled", operation=operation.hex, actor=caller)
        return ended

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            self._news.clear()
            try:
                for operation in await self._repository.running():
                    await self._carry_out(operation)
            except LeaseLostError:
                raise
            except StoreUnavailableError as exc:
                log.warning("operation_waits", reason=str(exc))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _carry_out(self, operation: OperationRecord) -> None:
        try:
            while True:
                began = time.monotonic()
                batch = await self._repository.step(operation, most=BATCH, now=self._now())
                told = await self._take_up(batch)
                if batch.is_last:
                    log.info("operation_ended", operation=operation.id.hex)
                    return
                await asyncio.sleep(max(time.monotonic() - began, told / TOLD_PER_S))
        except StoreUnavailableError:
            raise
        except Exception:
            log.exception("operation_failed", operation=operation.id.hex)
            why = "Something went wrong here; the log has it."
            await self._repository.end(operation.id, "failed", now=self._now(), why=why)

    async def _take_up(self, batch: Batch) -> int:
        """Let the fleet in memory, and those who are online, know; returns how many were told."""
        now = self._clock()
        listening = {}
        for one in batch.moved:
            if self._fleet.move(one.device, one.region, one.cohort, at=now) is not None:
                listening[one.device] = one.left
        for name, (given, site) in batch.sites.items():
            self._fleet.place(name, given, site)
        for name in batch.held:
            self._fleet.hold(name, held=True)
        for name in batch.released:
            self._fleet.hold(name, held=False)
        told = 0
        for name in dict.fromkeys([*listening, *batch.held, *batch.released]):
            device = self._fleet.get(name)
            if device is not None and self._fleet.is_online(device, now):
                told += self._presence.welcome_again(device, now, listens_in=listening.get(name))
                if told % TOLD_AT_ONCE == 0:
                    await asyncio.sleep(0)
        return told

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _check(expression: Expression) -> None:
    if live := sorted(LIVE & fields_of(expression)):
        raise InvalidInputError(
            f"{live[0]} changes while devices are changed: leave it out of this filter.", pointer=POINTER
        )


def _check_target(change: Change, scope: Scope) -> None:
    """Return if nobody is moved beyond ``scope``. Raises: ForbiddenError."""
    is_beyond = change.region is not None and not scope.has_region(Region(change.region))
    if is_beyond or (change.cohort is not None and not scope.has_cohort(Cohort(change.cohort))):
        raise ForbiddenError(f"Your access is limited to {scope}: you cannot move devices elsewhere.")
