"""What each simulated device does under a trace: when it is offline, and what becomes of it once it runs the release.

The same trace gives the same victims here and in ``tidegate halt replay``. A factor makes the fleet live so many times
faster than the trace was recorded; all times below are seconds of the simulation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from server.domain.identity import DeviceId
from server.traces.fates import Fate, Fates
from server.traces.format import Trace


@dataclass(frozen=True, slots=True)
class Script:
    """One device's. ``away``: offline from .. to, since the trace began, whatever the release does.

    Under ``version``, a download takes ``download_s`` at least and a reboot ``reboot_s``. ``FLAP``: once confirmed it
    loses its line every ``every_s`` for ``off_s`` (shortest, longest). ``LATE``: dead ``after_s`` after it confirmed.
    """

    version: str
    away: tuple[tuple[float, float], ...]
    download_s: float
    reboot_s: float
    fate: Fate
    is_lost: bool
    after_s: float
    every_s: tuple[float, float]
    off_s: tuple[float, float]

    def returns_with(self, version: str) -> bool:
        """Tell whether the device comes back from a reboot into this version."""
        return version != self.version or not (self.fate is Fate.BRICK or self.is_lost)


def scripts_of(trace: Trace, factor: float) -> Mapping[DeviceId, Script]:
    """Return the script of each of the trace's devices, for a fleet that lives ``factor`` times faster (> 0)."""
    fates, away = Fates(trace), trace.away
    bounds = np.searchsorted(away.device, np.arange(len(trace.devices) + 1))
    starts, ends = away.start / factor, away.end / factor
    download_s, reboot_s, after_s = fates.download_s / factor, fates.reboot_s / factor, fates.after_s / factor
    every_s, off_s = fates.every_s / factor, fates.off_s / factor
    scripts = {}
    for index, name in enumerate(trace.devices.ids):
        mine = slice(bounds[index], bounds[index + 1])
        scripts[DeviceId(name)] = Script(
            version=trace.release.fw,
            away=tuple(zip(starts[mine].tolist(), ends[mine].tolist(), strict=True)),
            download_s=float(download_s[index]),
            reboot_s=float(reboot_s[index]),
            fate=Fate(fates.fate[index]),
            is_lost=bool(fates.lost[index]),
            after_s=float(after_s[index]),
            every_s=(float(every_s[index, 0]), float(every_s[index, 1])),
            off_s=(float(off_s[index, 0]), float(off_s[index, 1])),
        )
    return scripts
