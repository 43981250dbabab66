"""Adding devices and giving each its credential at the broker."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from firmware_store.errors import InvalidInputError
from server.db.devices import DeviceRecord, DeviceRepository, NewDevice
from server.domain.identity import DeviceId
from server.services.fleet import Fleet


@dataclass(frozen=True, slots=True)
class BrokerCredential:
    """What a device needs to reach the broker as itself."""

    host: str
    port: int
    username: str
    password: str
    client_id: str


class CredentialIssuer(Protocol):
    """Whoever can let a device into the broker."""

    def issue(self, device: DeviceId) -> BrokerCredential:
        """Return a credential whose holder can be this device alone."""


class Inventory:
    """What devices there are."""

    def __init__(self, *, repository: DeviceRepository, fleet: Fleet, issuer: CredentialIssuer | None) -> None:
        self._repository = repository
        self._fleet = fleet
        self._issuer = issuer

    async def add(self, devices: Sequence[NewDevice]) -> None:
        """Add them all or none. Raises: ConflictError, InvalidInputError."""
        if len({device.id for device in devices}) < len(devices):
            raise InvalidInputError("A device id comes twice in the list.", pointer="/devices")
        now = datetime.now(UTC)
        await self._repository.add(devices, now=now)
        for device in devices:
            self._fleet.add(DeviceRecord(device.id, device.region, device.cohort, now))

    def credential(self, device: DeviceId) -> BrokerCredential | None:
        """Return a new credential, or None where an external broker's operator gives them out."""
        return None if self._issuer is None else self._issuer.issue(device)
