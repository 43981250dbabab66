"""A fleet that never was: who its devices are and when they are offline, whatever a release does (seeded).

Regions lie one after another around the globe, each with carriers and sites. Most devices are steady; some sleep at
night (diurnal), some nap, some have flaky links. On top of it sites, carriers and whole regions fail for a while, and
now and then the broker fails over and everybody is away for 10 to 60 s. Rates are those of cellular and Ethernet
fleets of the size of thousands: a region fails about every four days, a site about every ten.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from server.traces.format import Away, Devices, Note

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_CARRIERS: Final = 3
_SITE_SIZE: Final = 25
_KINDS: Final = ("steady", "diurnal", "napper", "flaky")
_NAPPER: Final = 2
"""From here on: away more than once a day."""
_CLASS_SHARES: Final = (0.4, 0.25, 0.15, 0.1, 0.1)
"""The last class is the tenth of the fleet that a release may break alone."""

Generator = np.random.Generator
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Times = tuple[Indices, Floats, Floats]


@dataclass(frozen=True, slots=True)
class Habits:
    """What a fleet is like. ``shares`` of steady, diurnal, napping and flaky devices; outages per region and hour."""

    regions: int = 8
    shares: tuple[float, float, float, float] = (0.65, 0.2, 0.08, 0.07)
    asleep: float = 0.0
    """The share of devices that sleep most of the time: awake for ``awake_s``, asleep for ``asleep_s``, in turn."""
    awake_s: tuple[float, float] = (1800.0, 3600.0)
    asleep_s: tuple[float, float] = (7200.0, 14_400.0)
    wake_s: float = 0.0
    """What these declare as their wake interval; 0: nothing, so that they look like devices that come and go."""
    site_outages_per_h: float = 1 / 240
    carrier_outages_per_h: float = 1 / 72
    region_outages_per_h: float = 1 / 96
    failovers_per_h: float = 1 / 20
    storms: int = 0
    """Long outages of several regions at once."""


@dataclass(frozen=True, slots=True)
class Background:
    devices: Devices
    away: Away
    notes: tuple[Note, ...]


def make_background(count: int, duration_s: float, habits: Habits, rng: Generator) -> Background:
    """Return ``count`` devices and when they are offline in ``duration_s`` seconds from 09:00 UTC on."""
    region = (np.arange(count) % habits.regions).astype(np.int16)
    hardware = rng.choice(len(_CLASS_SHARES), size=count, p=_CLASS_SHARES).astype(np.int16)
    kind = rng.choice(len(_KINDS), size=count, p=habits.shares)
    sites_each = max(1, round(count / habits.regions / _SITE_SIZE))
    site = region.astype(np.int32) * sites_each + rng.integers(0, sites_each, count, dtype=np.int32)
    carrier = region * _CARRIERS + rng.integers(0, _CARRIERS, count)
    sleepers = rng.random(count) < habits.asleep
    devices = Devices(
        ids=[f"d{index:06d}" for index in range(count)],
        regions=tuple(f"r{number}" for number in range(habits.regions)),
        classes=tuple(f"hw{number}" for number in range(len(_CLASS_SHARES))),
        sites=tuple(f"s{number}" for number in range(sites_each * habits.regions)),
        region=region,
        hardware=hardware,
        site=site,
        unsteady=(kind >= _NAPPER) | (sleepers & (habits.wake_s == 0)),
        away_by_habit=(kind != 0) | (sleepers & (habits.wake_s == 0)),
        wake_s=np.where(sleepers, habits.wake_s, 0.0),
        fw="1.0.0",
    )
    spans = [
        _blips(np.flatnonzero(kind != 3), duration_s, rng),
        _long_absences(np.arange(count), duration_s, rng),
        _nights(np.flatnonzero(kind == 1), region, habits.regions, duration_s, rng),
        _cycles(np.flatnonzero(kind == 2), (_HOUR, 3 * _HOUR), (600, _HOUR), duration_s, rng),
        _cycles(np.flatnonzero(kind == 3), (1200, _HOUR), (60, 600), duration_s, rng),
        _cycles(np.flatnonzero(sleepers), habits.awake_s, habits.asleep_s, duration_s, rng),
    ]
    notes: list[Note] = []
    groups = (
        ("site", site, sites_each * habits.regions, habits.site_outages_per_h, 1800.0, 1.0),
        ("carrier", carrier, _CARRIERS * habits.regions, habits.carrier_outages_per_h, 1800.0, 0.95),
        ("region", region, habits.regions, habits.region_outages_per_h, 1500.0, 0.8),
    )
    for what, column, size, rate, median_s, hit in groups:
        for group in range(size):
            for _ in range(rng.poisson(rate * duration_s / _HOUR)):
                start, length = rng.uniform(0, duration_s), median_s * rng.lognormal(0, 0.6)
                members = np.flatnonzero(column == group)
                spans.append(_outage(members[rng.random(len(members)) < hit], start, length, rng))
                notes.append(_note(what, start, length, spans[-1][0], devices))
    for _ in range(habits.storms):
        start = rng.uniform(0.05, 0.6) * duration_s
        for group in rng.choice(habits.regions, size=min(3, habits.regions), replace=False):
            length, begins = rng.uniform(1, 4) * _HOUR, start + rng.uniform(0, 900)
            members = np.flatnonzero(region == group)
            spans.append(_outage(members[rng.random(len(members)) < rng.uniform(0.4, 0.95)], begins, length, rng))
            notes.append(_note("storm", begins, length, spans[-1][0], devices))
    for _ in range(rng.poisson(habits.failovers_per_h * duration_s / _HOUR)):
        start = rng.uniform(0, duration_s)
        everyone = np.arange(count)
        spans.append((everyone, np.full(count, start), start + rng.uniform(10, 60, count)))
        notes.append(Note(t=round(start), d=60, what="broker", devices=count))
    return Background(devices, merge(spans, duration_s), tuple(sorted(notes, key=lambda note: note.t)))


def merge(spans: list[Times], duration_s: float) -> Away:
    """Return the union of all times away, in whole seconds within the trace, sorted by device and start."""
    device = np.concatenate([span[0] for span in spans]).astype(np.int64)
    start = np.floor(np.concatenate([span[1] for span in spans]))
    end = np.minimum(np.ceil(np.concatenate([span[2] for span in spans])), duration_s)
    start = np.maximum(start, 0)
    good = start < end
    device, start, end = device[good], start[good], end[good]
    order = np.lexsort((start, device))
    device, start, end = device[order], start[order], end[order]
    if not len(device):
        return Away(device, start, end)
    shift = device * (duration_s + 2)  # one line of time for all devices, one after another
    reach = np.maximum.accumulate(end + shift)
    first = np.ones(len(device), np.bool_)
    first[1:] = (start + shift)[1:] > reach[:-1]
    begins = np.flatnonzero(first)
    return Away(device[begins], start[begins], np.maximum.reduceat(end, begins))


def _note(what: str, start: float, length: float, hit: Indices, devices: Devices) -> Note:
    where = devices.regions[devices.region[hit[0]]] if len(hit) else None
    return Note(t=round(start), d=round(length), what=what, devices=len(hit), region=where)


def _outage(members: Indices, start: float, length_s: float, rng: Generator) -> Times:
    """All members go within seconds, and come back within a few minutes of the end."""
    count = len(members)
    begins = start + rng.uniform(0, 20, count)
    return members, begins, begins + length_s + rng.exponential(60, count)


def _blips(members: Indices, duration_s: float, rng: Generator) -> Times:
    """Short losses of the link, about two a day, of half a minute to some minutes."""
    counts = rng.poisson(duration_s / (12 * _HOUR), len(members))
    device = np.repeat(members, counts)
    start = rng.uniform(0, duration_s, len(device))
    return device, start, start + np.clip(60 * rng.lognormal(0, 0.8, len(device)), 10, 900)


def _long_absences(members: Indices, duration_s: float, rng: Generator) -> Times:
    """Switched off for an hour or a day, about every ten days; also some that are away as the trace begins."""
    counts = rng.poisson((duration_s + _DAY) / (10 * _DAY), len(members))
    device = np.repeat(members, counts)
    start = rng.uniform(-_DAY, duration_s, len(device))
    return device, start, start + np.clip(5 * _HOUR * rng.lognormal(0, 0.8, len(device)), _HOUR / 2, _DAY)


def _nights(members: Indices, region: npt.NDArray[np.int16], regions: int, duration_s: float, rng: Generator) -> Times:
    """Away from about 21:00 to about 07:00 of the region's own day; the trace begins at 09:00 UTC."""
    local_start = 9 + 24 * region[members] / regions
    habit_off, habit_on = rng.normal(21, 1, len(members)), rng.normal(31, 1, len(members))
    parts: list[Times] = []
    for day in range(-2, int(duration_s // _DAY) + 2):
        off = (habit_off + rng.normal(0, 0.3, len(members)) - local_start + 24 * day) * _HOUR
        on = (habit_on + rng.normal(0, 0.3, len(members)) - local_start + 24 * day) * _HOUR
        parts.append((members, off, on))
    return _join(parts)


def _cycles(
    members: Indices, on_s: tuple[float, float], off_s: tuple[float, float], duration_s: float, rng: Generator
) -> Times:
    """On and off in turn, each for a time drawn anew."""
    rounds = int(duration_s / (on_s[0] + off_s[0])) + 2
    shape = (len(members), rounds)
    on, off = rng.uniform(*on_s, shape), rng.uniform(*off_s, shape)
    ends = np.cumsum(on + off, axis=1) - rng.uniform(0, on_s[1] + off_s[1], (len(members), 1))
    starts = ends - off
    return np.repeat(members, rounds), starts.ravel(), ends.ravel()


def _join(parts: list[Times]) -> Times:
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
    )
