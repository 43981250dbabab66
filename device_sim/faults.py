"""Faults that a simulated fleet is born with: which devices have them is fixed by the seed, not by chance at run time.

brick@1.2.0=30%                    30 % of the devices that boot 1.2.0 never come back
brick@1.2.0[hw=gw100-rev-c]=50%    the same for one hardware class only
unhealthy@1.2.0=10%                the health check of 1.2.0 fails
noboot@1.2.0=5%                    1.2.0 does not boot; the bootloader falls back after three tries
slow=20%:32KiB/s                   a link that carries at most so much
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from firmware_store.errors import InvalidInputError
from server.domain.identity import DeviceId, HardwareClass

_FAULT: Final = re.compile(
    r"(?P<kind>brick|unhealthy|noboot)@(?P<version>[0-9A-Za-z.-]{1,64})(\[hw=(?P<hardware>[^\]]{1,64})\])?"
    r"=(?P<percent>[0-9]{1,3}(\.[0-9]{1,3})?)%\Z",
    re.ASCII,
)
_SLOW: Final = re.compile(
    r"slow(\[hw=(?P<hardware>[^\]]{1,64})\])?=(?P<percent>[0-9]{1,3}(\.[0-9]{1,3})?)%"
    r":(?P<amount>[1-9][0-9]{0,8})(?P<unit>B|KiB|MiB)/s\Z",
    re.ASCII,
)
_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}


class FaultKind(StrEnum):
    BRICK = "brick"
    UNHEALTHY = "unhealthy"
    NOBOOT = "noboot"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class Fault:
    """``ratio`` (0..1) of the devices it is about have it; ``bytes_per_s`` for ``slow`` alone."""

    kind: FaultKind
    ratio: float
    version: str = ""
    hardware: str | None = None
    bytes_per_s: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a fault as it is written on the command line.

        Raises:
            InvalidInputError: it is none.
        """
        found = _FAULT.match(text) or _SLOW.match(text)
        if found is None:
            raise InvalidInputError(f"{text!r} is not a fault such as brick@1.2.0=30% or slow=20%:32KiB/s")
        parts = found.groupdict()
        ratio = float(parts["percent"]) / 100
        if ratio > 1:
            raise InvalidInputError(f"{text!r}: more than 100 % of the devices")
        return cls(
            kind=FaultKind(parts.get("kind") or FaultKind.SLOW),
            ratio=ratio,
            version=parts.get("version") or "",
            hardware=parts["hardware"],
            bytes_per_s=int(parts.get("amount") or 0) * _UNITS[parts.get("unit") or "B"],
        )

    def strikes(self, device: DeviceId, hardware: HardwareClass, *, seed: int) -> bool:
        """Tell whether this device has the fault. A higher ratio only ever adds devices."""
        if self.hardware is not None and self.hardware != hardware:
            return False
        name = f"{seed}|{device}|{self.kind}|{self.version}|{self.hardware or ''}"
        drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
        return drawn < self.ratio


@dataclass(frozen=True, slots=True)
class DeviceFaults:
    """The faults that one device has."""

    faults: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, faults: Sequence[Fault], device: DeviceId, hardware: HardwareClass, *, seed: int) -> Self:
        return cls(tuple(fault for fault in faults if fault.strikes(device, hardware, seed=seed)))

    def bricks(self, version: str) -> bool:
        return self._has(FaultKind.BRICK, version)

    def is_unhealthy(self, version: str) -> bool:
        return self._has(FaultKind.UNHEALTHY, version)

    def boots(self, version: str) -> bool:
        return not self._has(FaultKind.NOBOOT, version)

    @property
    def bytes_per_s(self) -> int | None:
        """What its link carries, None for as much as there is."""
        return min((fault.bytes_per_s for fault in self.faults if fault.kind is FaultKind.SLOW), default=None)

    def _has(self, kind: FaultKind, version: str) -> bool:
        return any(fault.kind is kind and fault.version == version for fault in self.faults)
