"""A device's own clock: fast, slow, jumping, or knowing nothing at each boot."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from device_sim.scenario.device_clock import DeviceClock
from device_sim.scenario.faults import TimedFault
from device_sim.wire.fleet_clock import FleetClock
from device_sim.wire.skewed_clock import SkewedClock

FAULT: TypeAdapter[Any] = TypeAdapter(TimedFault)


def clock(*faults: dict[str, Any]) -> DeviceClock:
    return DeviceClock([FAULT.validate_python(fault) for fault in faults])


def test_a_clock_without_faults_is_true() -> None:
    assert clock().is_true
    assert clock({"fault": "full"}).is_true
    assert clock().reading(123.0) == 123.0


def test_a_skewed_clock_gains_while_the_fault_lasts() -> None:
    fast = clock({"fault": "skew", "rate": 1.5, "at": "100s", "for": "100s"})

    assert [fast.reading(at) for at in (50, 100, 200, 300)] == [50, 100, 250, 350]
    assert [fast.rate(at) for at in (50, 150, 250)] == [1.0, 1.5, 1.0]


def test_a_clock_jumps_once() -> None:
    jumping = clock({"fault": "jump", "by": "1h", "at": "100s"})

    assert [jumping.reading(at) for at in (99, 100, 101)] == [99, 3700, 3701]


def test_a_clock_that_nobody_keeps_begins_at_zero_in_each_boot() -> None:
    forgetful = clock({"fault": "no-clock"})
    first = [forgetful.boot(500.0), forgetful.reading(510.0)]
    again = [forgetful.boot(900.0), forgetful.reading(901.0)]

    assert (first[1], again[1]) == (10.0, 1.0)


@given(st.floats(0.2, 5), st.floats(0, 1000), st.lists(st.floats(0, 10_000), min_size=2, max_size=20))
def test_no_clock_goes_back_within_a_boot(rate: float, by: float, times: list[float]) -> None:
    odd = clock(
        {"fault": "skew", "rate": rate, "at": "1000s", "for": "3000s"}, {"fault": "jump", "by": by, "at": "2000s"}
    )
    odd.boot(0.0)
    readings = [odd.reading(at) for at in sorted(times)]

    assert readings == sorted(readings)


async def test_on_the_event_loop_a_fast_clock_waits_less() -> None:
    fleet = FleetClock(60)
    fleet.begin()
    fast = SkewedClock(clock({"fault": "skew", "rate": 2}), fleet)

    assert 4.9 < fast.seconds_until(fast.now() + 10) <= 5
