"""When devices are offline by themselves: naps, nights, sites and carriers; and the losses of a flapping line."""

from collections.abc import Iterable, Iterator
from random import Random
from typing import Final

from device_sim.scenario.draws import generator, happenings
from device_sim.scenario.model import FleetGroup, Offline, Outages

Span = tuple[float, float]
"""From and to, in seconds since the scenario began."""

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_SPREAD: Final = 0.5
"""Sigma of the logarithm of how long something lasts."""
_CARRIER_HITS: Final = 0.95
_TRICKLE_S: Final = 20.0
"""Devices go within such a time of the begin of an outage, and come back within three times as long of its end."""


def merged(spans: Iterable[Span], duration_s: float) -> tuple[Span, ...]:
    """Return the union of spans within 0 .. ``duration_s``, in order. One that has no end goes on beyond it."""
    found: list[Span] = []
    for start, end in sorted(spans):
        start = max(0.0, start)
        if end <= start or start >= duration_s:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple(found)


def own_absences(name: str, group: FleetGroup, duration_s: float, *, seed: int, is_diurnal: bool) -> Iterator[Span]:
    """Yield one device's naps and nights."""
    offline = group.offline
    if offline.naps_per_day:
        rng = generator(seed, name, "naps")
        yield from ((at, at + _lasts(rng, offline.nap)) for at in happenings(rng, offline.naps_per_day, duration_s))
    if is_diurnal:
        yield from _nights(generator(seed, name, "nights"), group.begins, duration_s)


def site_outages(site: str, offline: Offline, duration_s: float, *, seed: int) -> list[Span]:
    """Return when a whole site is away."""
    rng = generator(seed, site, "site")
    happens = happenings(rng, offline.site_outages_per_day, duration_s)
    return [(at, at + _lasts(rng, offline.site_outage)) for at in happens]


def carrier_outages(region: str, outages: Outages, duration_s: float, *, seed: int) -> list[Span]:
    """Return when a region's carrier is away."""
    rng = generator(seed, region, "carrier")
    happens = happenings(rng, outages.carrier_per_day, duration_s)
    return [(at, at + _lasts(rng, outages.carrier_outage)) for at in happens]


def shared_absences(name: str, outages: Iterable[Span], *, seed: int, what: str, hits: float = 1.0) -> Iterator[Span]:
    """Yield one device's part in outages that others have, too: it goes and comes back a little apart from them."""
    rng = generator(seed, name, what)
    for start, end in outages:
        goes, late, early = rng.random() < hits, rng.uniform(0, _TRICKLE_S), rng.uniform(0, 3 * _TRICKLE_S)
        if goes:
            yield start + min(late, (end - start) / 2), end + early


def carrier_absences(name: str, outages: Iterable[Span], *, seed: int) -> Iterator[Span]:
    """Yield one device's part in its carrier's outages: a few have another carrier."""
    return shared_absences(name, outages, seed=seed, what="carrier", hits=_CARRIER_HITS)


def losses(rng: Random, every_s: float, off_s: float, *, start: float, end: float) -> Iterator[Span]:
    """Yield the losses of a line that flaps from ``start`` to ``end``."""
    at = start
    while True:
        at += rng.uniform(0.5, 1.5) * every_s
        if at >= end:
            return
        back = at + rng.uniform(0.5, 1.5) * off_s
        yield at, min(back, end)
        at = back


def _nights(rng: Random, begins: str, duration_s: float) -> Iterator[Span]:
    """Off from about 21:00 to about 07:00; a device has its habits, and each day is a little different."""
    hour, minute = map(int, begins.split(":"))
    began_s = hour * _HOUR + minute * 60
    off_h, on_h = rng.gauss(21, 1), rng.gauss(31, 1)
    for day in range(-1, int(duration_s // _DAY) + 2):
        off, on = ((habit + rng.gauss(0, 0.3)) * _HOUR + day * _DAY - began_s for habit in (off_h, on_h))
        yield off, on


def _lasts(rng: Random, median_s: float) -> float:
    return median_s * min(4.0, max(0.25, rng.lognormvariate(0, _SPREAD)))
