"""What a release has in store for each device of a trace, should it update.

All draws come from the trace's seed and from the order of its devices, and from nothing else: whoever plays the trace,
in virtual time or with simulated devices, meets the same victims.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from server.traces.format import Devices, Fault, Lognormal, Trace

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Fate(IntEnum):
    """What the release has in store for a device; the worst of those drawn."""

    GOOD = 0
    SLOW = 1
    FLAP = 2
    LATE = 3
    BRICK = 4


class Fates:
    """Columns of n, times in seconds. ``lost`` never return from any reboot, whatever the release (attrition)."""

    def __init__(self, trace: Trace) -> None:
        release, devices = trace.release, trace.devices
        count = len(devices)
        rng = np.random.default_rng([trace.head.seed, 1])
        self.download_s = _times(release.download_s, count, rng) if release.download_s else np.zeros(count)
        self.reboot_s = _times(release.reboot, count, rng)
        if release.slow is not None:
            slow = rng.random(count) < release.slow.p
            self.reboot_s = np.where(slow, rng.uniform(*release.slow.s, count), self.reboot_s)
        self.lost: Bools = rng.random(count) < release.attrition_p
        self.fate = np.zeros(count, np.int8)
        self.after_s = np.zeros(count)
        self.every_s = np.zeros((count, 2))
        self.off_s = np.zeros((count, 2))
        for fault in release.faults:
            hit = _selected(fault, devices) & (rng.random(count) < fault.p)
            self._strike(fault, hit, rng)

    def _strike(self, fault: Fault, hit: Bools, rng: np.random.Generator) -> None:
        count, fate = len(hit), Fate[fault.kind.upper()]
        hit &= self.fate < fate
        self.fate[hit] = fate
        if fault.after_s is not None:
            self.after_s = np.where(hit, _times(fault.after_s, count, rng), self.after_s)
        if fault.reboot_s is not None:
            self.reboot_s = np.where(hit, rng.uniform(*fault.reboot_s, count), self.reboot_s)
        if fault.every_s is not None and fault.off_s is not None:
            self.every_s[hit], self.off_s[hit] = fault.every_s, fault.off_s


def _selected(fault: Fault, devices: Devices) -> Bools:
    chosen = np.ones(len(devices), np.bool_)
    if fault.sel.hw is not None:
        chosen &= devices.hardware == devices.classes.index(fault.sel.hw)
    if fault.sel.region is not None:
        chosen &= devices.region == devices.regions.index(fault.sel.region)
    if fault.sel.sleeps is not None:
        chosen &= (devices.wake_s > 0) == fault.sel.sleeps
    return chosen


def _times(dist: Lognormal, count: int, rng: np.random.Generator) -> Floats:
    return np.clip(dist.median * rng.lognormal(0, dist.sigma, count), dist.min, dist.max)
