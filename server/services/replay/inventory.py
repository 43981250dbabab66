"""A real fleet as a trace: where its devices are, what they are, and how often each was away lately.

What is kept of a device is how often it was away (times of half a week ago count half), whether it is away now and
since when, and how it sleeps. How long absences last is not kept, so that is assumed: whoever is away every day or so
is away for a part of each day, all others for some two hours. Outages of sites and regions are not invented.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import log
from typing import Final

import numpy as np

from server.services.replay.background import Times, merge
from server.traces.format import Away, Devices, Fault, Head, Lognormal, Mqtt, Release, Slow, Trace

LOST_S: Final = 7 * 86_400.0
"""Whoever has not been heard for so long does not come back in a rehearsal."""

ABSENCE_S: Final = 7200.0
"""How long an absence of a device lasts, about, that is seldom away."""

AWAY_MOST: Final = 0.4
"""The share of its time that a device is away, at most, however often that is."""

REBOOT_S: Final = 60.0
_DAY: Final = 86_400.0
_SELDOM: Final = 0.05
_AWAKE_S: Final = 300.0
_PER_DAY: Final = log(2) / 3.5
"""An absence a day, for long, adds up to so many of those that count half after half a week."""
_ALWAYS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Picture:
    """Devices in columns of n. ``absences``: as the fleet counts them; ``dark_s``: away for so long now, 0: it is here.

    ``region``, ``hardware`` and ``site`` are indices; a negative site is none. All of it is plain, ready for JSON.
    """

    ids: list[str]
    regions: list[str]
    classes: list[str]
    region: list[int]
    hardware: list[int]
    site: list[int]
    unsteady: list[bool]
    by_habit: list[bool]
    wake_s: list[int]
    absences: list[float]
    dark_s: list[float]


@dataclass(frozen=True, slots=True)
class Clock:
    """How time is cut: the trace's length and tick, and how much faster than a production fleet's its clock is."""

    duration_s: float
    tick_s: float
    scale: float
    heartbeat_s: float


def trace_of(picture: Picture, clock: Clock, *, name: str, bricked: float, seed: int, begins: float) -> Trace:
    """Return the fleet from ``begins`` (Unix seconds) on, under a release that never lets a share return."""
    count, scale = len(picture.ids), clock.scale
    sites = max(picture.site, default=-1) + 1
    site = np.asarray(picture.site, np.int32)
    alone = site < 0
    site[alone] = sites + np.arange(int(alone.sum()))
    devices = Devices(
        ids=picture.ids,
        regions=tuple(picture.regions),
        classes=tuple(picture.classes),
        sites=tuple(f"s{number}" for number in range(sites + int(alone.sum()))),
        region=np.asarray(picture.region, np.int16),
        hardware=np.asarray(picture.hardware, np.int16),
        site=site,
        unsteady=np.asarray(picture.unsteady, np.bool_),
        away_by_habit=np.asarray(picture.by_habit, np.bool_),
        wake_s=np.asarray(picture.wake_s, np.float64),
    )
    head = Head(
        name=name,
        seed=seed,
        tick=clock.tick_s,
        duration=clock.duration_s,
        t0=datetime.fromtimestamp(int(begins), UTC),
        mqtt=Mqtt(heartbeat=clock.heartbeat_s, keepalive=clock.heartbeat_s, lwt=True),
        devices=count,
    )
    release = Release(
        fw="rehearsed",
        reboot=Lognormal(median=REBOOT_S * scale, sigma=0.7, min=10 * scale, max=300 * scale),
        slow=Slow(p=0.003, s=(300 * scale, 720 * scale)),
        download_s=Lognormal(median=120 * scale, sigma=0.8),
        attrition_p=0.0005,
        faults=(Fault(kind="brick", p=bricked),) if bricked else (),
    )
    return Trace(head, release, devices, absences(picture, clock.duration_s, np.random.default_rng(seed)))


def absences(picture: Picture, duration_s: float, rng: np.random.Generator) -> Away:
    """Return when devices are away: as often as lately, and those that are away now until they come back."""
    dark = np.asarray(picture.dark_s, np.float64)
    wake = np.asarray(picture.wake_s, np.float64)
    per_day = np.maximum(np.asarray(picture.absences, np.float64) * _PER_DAY, _SELDOM)
    away = np.flatnonzero(dark > 0)
    back = np.where(dark >= LOST_S, _ALWAYS, rng.exponential(np.maximum(dark, ABSENCE_S)))
    spans: list[Times] = [(away, np.zeros(len(away)), back[away])]
    steady = np.flatnonzero((dark < LOST_S) & (wake == 0))
    counts = rng.poisson(per_day[steady] * duration_s / _DAY)
    device = np.repeat(steady, counts)
    start = rng.uniform(0, duration_s, len(device))
    lasts = np.minimum(AWAY_MOST * _DAY / per_day, np.where(per_day > 0.5, 8 * 3600.0, ABSENCE_S))
    spans.append((device, start, start + lasts[device] * rng.lognormal(-0.18, 0.6, len(device))))
    for sleeper in np.flatnonzero((dark < LOST_S) & (wake > 0)).tolist():
        asleep = max(wake[sleeper] - _AWAKE_S, wake[sleeper] / 2)
        begins = np.arange(-rng.uniform(0, wake[sleeper]), duration_s, wake[sleeper])
        spans.append((np.full(len(begins), sleeper), begins, begins + asleep))
    return merge(spans, duration_s)
