"""The campaigns that are run both ways: releases, fleets, plan and policy, all in the trace's time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from server.domain.halt import HaltPolicy
from server.domain.identity import Region
from server.domain.plan import Gate, Plan, Policy, Wave
from server.services.replay.background import Habits, make_background
from server.traces.format import Away, Expect, Fault, Head, Lognormal, Mqtt, Release, Selection, Slow, Trace

VERSION: Final = "2.0.0"
_HOUR: Final = 3600.0
LONGEST_S: Final = 1.5 * _HOUR
_BEGINS: Final = datetime(2025, 1, 6, 9, tzinfo=UTC)
_ORDINARY: Final = Habits(regions=4)
_GOOD: Final = Expect(verdict="complete", must_not=("halt", "hold"))
_BAD: Final = Expect(verdict="halt|hold")


@dataclass(frozen=True, slots=True)
class Case:
    """A release and the fleet it goes to. ``hours``: how long the trace goes, and how long it is watched at most."""

    says: str
    expect: Expect
    faults: tuple[Fault, ...] = ()
    habits: Habits = _ORDINARY
    hours: float = 8.0


def _brick(p: float) -> Case:
    return Case(f"{p:.0%} never return from the reboot", _BAD, (Fault(kind="brick", p=p),))


CASES: Final[Mapping[str, Case]] = MappingProxyType(
    {
        "healthy": Case("a good release", _GOOD),
        "brick-2": _brick(0.02),
        "brick-30": _brick(0.3),
        "hardware": Case(
            "half of one hardware class, a tenth of the fleet, never return",
            _BAD,
            (Fault(kind="brick", p=0.5, sel=Selection(hw="hw4")),),
        ),
        "region": Case(
            "a third of one region never return", _BAD, (Fault(kind="brick", p=1 / 3, sel=Selection(region="r1")),)
        ),
        "flapping": Case(
            "30 % lose their connection every few minutes once updated",
            _BAD,
            (Fault(kind="flap", p=0.3, every_s=(180, 480), off_s=(30, 90)),),
        ),
        "late": Case(
            "30 % die about an hour after the update",
            _BAD,
            (Fault(kind="late", p=0.3, after_s=Lognormal(median=_HOUR, sigma=0.5)),),
        ),
        "outages": Case(
            "a good release, while region after region is dark for half an hour",
            _GOOD.model_copy(update={"must": ("pause",)}),
            habits=replace(_ORDINARY, region_outages_per_h=1 / 10),
            hours=9.0,
        ),
    }
)


def make_trace(name: str, *, devices: int, seed: int) -> Trace:
    """Return the trace of a case: every case of one seed and size but ``outages`` meets the same fleet."""
    case = CASES[name]
    duration_s = case.hours * _HOUR
    made = make_background(devices, duration_s, case.habits, np.random.default_rng(seed))
    head = Head(
        name=name,
        seed=seed,
        tick=60,
        duration=duration_s,
        t0=_BEGINS,
        mqtt=Mqtt(heartbeat=240, keepalive=240, lwt=True),
        devices=devices,
    )
    release = Release(
        fw=VERSION,
        reboot=Lognormal(median=60, sigma=0.7, min=10, max=300),
        slow=Slow(p=0.003, s=(300, 720)),
        download_s=Lognormal(median=120, sigma=0.8, max=1800),
        attrition_p=0.0005,
        faults=case.faults,
    )
    return Trace(head, release, made.devices, _short(made.away), case.expect, made.notes)


def _short(away: Away) -> Away:
    """Leave out who goes away for hours: a campaign is not complete while one of those is half way through a download.

    Who is away as the trace begins stays away as long as it says.
    """
    stays = (away.end - away.start <= LONGEST_S) | (away.start == 0)
    return Away(away.device[stays], away.start[stays], away.end[stays])


def make_plan(trace: Trace) -> Plan:
    """A canary of twenty, region by region to 85 %, all to 95 %, and the sentinels in two steps."""
    regions = [Region(name) for name in trace.devices.regions]
    gate = Gate(confirmed_ratio=0.8, failure_ratio=0.25)
    waves = [Wave(regions=(regions[0],), ratio=None, count=20, ramp_s=900, soak_s=1800, gate=gate)]
    waves += [Wave(regions=(name,), ratio=0.85, count=None, ramp_s=1800, soak_s=900, gate=gate) for name in regions]
    waves += [Wave(ratio=ratio, count=None, ramp_s=900, soak_s=900, gate=gate) for ratio in (0.95, 0.975, 1.0)]
    return Plan(waves=tuple(waves))


def make_policy() -> Policy:
    """The default one, but for larger blocks: a region's directive is new once a block, for every device there."""
    return Policy(halt=HaltPolicy(block_s=120), watch_s=1800)


def scaled(plan: Plan, policy: Policy, factor: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return plan and policy, as REST takes them, on a clock that is ``factor`` times faster."""
    waves = [
        wave.model_copy(update={"ramp_s": round(wave.ramp_s / factor), "soak_s": round(wave.soak_s / factor)})
        for wave in plan.waves
    ]
    faster = policy.model_copy(
        update={
            "halt": policy.halt.scaled(1 / factor),
            **{name: max(1, round(getattr(policy, name) / factor)) for name in ("trial_s", "confirm_s", "watch_s")},
            "download_s": max(60, round(policy.download_s / factor)),
        }
    )
    return Plan(waves=tuple(waves)).model_dump(mode="json"), faster.model_dump(mode="json")
