"""Holding devices: by hand, and those whose attempts are spent, with an end that everybody sees.

A held device is of no campaign until its hold is over: it starts nothing, and no wave waits for it.
"""

import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from server.db.campaigns import CampaignRepository
from server.db.devices import DeviceRecord, DeviceRepository
from server.domain.campaign import ACTIVE
from server.domain.execution import ATTEMPTS_MOST
from server.domain.identity import DeviceId
from server.domain.scope import EVERYTHING, Scope
from server.services.campaigns import name_of
from server.services.fleet import Fleet
from server.services.presence import Presence

log = structlog.get_logger(__name__)

LOOK_S: Final = 10.0
"""Spent attempts are looked for so often: that reads all executions of each active campaign."""


class Quarantine:
    """Who is held, and until when."""

    def __init__(
        self,
        *,
        devices: DeviceRepository,
        campaigns: CampaignRepository,
        fleet: Fleet,
        presence: Presence,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._devices = devices
        self._campaigns = campaigns
        self._fleet = fleet
        self._presence = presence
        self._clock = clock
        self._looked_at = -math.inf

    async def hold(
        self, device: DeviceId, *, for_s: int | None, reason: str, caller: str, scope: Scope = EVERYTHING
    ) -> DeviceRecord:
        """Let it start nothing for so many seconds; None: until it is released. Raises: NotFoundError."""
        now = self._clock()
        at = datetime.fromtimestamp(now, UTC)
        until = None if for_s is None else at + timedelta(seconds=for_s)
        record = await self._devices.hold(device, until=until, reason=reason, by=caller, now=at, scope=scope)
        log.info("device_held", device=device, actor=caller, why=reason)
        self._tell([device], held=True, now=now)
        return record

    async def release(self, device: DeviceId, *, caller: str, scope: Scope = EVERYTHING) -> DeviceRecord:
        """Let it take part again, whatever has failed until now. Raises: NotFoundError."""
        now = self._clock()
        at = datetime.fromtimestamp(now, UTC)
        record = await self._devices.release(device, by=caller, now=at, scope=scope)
        log.info("device_released", device=device, actor=caller)
        self._tell([device], held=False, now=now)
        return record

    async def tick(self, now: float) -> None:
        """End the holds that are over; hold the devices whose attempts are spent."""
        at = datetime.fromtimestamp(now, UTC)
        self._tell(await self._devices.release_due(at), held=False, now=now)
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        for campaign in await self._campaigns.in_states(ACTIVE):
            spent = await self._devices.hold_spent(
                campaign.id,
                attempts=ATTEMPTS_MOST,
                last=timedelta(seconds=campaign.policy.quarantine_s),
                reason=f"{ATTEMPTS_MOST} attempts of {name_of(campaign)} have failed.",
                now=at,
            )
            if spent:
                log.warning("devices_quarantined", campaign=campaign.id.hex, devices=len(spent))
            self._tell(spent, held=True, now=now)

    def _tell(self, devices: Iterable[DeviceId], *, held: bool, now: float) -> None:
        for name in devices:
            device = self._fleet.hold(name, held=held)
            if device is not None and self._fleet.is_online(device, now):
                self._presence.welcome_again(device, now)
