"""A small fleet in virtual time for tests of the halt rule: ticks of a minute, devices that nap, outages, releases.

Nothing here knows the rule's inside: it makes moments, and starts as many devices as the verdict has room for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from server.domain.halt import Call, HaltPolicy, HaltRule, Moment, Population, Verdict
from server.domain.halt.pace import level_within

TICK_S = 60.0
BEGIN = 1_750_000_000.0
FULL = 1 << 32


def population(devices: int, *, regions: int = 2, classes: int = 3, seed: int = 1) -> Population:
    """A fleet with every tenth device of the last class and every tenth unsteady."""
    rng = np.random.default_rng([seed, 77])
    shares = [*[0.9 / (classes - 1)] * (classes - 1), 0.1] if classes > 1 else [1.0]
    hardware = rng.choice(classes, devices, p=shares)
    return Population(
        regions=tuple(f"r{i}" for i in range(regions)),
        classes=tuple(f"hw{i}" for i in range(classes)),
        region=rng.integers(0, regions, devices).astype(np.int16),
        hardware=hardware.astype(np.int16),
        height=rng.integers(0, FULL, devices, dtype=np.uint32),
        unsteady=rng.random(devices) < 0.1,
    )


@dataclass
class Release:
    """What updating does to a share of the updated devices, of a class or a region only if one is named."""

    bricks: float = 0.0
    flaps: float = 0.0
    dies_later: float = 0.0
    fails: float = 0.0
    hardware: int | None = None
    region: int | None = None


@dataclass
class Fleet:
    """The world. ``outages`` are (region, from tick, to tick, share)."""

    people: Population
    release: Release = field(default_factory=Release)
    seed: int = 1
    outages: tuple[tuple[int, int, int, float], ...] = ()
    blind: frozenset[int] = frozenset()
    nap_rate: float = 0.0004
    rate: float = 0.01
    """The level rises by at most so much in a tick."""

    def __post_init__(self) -> None:
        n = len(self.people)
        self.rng = np.random.default_rng([self.seed, 5])
        self.tick = 0
        self.back_at = np.zeros(n)  # tick at which an absent device is back
        self.last_seen = np.full(n, BEGIN)
        self.state = np.zeros(n, np.int8)  # 0 never, 1 downloading, 2 updated
        self.reboots_at = np.full(n, np.inf)
        self.flaps = np.zeros(n, np.bool_)
        self.bricked = np.zeros(n, np.bool_)
        self.level = np.zeros(len(self.people.regions), np.int64)
        self.in_outage = [
            (from_, to, (self.people.region == region) & (self.rng.random(n) < share))
            for region, from_, to, share in self.outages
        ]

    @property
    def now(self) -> float:
        return BEGIN + self.tick * TICK_S

    def next(self, verdict: Verdict) -> Moment:
        """Let a minute pass and return what was seen."""
        self.tick += 1
        n, rng, tick = len(self.people), self.rng, self.tick
        none = np.empty(0, np.int64)
        away = self.back_at > tick
        nap = ~away & (rng.random(n) < self.nap_rate * np.where(self.people.unsteady, 10, 1))
        self.back_at[nap] = tick + 1 + rng.geometric(0.1, int(nap.sum()))
        away |= nap
        out = np.zeros(n, np.bool_)
        for from_, to, mine in self.in_outage:
            if from_ <= tick < to:
                out |= mine
        here = ~away & ~out & ~self.bricked
        flapping = np.flatnonzero(self.flaps & here & (rng.random(n) < 0.3))
        self.last_seen[here] = self.now - rng.random(int(here.sum())) * TICK_S * 0.5
        online = self.now - self.last_seen <= 2.5 * TICK_S

        rebooted = np.flatnonzero((self.state == 1) & (self.reboots_at <= tick) & here)
        at = np.full(len(rebooted), self.now)
        self.last_seen[rebooted] = self.now
        self._update(rebooted)
        failed = rebooted[rng.random(len(rebooted)) < self.release.fails]
        late = np.flatnonzero((self.state == 2) & (self.dies_at <= tick)) if hasattr(self, "dies_at") else none
        self.bricked[late] = True

        started = self._start(verdict, here)
        blind = tick in self.blind
        return Moment(
            now=self.now,
            last_seen=self.last_seen.copy(),
            online=online,
            present=np.ones(n, np.bool_),
            level=self.level.copy(),
            started=started,
            rebooted=rebooted,
            rebooted_at=at,
            over=none,
            failed=failed,
            succeeded=np.setdiff1d(rebooted[~self.bricked[rebooted]], failed),
            dropped=np.concatenate([np.flatnonzero(nap), flapping]),
            is_blind=blind,
        )

    def _update(self, rebooted: np.ndarray) -> None:
        rng, release = self.rng, self.release
        hit = np.ones(len(rebooted), np.bool_)
        if release.hardware is not None:
            hit &= self.people.hardware[rebooted] == release.hardware
        if release.region is not None:
            hit &= self.people.region[rebooted] == release.region
        self.state[rebooted] = 2
        self.back_at[rebooted] = self.tick + 1 + rng.integers(0, 2, len(rebooted))
        self.bricked[rebooted] |= hit & (rng.random(len(rebooted)) < release.bricks)
        self.flaps[rebooted] |= hit & (rng.random(len(rebooted)) < release.flaps)
        if not hasattr(self, "dies_at"):
            self.dies_at = np.full(len(self.people), np.inf)
        later = rebooted[hit & (rng.random(len(rebooted)) < release.dies_later)]
        self.dies_at[later] = self.tick + rng.integers(120, 240, len(later))

    def _start(self, verdict: Verdict, here: np.ndarray) -> np.ndarray:
        """Raise the levels as far as the verdict has room, and begin with whoever is due and here."""
        if verdict.call >= Call.HOLD or verdict.is_blind or verdict.pace == 0:
            return np.empty(0, np.int64)
        left = verdict.room_in_classes.copy()
        whole = verdict.room
        begun = []
        for region, name in enumerate(self.people.regions):
            if name in verdict.bad_weather or not len(verdict.room_in_regions):
                continue
            due = np.flatnonzero((self.people.region == region) & (self.state == 0))
            due = due[np.argsort(self.people.height[due], kind="stable")]
            level = int(self.level[region])
            wanted = min(FULL, level + int(self.rate * verdict.pace * FULL))
            waiting = due[self.people.height[due] < level]
            fresh = due[self.people.height[due] >= level]
            room = min(int(verdict.room_in_regions[region]), whole)
            reached = level_within(
                self.people.height[fresh].astype(np.int64),
                self.people.hardware[fresh].astype(np.int64),
                room=room,
                room_in_classes=left,
                level=wanted,
                now_due=min(room, int(here[waiting].sum())),
            )
            self.level[region] = max(level, reached)
            ready = due[(self.people.height[due] < self.level[region]) & here[due]][:room]
            np.subtract.at(left, self.people.hardware[ready].astype(np.int64), 1)
            whole -= len(ready)
            begun.append(ready)
        started = np.concatenate(begun) if begun else np.empty(0, np.int64)
        self.state[started] = 1
        self.reboots_at[started] = self.tick + self.rng.integers(1, 4, len(started))
        return started


def run(
    fleet: Fleet,
    *,
    ticks: int,
    policy: HaltPolicy | None = None,
    until: Callable[[Verdict], bool] = lambda verdict: verdict.call >= Call.HOLD,
    rule: HaltRule | None = None,
) -> tuple[Verdict, list[Verdict]]:
    """Run until ``until`` says so, all are updated, or ``ticks`` passed; return the last verdict, and all of them."""
    rule = rule or HaltRule(fleet.people, policy or HaltPolicy(), fleet.seed)
    verdict, all_ = Verdict(), []
    for _ in range(ticks):
        verdict = rule.step(fleet.next(verdict))
        all_.append(verdict)
        if until(verdict) or bool((fleet.state == 2).all()):
            break
    return verdict, all_
