"""Who plays in a scenario: every device, where it is, when it is away, and what strikes it.

All of a run's chance that does not depend on what the fleet does is drawn here, from the scenario, the number of
devices and the seed: sockets and virtual time have the same cast, so the same devices are lost in both.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from types import MappingProxyType
from typing import Any, Final, TypeVar

from device_sim.scenario.absences import (
    Span,
    carrier_absences,
    carrier_outages,
    losses,
    merged,
    own_absences,
    shared_absences,
    site_outages,
)
from device_sim.scenario.draws import chosen, generator
from device_sim.scenario.faults import (
    AfterBoot,
    Defect,
    Effect,
    Flapping,
    Flipped,
    RegionalOutage,
    Struck,
    TimedFault,
    Truncated,
    WrongDeltaBase,
)
from device_sim.scenario.model import FleetGroup, Line, Scenario
from server.domain.identity import DeviceId, HardwareClass, Region

Kind = TypeVar("Kind", bound=AfterBoot)

_NONE: Final[Mapping[str, tuple[Effect, ...]]] = MappingProxyType({})
_DEFECTS_ON_THE_WAY: Final[Mapping[Defect, TimedFault]] = MappingProxyType(
    {
        Defect.FLIPPED: Flipped(fault="flipped"),
        Defect.TRUNCATED: Truncated(fault="truncated"),
        Defect.WRONG_DELTA_BASE: WrongDeltaBase(fault="wrong-delta-base"),
    }
)
"""Defects that are no part of what is signed: they strike each device when it fetches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One device. Times are seconds since the scenario began, when the fleet had come up."""

    id: DeviceId
    group: int
    """The number of its group in the scenario."""
    region: Region
    hardware: HardwareClass
    site: str
    """Empty where it is at none."""
    line: Line
    wake_interval_s: float | None
    awake_s: float
    absences: tuple[Span, ...]
    """When it is offline whatever it runs: by itself, in an outage, or because its line flaps."""
    effects: Mapping[str, tuple[Effect, ...]]
    """By version: what a release does to it."""
    faults: tuple[TimedFault, ...]
    """What strikes it in time; those that are absences are not here."""

    def effect(self, kind: type[Kind], version: str) -> Kind | None:
        """Return the effect of this kind that a release has on it, if it has one."""
        return next((effect for effect in self.effects.get(version, ()) if isinstance(effect, kind)), None)

    def effects_of(self, kind: type[Kind]) -> list[Kind]:
        """Return the effects of this kind that any release has on it."""
        return [effect for effects in self.effects.values() for effect in effects if isinstance(effect, kind)]

    def is_away(self, at: float) -> bool:
        """Tell whether it is absent then."""
        return any(start <= at < end for start, end in self.absences)


@dataclass(frozen=True)
class Cast:
    """All of them, in the order of their ids."""

    scenario: Scenario
    seed: int
    roles: tuple[Role, ...]

    def __len__(self) -> int:
        return len(self.roles)

    def lines(self) -> Iterator[str]:
        """Yield the cast as JSON, one line each: what there is, then the devices."""
        yield _json({"event": "cast", "scenario": self.scenario.name, "seed": self.seed, "devices": len(self)})
        for role in self.roles:
            yield _json(
                {
                    "device": role.id,
                    "region": role.region,
                    "hardware": role.hardware,
                    "site": role.site,
                    "away": [[round(start, 3), None if end == inf else round(end, 3)] for start, end in role.absences],
                    "effects": {version: [one.fault for one in effects] for version, effects in role.effects.items()},
                    "faults": [[fault.fault, fault.at] for fault in role.faults],
                }
            )

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of its lines, in hexadecimal."""
        found = hashlib.sha256()
        for line in self.lines():
            found.update(line.encode() + b"\n")
        return found.hexdigest()


def draw_cast(scenario: Scenario, *, devices: int | None = None, seed: int) -> Cast:
    """Return the cast of a run. ``devices``: how many; without it, as many as the scenario says."""
    return _Casting(scenario, scenario.devices if devices is None else devices, seed).cast()


@dataclass(frozen=True, slots=True)
class _Place:
    """What is fixed by a device's number alone."""

    id: DeviceId
    group: int
    site: str


class _Casting:
    """Draws one cast. Shares are of those a fault is about, as exactly as whole devices can."""

    def __init__(self, scenario: Scenario, devices: int, seed: int) -> None:
        self._scenario = scenario
        self._seed = seed
        self._places = list(_places(scenario, devices))
        self._diurnal = self._draw_diurnal()
        self._effects = self._draw_effects()
        self._faults = self._draw_faults()
        self._sites: dict[str, list[Span]] = {}
        self._carriers = {
            name: carrier_outages(name, scenario.outages, scenario.duration, seed=seed) for name in scenario.regions
        }

    def cast(self) -> Cast:
        return Cast(self._scenario, self._seed, tuple(self._role(place) for place in self._places))

    def _role(self, place: _Place) -> Role:
        group = self._scenario.fleet[place.group]
        faults = self._faults.get(place.id, ())
        return Role(
            id=place.id,
            group=place.group,
            region=Region(group.region),
            hardware=HardwareClass(group.hardware),
            site=place.site,
            line=self._scenario.line(group.link),
            wake_interval_s=group.wake_interval,
            awake_s=group.awake,
            absences=merged(self._absences(place, group, faults), self._scenario.duration),
            effects=self._effects.get(place.id, _NONE),
            faults=tuple(fault for fault in faults if not isinstance(fault, (RegionalOutage, Flapping))),
        )

    def _absences(self, place: _Place, group: FleetGroup, faults: Sequence[TimedFault]) -> Iterator[Span]:
        seed, duration_s = self._seed, self._scenario.duration
        yield from own_absences(place.id, group, duration_s, seed=seed, is_diurnal=place.id in self._diurnal)
        if place.site and group.offline.site_outages_per_day:
            if place.site not in self._sites:
                self._sites[place.site] = site_outages(place.site, group.offline, duration_s, seed=seed)
            yield from shared_absences(place.id, self._sites[place.site], seed=seed, what="site")
        if self._carriers[group.region]:
            yield from carrier_absences(place.id, self._carriers[group.region], seed=seed)
        for number, fault in enumerate(faults):
            what = f"{fault.fault} {number}"
            if isinstance(fault, RegionalOutage):
                yield from shared_absences(place.id, [(fault.at, fault.until)], seed=seed, what=what)
            elif isinstance(fault, Flapping):
                end = min(fault.until, duration_s)
                rng = generator(seed, place.id, what)
                yield from losses(rng, fault.every, fault.off, start=fault.at, end=end)

    def _draw_diurnal(self) -> frozenset[str]:
        found: set[str] = set()
        for number, group in enumerate(self._scenario.fleet):
            if group.offline.diurnal:
                names = [place.id for place in self._places if place.group == number]
                found.update(chosen(names, group.offline.diurnal, seed=self._seed, what="diurnal"))
        return frozenset(found)

    def _draw_effects(self) -> Mapping[str, Mapping[str, tuple[Effect, ...]]]:
        found: dict[str, dict[str, tuple[Effect, ...]]] = defaultdict(dict)
        for release in self._scenario.releases:
            for number, effect in enumerate(release.effects):
                for name in self._struck(effect, f"{release.version} {number} {effect.fault}"):
                    found[name][release.version] = (*found[name].get(release.version, ()), effect)
        return found

    def _draw_faults(self) -> Mapping[str, tuple[TimedFault, ...]]:
        found: dict[str, tuple[TimedFault, ...]] = defaultdict(tuple)
        on_the_way = [
            _DEFECTS_ON_THE_WAY[release.defect]
            for release in self._scenario.releases
            if release.defect in _DEFECTS_ON_THE_WAY
        ]
        for number, fault in enumerate((*self._scenario.faults, *on_the_way)):
            if isinstance(fault, Struck):
                for name in self._struck(fault, f"{number} {fault.fault}"):
                    found[name] = (*found[name], fault)
        return found

    def _struck(self, fault: Struck, what: str) -> list[str]:
        fleet = self._scenario.fleet
        about: list[str] = [
            place.id
            for place in self._places
            if fault.region in {None, fleet[place.group].region}
            and fault.hardware in {None, fleet[place.group].hardware}
        ]
        return about if fault.share == 1 else chosen(about, fault.share, seed=self._seed, what=what)


def _places(scenario: Scenario, devices: int) -> Iterator[_Place]:
    """Deal the devices out over the groups, and each group's over its sites, in turn."""
    number = 0
    for index, count in enumerate(shares_of(devices, [group.share for group in scenario.fleet])):
        group = scenario.fleet[index]
        sites = max(1, round(group.sites * devices / scenario.devices)) if group.sites else 0
        for place in range(count):
            site = f"{group.region}-{index}-{place % sites}" if sites else ""
            yield _Place(DeviceId(f"lab-{number:06}"), index, site)
            number += 1


def shares_of(whole: int, shares: Sequence[float]) -> list[int]:
    """Return whole numbers that make ``whole`` and are nearest to its shares: the largest remainders first."""
    exact = [whole * share for share in shares]
    counts = [int(part) for part in exact]
    by_remainder = sorted(range(len(shares)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: whole - sum(counts)]:
        counts[index] += 1
    return counts


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), sort_keys=True, allow_nan=False)
