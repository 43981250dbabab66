"""Weather: is the world between us and the devices unwell, whatever the release does?

The sentinels, the highest devices of a region, are updated last and never shadows. When many more of them are dark than
usual, silence says nothing about the release: the region is not judged until the weather has been good again for a
while. What is usual is a slow average; while the weather is bad it follows six times more slowly, so that a dusk which
falls into an outage is not taken for bad weather until dawn, and it stands still while we cannot see. A region with too
few sentinels goes by those of the whole fleet, and a fleet with too few by all devices that are not due; with fewer of
those, too, the weather is unknown: devices updated long ago tell of outages then. A few watchers are dark by chance:
what is more than usual must also be more than three standard deviations.
"""

from dataclasses import dataclass, field
from math import exp
from typing import Final

import numpy as np
import numpy.typing as npt

from server.domain.halt.policy import HaltPolicy
from server.domain.halt.view import Bools, Floats, Indices

_STRIKES: Final = 3
_SLOWER: Final = 6
_DEVIATIONS: Final = 3.0


@dataclass(slots=True)
class Weather:
    """State by region (shape regions); times in Unix seconds, -inf: never, inf: not now.

    ``usual`` is the average share of dark sentinels (nan: not known), its last entry the fleet's; ``bad_until`` and
    ``bad_since`` bound the bad weather, as it was measured; ``clock`` has run for so many good seconds, and ``streak``
    of them without a break. ``restarted`` is when updating last (re)started, ``strikes`` how often it went bad soon
    after.
    """

    regions: int
    usual: Floats = field(default_factory=lambda: np.empty(0))
    bad_until: Floats = field(default_factory=lambda: np.empty(0))
    bad_since: Floats = field(default_factory=lambda: np.empty(0))
    clock: Floats = field(default_factory=lambda: np.empty(0))
    streak: Floats = field(default_factory=lambda: np.empty(0))
    restarted: Floats = field(default_factory=lambda: np.empty(0))
    strikes: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    blind_until: float = -np.inf
    choice: int = 0
    is_known: bool = False
    own: Bools = field(default_factory=lambda: np.empty(0, np.bool_))
    """Regions with sentinels enough of their own."""

    def __post_init__(self) -> None:
        self.grow(self.regions)

    def grow(self, regions: int) -> None:
        """Make room for regions that have appeared since."""
        self.regions = regions
        fleet = self.usual[-1:] if len(self.usual) else np.array([np.nan])
        spare = regions - len(self.bad_until)
        self.usual = np.concatenate([self.usual[:-1], np.full(spare, np.nan), fleet])
        self.bad_until = np.concatenate([self.bad_until, np.full(spare, -np.inf)])
        self.bad_since = np.concatenate([self.bad_since, np.full(spare, np.inf)])
        self.clock = np.concatenate([self.clock, np.zeros(spare)])
        self.streak = np.concatenate([self.streak, np.full(spare, np.inf)])
        self.restarted = np.concatenate([self.restarted, np.full(spare, -np.inf)])
        self.strikes = np.concatenate([self.strikes, np.zeros(spare, np.int64)])
        self.own = np.concatenate([self.own, np.zeros(spare, np.bool_)])

    def watch(self, choice: int) -> None:
        """Go by this choice of watchers from now on; another choice has another usual share, learnt anew."""
        if choice != self.choice:
            self.choice = choice
            self.usual = np.full_like(self.usual, np.nan)

    def look(
        self, sentinels: Indices, dark: Indices, *, now: float, elapsed_s: float, is_blind: bool, policy: HaltPolicy
    ) -> None:
        """Take in how many ``sentinels`` there are and how many are ``dark`` (shape regions), and run the clocks."""
        count = np.append(sentinels, sentinels.sum()).astype(np.float64)
        gone = np.append(dark, dark.sum()).astype(np.float64)
        share = gone / np.maximum(count, 1)
        enough = count >= policy.min_sentinels
        self.own, self.is_known = enough[:-1], bool(enough[-1])
        usual = np.where(np.isnan(self.usual), share, self.usual)
        spike = enough & (share - usual > policy.bad_weather_above)
        noise = np.sqrt(count * usual * (1 - usual) + 1)
        spike &= gone - usual * count >= np.maximum(policy.bad_weather_most, _DEVIATIONS * noise)
        spike[:-1] |= ~enough[:-1] & spike[-1]
        was_bad = self.bad_until > now - elapsed_s
        if is_blind:
            self.blind_until = now + policy.weather_clears_s
        else:
            self.bad_until = np.where(spike[:-1], now + policy.weather_clears_s, self.bad_until)
        is_bad = self.bad_until > now
        self.bad_since = np.where(is_bad, np.minimum(self.bad_since, now), np.inf)
        if self.blind_until <= now:
            self._learn(share, usual, enough, elapsed_s=elapsed_s, is_bad=is_bad, policy=policy)
        struck = is_bad & ~was_bad & (now - self.restarted <= policy.strike_within_s)
        self.strikes += struck
        stops = self.judging_stops(now)
        self.clock = self.clock + np.where(stops, 0.0, elapsed_s)
        self.streak = np.where(stops, 0.0, self.streak + elapsed_s)

    def is_everywhere(self, now: float) -> bool:
        """Whether the whole campaign pauses: we cannot see, or half of all regions are bad."""
        if self.blind_until > now:
            return True
        bad = int((self.bad_until > now).sum())
        return bad > 0 and 2 * bad >= self.regions

    def judging_stops(self, now: float) -> Bools:
        """Return where nothing is judged at ``now``, shape regions."""
        bad: Bools = self.bad_until > now
        return np.ones_like(bad) if self.is_everywhere(now) else bad

    def since(self, now: float) -> float | None:
        """Return when the longest bad weather of now began, if any."""
        bad = self.bad_since[self.bad_until > now]
        return float(bad.min()) if len(bad) else None

    def restart(self, regions: npt.NDArray[np.int16], now: float) -> None:
        """Devices of these regions have begun: the first after a pause (or ever) is a (re)start."""
        for region in {int(each) for each in regions}:
            paused_since = self.bad_until[region]
            if self.restarted[region] == -np.inf or self.restarted[region] < paused_since <= now:
                self.restarted[region] = now

    def is_storm_ours(self, updating: Bools, untouched: Bools, now: float) -> bool:
        """Whether only regions being updated are bad (two, or one again and again) while untouched ones are good."""
        bad = self.bad_until > now
        watched = untouched & self.own
        if self.blind_until > now or not watched.any() or (bad & untouched).any():
            return False
        ours = bad & updating & self.own
        return int(ours.sum()) >= 2 or bool((self.strikes[ours] >= _STRIKES).any())

    def _learn(
        self, share: Floats, usual: Floats, enough: Bools, *, elapsed_s: float, is_bad: Bools, policy: HaltPolicy
    ) -> None:
        gain = 1 - exp(-elapsed_s / policy.weather_memory_s)
        slow = 1 - exp(-elapsed_s / (policy.weather_memory_s * _SLOWER))
        gains = np.where(np.append(is_bad, is_bad.any()), slow, gain)
        self.usual = np.where(enough, usual + gains * (share - usual), self.usual)
