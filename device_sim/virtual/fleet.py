"""What the server of a virtual fleet knows of its devices' presence: arrays, by the devices' indices.

Heartbeats are computed, not simulated: a device that has a session was heard from within the last interval, and one
that sleeps and has nothing to do wakes when it said it would.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from device_sim.scenario.cast import Cast
from server.domain.gate import height
from server.domain.halt.view import Bools, Floats, Population
from server.domain.identity import CampaignId
from server.services.columns import ABSENCE_HALF_LIFE_S
from server.services.device import HABIT_FROM, UNSTEADY_FROM
from server.services.fleet import GRACE_BEATS

NEVER: Final = -np.inf


class Fleet:
    """Times are Unix seconds, but for those that say otherwise."""

    def __init__(self, cast: Cast, *, epoch: float) -> None:
        scenario, roles = cast.scenario, cast.roles
        self.ids = [role.id for role in roles]
        self.regions = scenario.regions
        self.classes = scenario.hardware
        self.region = _numbers([role.region for role in roles], self.regions)
        self.hardware = _numbers([role.hardware for role in roles], self.classes)
        self.heartbeat_s = scenario.heartbeat
        self.grace_s = GRACE_BEATS * scenario.heartbeat
        self.wake_s: Floats = np.array([role.wake_interval_s or 0.0 for role in roles], np.float64)
        self.drops = np.zeros(len(roles), np.int64)
        self._sites = _sites([(role.region, role.site) for role in roles])
        self._epoch = epoch
        self._is_up: Bools = np.zeros(len(roles), np.bool_)
        self._heard: Floats = np.full(len(roles), NEVER)
        self._is_gone: Bools = np.ones(len(roles), np.bool_)
        self._rests: Bools = np.zeros(len(roles), np.bool_)
        self._absences: Floats = np.zeros(len(roles))
        self._absent_at: Floats = np.zeros(len(roles))

    def __len__(self) -> int:
        return len(self.ids)

    def last_seen(self, now: float) -> Floats:
        """Return when each was heard from last, a new array."""
        seen = np.where(self._is_up, now, self._heard)
        rests = self._rests
        seen[rests] = now - (now - seen[rests]) % self.wake_s[rests]
        return seen

    def is_online(self, now: float) -> Bools:
        """Return who has a session, as far as the server knows."""
        out: Bools = ~self._is_gone & (now - self.last_seen(now) <= self.grace_s)
        return out

    def greet(self, device: int, now: float) -> None:
        """A new session has begun."""
        away_s = now - max(self._heard[device], self._epoch)
        if away_s > max(self.grace_s, 1.5 * self.wake_s[device]) and self._heard[device] > NEVER:
            faded = 2 ** (-(now - self._absent_at[device]) / ABSENCE_HALF_LIFE_S)
            self._absences[device] = self._absences[device] * faded + 1
            self._absent_at[device] = now
        self._rests[device] = False
        self._is_up[device], self._is_gone[device], self._heard[device] = True, False, now

    def hear(self, device: int, now: float) -> None:
        self._heard[device] = now

    def lose(self, device: int, now: float, *, rests: bool = False) -> None:
        """The session is over. ``rests``: it sleeps, and wakes in between to find nothing to do."""
        if self._is_up[device]:
            self._heard[device] = now
            self.drops[device] += self.wake_s[device] == 0
        self._rests[device] = rests
        self._is_up[device], self._is_gone[device] = False, True

    def is_up(self, device: int) -> bool:
        return bool(self._is_up[device])

    def online_count(self) -> int:
        return int(np.count_nonzero(self._is_up))

    def population(self, campaign: CampaignId, now: float) -> Population:
        """Return what the halt rule knows of the devices when a campaign begins."""
        absences = self._absences * 2 ** (-(now - self._absent_at) / ABSENCE_HALF_LIFE_S)
        return Population(
            regions=self.regions,
            classes=self.classes,
            region=self.region,
            hardware=self.hardware,
            height=np.array([height(campaign, name) for name in self.ids], np.uint32),
            unsteady=absences >= UNSTEADY_FROM,
            away_by_habit=absences >= HABIT_FROM,
            site=self._sites,
            wake_s=self.wake_s if self.wake_s.any() else None,
        )


def _numbers(names: Sequence[str], known: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    places = {name: place for place, name in enumerate(known)}
    return np.array([places[name] for name in names], np.int16)


def _sites(places: Sequence[tuple[str, str]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A device that is at no site is a site of its own."""
    known: dict[tuple[str, str], int] = {}
    numbers = [known.setdefault(place, len(known)) if place[1] else -1 - at for at, place in enumerate(places)]
    return np.array(numbers, np.int64)
