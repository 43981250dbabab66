"""What a release does to one device, asked at the moments at which it matters (pure but for its draws)."""

from collections.abc import Iterator
from random import Random
from typing import Final, TypeVar

from device_sim.scenario.cast import Role
from device_sim.scenario.faults import AfterBoot, Brick, CrashRate, Effect, Hang, Lies, NeverConfirms, Unhealthy

REBOOT_S: Final = 60.0
"""Of the fleet, in the median; lognormal."""
REBOOT_SPREAD: Final = 0.3
LOOP_S: Final = 5.0
"""How long a device that restarts again and again is up each time."""
OFF_S: Final = 30.0
"""How long the power is away, where a fault does not say."""

_ASKED_FOR: Final = (Hang, Unhealthy, NeverConfirms, Lies)
"""Effects that do nothing by themselves."""

Kind = TypeVar("Kind", bound=AfterBoot)


class Fate:
    """Of one device. Times are seconds of the fleet."""

    def __init__(self, role: Role, rng: Random) -> None:
        self._role = role
        self._rng = rng

    def effect(self, kind: type[Kind], version: str) -> Kind | None:
        """Return the effect of this kind that a release has on the device, if it has one."""
        effects = self._role.effects.get(version, ())
        return next((effect for effect in effects if isinstance(effect, kind)), None)

    def coming(self, version: str) -> Iterator[tuple[float, Effect]]:
        """Yield the effects that do something by themselves, and how long after the boot."""
        for effect in self._role.effects.get(version, ()):
            if not isinstance(effect, _ASKED_FOR) and not (isinstance(effect, Brick) and not effect.after):
                yield effect.after, effect

    def boots(self, version: str) -> bool:
        """Tell whether the bootloader gets it up."""
        return self.effect(Hang, version) is None

    def returns_with(self, version: str) -> bool:
        """Tell whether the device ever comes back with it."""
        brick = self.effect(Brick, version)
        return brick is None or brick.after > 0

    def try_s(self, version: str) -> float:
        """Return how long a boot takes that does not come up."""
        hang = self.effect(Hang, version)
        return REBOOT_S if hang is None else hang.watchdog

    def reboot_s(self) -> float:
        """Draw how long a reboot takes."""
        return REBOOT_S * self._rng.lognormvariate(0, REBOOT_SPREAD)

    def crash_in_s(self, effect: CrashRate) -> float:
        """Draw in how many seconds the next crash comes."""
        return self._rng.expovariate(effect.per_hour / 3600)
