"""Named releases on generated fleets: what a halt rule must stop, and what it must leave alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

import numpy as np

from firmware_store.errors import InvalidInputError
from server.services.replay.background import Habits, make_background
from server.traces.format import Expect, Fault, Head, Lognormal, Mqtt, Release, Selection, Slow, Trace

DURATION_S: Final = 30 * 3600.0
TICK_S: Final = 60.0
_BEGINS: Final = datetime(2025, 1, 6, 9, tzinfo=UTC)
_ORDINARY: Final = Habits()
_SMALL: Final = Habits(regions=1)
_SLEEPERS: Final = Habits(asleep=0.25, awake_s=(240, 420), asleep_s=(3000, 3180), wake_s=3600)
_GOOD: Final = Expect(verdict="complete", must_not=("halt", "hold"))
_BAD: Final = Expect(verdict="halt|hold")


@dataclass(frozen=True, slots=True)
class Scenario:
    """``devices``: a size of its own, where the scenario is about that."""

    says: str
    expect: Expect
    faults: tuple[Fault, ...] = ()
    habits: Habits = _ORDINARY
    devices: int | None = None


def _brick(p: float) -> Scenario:
    return Scenario(f"{p:.1%} of the devices never return from the reboot", _BAD, (Fault(kind="brick", p=p),))


SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        "healthy": Scenario("a good release, and all the outages of an ordinary fleet", _GOOD),
        "brick-0.5": _brick(0.005),
        "brick-2": _brick(0.02),
        "brick-5": _brick(0.05),
        "brick-30": _brick(0.3),
        "hardware": Scenario(
            "half of one hardware class, a tenth of the fleet, never return",
            Expect(verdict="halt|hold", scope="hw4"),
            (Fault(kind="brick", p=0.5, sel=Selection(hw="hw4")),),
        ),
        "region": Scenario(
            "a fifth of one region never return",
            _BAD,
            (Fault(kind="brick", p=0.2, sel=Selection(region="r4")),),
        ),
        "flapping": Scenario(
            "30 % lose their connection every few minutes once updated",
            _BAD,
            (Fault(kind="flap", p=0.3, every_s=(180, 480), off_s=(30, 90)),),
        ),
        "late": Scenario(
            "a tenth die some hours after the update",
            _BAD,
            (Fault(kind="late", p=0.1, after_s=Lognormal(median=10_800, sigma=0.5)),),
        ),
        "slow": Scenario(
            "1 % need 18 to 41 minutes for the reboot",
            Expect(verdict="any"),
            (Fault(kind="slow", p=0.01, reboot_s=(1080, 2460)),),
        ),
        "storms": Scenario("a good release in three long outages of several regions", _GOOD, habits=Habits(storms=3)),
        "asleep": Scenario(
            "a good release to a fleet of which a quarter sleeps for hours", _GOOD, habits=Habits(asleep=0.25)
        ),
        "asleep-hourly": Scenario(
            "a good release to a fleet of which a quarter wakes for some minutes an hour, and does not say so",
            _GOOD,
            habits=Habits(asleep=0.25, awake_s=(240, 420), asleep_s=(3000, 3900)),
        ),
        "asleep-brick-5": Scenario(
            "a bad release to a fleet of which a quarter sleeps for hours",
            _BAD,
            (Fault(kind="brick", p=0.05),),
            Habits(asleep=0.25),
        ),
        "sleepers": Scenario(
            "a good release to a fleet of which a quarter sleeps, and declares that it wakes each hour",
            _GOOD,
            habits=_SLEEPERS,
        ),
        "sleepers-brick-30": Scenario(
            "30% of the devices that sleep, a quarter of the fleet, never return; all others are well",
            _BAD,
            (Fault(kind="brick", p=0.3, sel=Selection(sleeps=True)),),
            _SLEEPERS,
        ),
        **{
            f"small-{size}": Scenario(f"a good release to {size} devices of one region", _GOOD, (), _SMALL, size)
            for size in (30, 100, 500)
        },
        **{f"small-{size}-brick-30": replace(_brick(0.3), habits=_SMALL, devices=size) for size in (30, 100, 500)},
    }
)


def make_trace(name: str, *, devices: int, seed: int) -> Trace:
    """Return the trace of a scenario: the same name, size and seed give the same trace.

    Raises:
        InvalidInputError: there is no such scenario, or the fleet has no device.
    """
    scenario = SCENARIOS.get(name)
    if scenario is None:
        raise InvalidInputError(f"No scenario is called {name}; there are {', '.join(SCENARIOS)}.")
    if devices < 1 or seed < 0:
        raise InvalidInputError("A fleet has at least one device, and a seed is not negative.")
    count = scenario.devices or devices
    # Only the seed, so that each release of one seed meets the same fleet in the same weather.
    made = make_background(count, DURATION_S, scenario.habits, np.random.default_rng(seed))
    head = Head(
        name=name,
        seed=seed,
        tick=TICK_S,
        duration=DURATION_S,
        t0=_BEGINS,
        mqtt=Mqtt(heartbeat=60, keepalive=60, lwt=True),
        devices=count,
    )
    release = Release(
        fw="2.0.0",
        reboot=Lognormal(median=60, sigma=0.7, min=10, max=300),
        slow=Slow(p=0.003, s=(300, 720)),
        download_s=Lognormal(median=120, sigma=0.8),
        attrition_p=0.0005,
        faults=scenario.faults,
    )
    return Trace(head, release, made.devices, made.away, scenario.expect, made.notes)
