"""A device's own clock on the event loop, where it is not the loop's."""

from device_sim.scenario.device_clock import DeviceClock
from device_sim.wire.fleet_clock import FleetClock


class SkewedClock:
    """See ``Clock``: real seconds, as a device's clock counts them."""

    def __init__(self, clock: DeviceClock, fleet: FleetClock) -> None:
        self._clock = clock
        self._fleet = fleet
        clock.boot(fleet.now)

    def now(self) -> float:
        return self._fleet.real_s(self._clock.reading(self._fleet.now))

    def seconds_until(self, at: float) -> float:
        return max(0.0, at - self.now()) / self._clock.rate(self._fleet.now)
