"""What a release does to one device, asked at the moments at which it matters (pure but for its draws)."""

from collections.abc import Iterator, Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from device_sim.scenario.cast import Role
from device_sim.scenario.faults import Brick, CrashRate, Effect, Hang, Lies, NeverConfirms, Unhealthy

REBOOT_S: Final = 60.0
"""Of the fleet, in the median; lognormal."""
REBOOT_SPREAD: Final = 0.3
LOOP_S: Final = 5.0
"""How long a device that restarts again and again is up each time."""
OFF_S: Final = 30.0
"""How long the power is away, where a fault does not say."""

POWER_CUT_STATES: Final[Mapping[str, str]] = MappingProxyType(
    {"started": "downloading", "written": "installing", "trial": "trial"}
)
"""What a power cut calls the state that begins with a note."""

_ASKED_FOR: Final = (Hang, Unhealthy, NeverConfirms, Lies)
"""Effects that do nothing by themselves."""


class Fate:
    """Of one device. Times are seconds of the fleet."""

    def __init__(self, role: Role, rng: Random) -> None:
        self._role = role
        self._rng = rng

    def coming(self, version: str) -> Iterator[tuple[float, Effect]]:
        """Yield the effects that do something by themselves, and how long after the boot."""
        for effect in self._role.effects.get(version, ()):
            if not isinstance(effect, _ASKED_FOR) and not (isinstance(effect, Brick) and not effect.after):
                yield effect.after, effect

    def boots(self, version: str) -> bool:
        """Tell whether the bootloader gets it up."""
        return self._role.effect(Hang, version) is None

    def returns_with(self, version: str) -> bool:
        """Tell whether the device ever comes back with it."""
        brick = self._role.effect(Brick, version)
        return brick is None or brick.after > 0

    def try_s(self, version: str) -> float:
        """Return how long a boot takes that does not come up."""
        hang = self._role.effect(Hang, version)
        return REBOOT_S if hang is None else hang.watchdog

    def reboot_s(self) -> float:
        """Draw how long a reboot takes."""
        return REBOOT_S * self._rng.lognormvariate(0, REBOOT_SPREAD)

    def crash_in_s(self, effect: CrashRate) -> float:
        """Draw in how many seconds the next crash comes."""
        return self._rng.expovariate(effect.per_hour / 3600)
