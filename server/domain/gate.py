"""Heights and levels: the one idea (pure; the device uses these same functions).

Every device has a fixed height in a campaign, the first four bytes of SHA-256(campaign || device). Every region of a
campaign has a level that rises over time. A device is due when the level has passed its height. Because heights are
hashes, the devices below the level are a random sample of the region, and those above it are their control group.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from firmware_store.errors import InvalidInputError
from server.domain.identity import CampaignId, DeviceId

FULL: Final = 1 << 32
"""The level that every device is below."""

DEAD_MAN_S: Final = 120
"""No published ramp reaches further than this past its directive's ``issued``: a dead server stops the level."""


def height(campaign: CampaignId, device: DeviceId) -> int:
    """Return the device's height in the campaign, 0 .. 2^32 - 1."""
    return heights_of(campaign, [device])[0]


def heights_of(campaign: CampaignId, devices: Iterable[DeviceId]) -> list[int]:
    """Return the height of each of many devices."""
    prefix = campaign.bytes
    sha256, number = hashlib.sha256, int.from_bytes
    return [number(sha256(prefix + device.encode("ascii")).digest()[:4], "big") for device in devices]


def level_for_ratio(ratio: float) -> int:
    """Return the level that ``ratio`` (0..1) of all devices are expected to be below."""
    if not 0 <= ratio <= 1:
        raise InvalidInputError("A target ratio lies between 0 and 1.")
    return round(ratio * FULL)


def level_for_count(heights: list[int], count: int) -> int:
    """Return the lowest level at which ``count`` of the eligible devices with these ``heights`` are due.

    Fewer devices than ``count``: the level of the highest of them, and 0 where there is none yet. Never the full level,
    at which a canary of one would be everybody who connects later.
    """
    if count < 1:
        raise InvalidInputError("A wave of a number of devices has at least one.")
    lowest = sorted(heights)[:count]
    return lowest[-1] + 1 if lowest else 0


@dataclass(frozen=True, slots=True)
class Ramp:
    """A level over time: ``l0`` until ``t0``, a straight line to ``l1`` at ``t1``, ``l1`` from then on.

    Times in Unix seconds, levels 0 .. 2^32; neither ever falls.
    """

    t0: int
    l0: int
    t1: int
    l1: int

    def __post_init__(self) -> None:
        if not (0 <= self.t0 <= self.t1 and 0 <= self.l0 <= self.l1 <= FULL):
            raise InvalidInputError("A ramp has t0 <= t1 and 0 <= l0 <= l1 <= 2^32.")

    @classmethod
    def flat(cls, level: int, at: int = 0) -> Self:
        """A level that stays where it is."""
        return cls(at, level, at, level)

    def level(self, now: float) -> int:
        """Return the level at ``now`` (Unix seconds)."""
        if now >= self.t1:
            return self.l1
        if now <= self.t0:
            return self.l0
        return self.l0 + int((self.l1 - self.l0) * (now - self.t0) / (self.t1 - self.t0))

    def due_at(self, device_height: int) -> float | None:
        """Return when the line crosses ``device_height`` (Unix seconds), or None if this ramp never passes it.

        A device below ``l0`` was due before the ramp began; it gets ``t0``.
        """
        if device_height >= self.l1:
            return None
        if device_height < self.l0:
            return float(self.t0)
        return self.t0 + (self.t1 - self.t0) * (device_height + 1 - self.l0) / (self.l1 - self.l0)

    def frozen(self, now: float) -> "Ramp":
        """Return the level of ``now`` as a flat ramp: what a pause or a halt leaves behind."""
        return Ramp.flat(self.level(now), int(now))

    def until(self, end: int) -> "Ramp":
        """Return the same line cut off at ``end``: flat from there on."""
        if end >= self.t1:
            return self
        if end < self.t0:
            return Ramp.flat(self.l0, self.t0)  # not even a step at t0 is shown before its time
        return Ramp(self.t0, self.l0, end, self.level(end))


def is_due(device_height: int, level: int) -> bool:
    """A device is due when the level has passed its height."""
    return device_height < level
