"""Outages: devices of a region lose their line for a while, whatever they run. Which ones is fixed by the seed.

eu:50%:20s:60s              half of eu, for 60 s, 20 s after all devices have reached the broker
eu:100%:@1.2.0:30s          all of eu, from when its first device boots 1.2.0: a release that takes its neighbours down
eu:10%:@1.2.0+5s:30s        the same for a tenth of it, 5 s later
*:100%:20s:0.5s             every session of the fleet drops and comes back
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from device_sim.scenario.draws import chosen
from firmware_store.errors import InvalidInputError
from server.domain.identity import DeviceId, Region

EVERYWHERE: Final = "*"

_SECONDS: Final = r"[0-9]{1,6}(?:\.[0-9]{1,3})?"
_OUTAGE: Final = re.compile(
    rf"(?P<region>\*|[a-z0-9][a-z0-9-]{{0,31}}):(?P<percent>[0-9]{{1,3}}(?:\.[0-9]{{1,3}})?)%"
    rf":(?:@(?P<version>[0-9A-Za-z.-]{{1,64}})(?:\+(?P<later>{_SECONDS})s)?|(?P<after>{_SECONDS})s)"
    rf":(?P<lasts>{_SECONDS})s\Z",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Outage:
    """``ratio`` (0..1) of ``region`` (or of everybody) is cut off for ``lasts_s`` seconds.

    It begins ``after_s`` seconds after the first device there has booted ``version``, or, without a version, after all
    devices have reached the broker.
    """

    region: str
    ratio: float
    after_s: float
    lasts_s: float
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an outage as it is written on the command line.

        Raises:
            InvalidInputError: it is none.
        """
        found = _OUTAGE.match(text)
        if found is None:
            raise InvalidInputError(f"{text!r} is not an outage such as eu:50%:20s:60s or eu:50%:@1.2.0:60s")
        ratio, lasts_s = float(found["percent"]) / 100, float(found["lasts"])
        if ratio > 1 or lasts_s == 0:
            raise InvalidInputError(f"{text!r}: more than 100 % of the devices, or for no time at all")
        after_s = float(found["after"] or found["later"] or 0)
        return cls(found["region"], ratio, after_s, lasts_s, found["version"] or "")

    def is_in(self, region: Region) -> bool:
        return self.region in {EVERYWHERE, region}

    def victims(self, devices: Mapping[DeviceId, Region], *, seed: int) -> list[DeviceId]:
        """Return whom it strikes: the share as exactly as whole devices can. A higher ratio only ever adds devices."""
        there = [device for device, region in devices.items() if self.is_in(region)]
        return chosen(there, self.ratio, seed=seed, what=f"outage|{self.region}")
