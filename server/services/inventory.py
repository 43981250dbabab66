"""Adding devices and giving each its credential at the broker."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from firmware_store.errors import ConflictError, ForbiddenError, InvalidInputError
from server.db.devices import DeviceRecord, DeviceRepository, NewDevice
from server.domain.identity import DeviceId
from server.domain.scope import EVERYTHING, Scope
from server.services.fleet import Fleet


@dataclass(frozen=True, slots=True)
class BrokerCredential:
    """What a device needs to reach the broker as itself."""

    host: str
    port: int
    tls: bool
    username: str
    password: str
    client_id: str
    expires_at: datetime


class CredentialIssuer(Protocol):
    """Whoever can let a device into the broker, and keep it out again."""

    def issue(self, device: DeviceId, *, issued: datetime) -> BrokerCredential:
        """Return a credential whose holder can be this device alone. ``issued``: what the inventory has noted."""

    async def revoke(self, devices: Mapping[DeviceId, datetime]) -> None:
        """Refuse credentials issued at or before the instants given, and end the sessions that those devices have.

        Raises:
            BrokerUnavailableError: not known to be done; safe to do again.
        """


class Inventory:
    """What devices there are."""

    def __init__(
        self,
        *,
        repository: DeviceRepository,
        fleet: Fleet,
        issuer: CredentialIssuer | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._fleet = fleet
        self._issuer = issuer
        self._clock = clock

    async def add(self, devices: Sequence[NewDevice], *, scope: Scope = EVERYTHING) -> None:
        """Add them all or none. Raises: ConflictError, InvalidInputError; ForbiddenError: not within ``scope``."""
        if any(not scope.has(device.region, device.cohort) for device in devices):
            raise ForbiddenError(f"Your access is limited to {scope}; none was added.")
        if len({device.id for device in devices}) < len(devices):
            raise InvalidInputError("A device id comes twice in the list.", pointer="/devices")
        now = self._now()
        await self._repository.add(devices, now=now)
        for device in devices:
            self._fleet.add(DeviceRecord(device.id, device.region, device.cohort, now))

    async def credentials(
        self, devices: Sequence[DeviceId], *, scope: Scope = EVERYTHING
    ) -> Mapping[DeviceId, BrokerCredential]:
        """Return a new credential for each; none where an external broker's operator gives them out.

        Raises:
            ConflictError: one of the devices is revoked.
            NotFoundError: one of them is not within ``scope``.
        """
        if self._issuer is None:
            return {}
        # The time is noted before the credential exists, so that a revocation in between is later and covers it.
        admitted = await self._repository.admit(devices, now=self._now(), scope=scope)
        if left_out := [device for device in devices if device not in admitted]:
            raise ConflictError(f"{left_out[0]} is revoked: make a claim, with which it enrols again.")
        return {device: self._issuer.issue(device, issued=admitted[device]) for device in devices}

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
