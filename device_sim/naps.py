"""Which simulated devices sleep, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from device_sim.scenario.draws import chosen
from server.traces.format import Trace


@dataclass(frozen=True, slots=True)
class Nap:
    """What a device declares, and after how many seconds with nothing to do it goes to sleep; None: not by itself."""

    interval_s: int
    awake_s: float | None


def draw_sleepers(
    devices: Sequence[str], share: float, interval_s: int, awake_s: float, *, seed: int
) -> Mapping[str, Nap]:
    """Return who sleeps: the share (0..1) as exactly as whole devices can. A higher one only ever adds devices."""
    return dict.fromkeys(chosen(devices, share, seed=seed, what="sleeps"), Nap(interval_s, awake_s))


def naps_of(trace: Trace, factor: float) -> Mapping[str, Nap]:
    """Return what the devices of a trace declare in a fleet that lives ``factor`` times faster (> 0).

    When they are away, asleep or not, is in the trace: their lines are cut.
    """
    devices = trace.devices
    return {
        name: Nap(ceil(wake_s / factor), None)
        for name, wake_s in zip(devices.ids, devices.wake_s.tolist(), strict=True)
        if wake_s
    }
