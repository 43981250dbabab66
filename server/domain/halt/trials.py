"""Trials of reboots (and of what comes before them): who enters, with which shadows, and when a block is judged.

An updated device enters when its reboot is known. At that moment shadows are drawn for it: devices of the same region
and rhythm that are online, have never begun, and are not among the next to be due. Heights are hashes, so had the
release done nothing, the two groups would go on alike.

An updated device was online from its beginning through its download until it rebooted. Its shadows must have been
online as long: a device that sleeps by habit goes back to sleep the sooner the longer it has been awake.

A device that declares that it sleeps is compared with its like, asleep or not, and asked another question: has it woken
again since, by its third expected wake after the reboot? It stays awake while it updates, so that to be heard from
right after the reboot does not show that it still wakes. Its block's deadline begins to run that much later.

*One question at a time.* A shadow is drawn again only when the answer to its last question is known: it has been heard
from at or after ``t0 + reboot_s``. So no silence of one device is counted as evidence in two open blocks, which would
make the blocks' bets depend on each other.

*A shadow that begins* leaves its block unless it has answered before: what happens to it from now on is the release's
doing. To begin it had to be alive, so only devices that would have been heard from leave, which makes the shadows look
worse than they are: the bet loses a little power and stays valid. An answered shadow stays, its answer is the past.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Final

import numpy as np

from server.domain.halt.ledger import Arm, Kind, Ledger
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.rates import Tables
from server.domain.halt.roster import Roster, Status
from server.domain.halt.shadows import FIRST_SLEEPER, RHYTHMS, Scene
from server.domain.halt.view import Bools, Floats, Indices, Moment, Population
from server.domain.halt.wealth import ASLEEP, Process

_WATCHERS_MOST: Final = 100
_SHADOWS_MOST: Final = 4000
_STALL_SHADOWS: Final = 20
_STALL_SHADOWS_MOST: Final = 1000
_LATE_NEWS_BLOCKS: Final = 3
_NEXT_DUE: Final = 2.0
_GROUPS_MOST: Final = 4
_UNSTEADY: Final = 1
_ASLEEP_SHARE: Final = 8
_UPDATED, _SHADOW, _STALL, _STAY = int(Arm.UPDATED), int(Arm.SHADOW), int(Kind.STALL), int(Kind.STAY)


@dataclass(slots=True)
class Trials:
    """Blocks and open trials of reboots and stalls; ``pending`` are the updated devices of blocks not judged at G1.

    ``slope`` is how fast each region's level rises (per second); ``draws`` counts draws: with the seed it is the
    key of a counter-based generator (Philox), so a reloaded rule draws the same shadows.
    """

    ledger: Ledger
    seed: int
    draws: int = 0
    pending_device: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    pending_block: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    last_level: Floats = field(default_factory=lambda: np.empty(0))
    slope: Floats = field(default_factory=lambda: np.empty(0))

    def grow(self, regions: int, classes: int) -> None:
        """Make room for regions and classes that have appeared since."""
        self.ledger.grow(classes)
        spare = regions - len(self.slope)
        self.slope = np.concatenate([self.slope, np.zeros(spare)])
        self.last_level = np.concatenate([self.last_level, np.full(spare, np.nan)])

    def rise(self, level: Indices, elapsed_s: float) -> None:
        """Learn how fast the levels rise."""
        risen = np.where(np.isnan(self.last_level), 0.0, level - self.last_level)
        self.slope = np.maximum(risen / max(elapsed_s, 1e-9), self.slope / 2)
        self.last_level = level.astype(np.float64)

    def settle(self, moment: Moment, roster: Roster, population: Population) -> None:
        """Strike off who has been heard from, and let shadows go that have begun with their question open."""
        ledger = self.ledger
        ledger.settle(moment.last_seen)
        if not len(ledger.device):
            return
        status = roster.status[ledger.device]
        begun = (ledger.arm != _UPDATED) & (status != Status.NEVER)
        absent = ~moment.present[ledger.device]
        ledger.withdraw(begun | absent, population.hardware)
        moved_on = (ledger.arm == _UPDATED) & (roster.status[ledger.device] != Status.STARTED)
        places = np.flatnonzero(moved_on)
        moved_on[places] = ledger.kind[ledger.rows(ledger.block[places])] == _STALL
        ledger.keep(~moved_on)

    def enter(self, kind: Kind, devices: Indices, is_bare: Bools, scene: Scene) -> None:
        """Let updated devices enter; all but the ``is_bare`` (mask) with shadows."""
        if not len(devices):
            return
        population, world, policy = scene.world.population, scene.world, scene.world.policy
        self.draws += 1
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, self.draws], np.uint64)))
        busy = self._busy(kind, len(population))
        stratum = world.stratum[devices]
        groups: list[tuple[_Door, list[Indices]]] = []
        for each in sorted(set(stratum.tolist())):
            here = np.flatnonzero(stratum == each)
            bare, mine = devices[here[is_bare[here]]], devices[here[~is_bare[here]]]
            region, rhythm = divmod(each, RHYTHMS)
            pool = scene.pool(region, rhythm, self._margin(region, policy)) if len(mine) else bare[:0]
            if not len(pool):
                bare, mine = devices[here], mine[:0]
            if len(bare):
                groups.append((_Door(region, rhythm, is_compared=False), [bare]))
            if not len(mine):
                continue
            drawn, since = [], world.roster.online_since[pool]
            for some in _alike(mine, rhythm, world.roster):
                awake = pool[since <= _middle(world.roster.started_at[some])]
                peers = awake if len(awake) and rhythm < FIRST_SLEEPER else pool
                free = peers[~busy[peers]]
                if rhythm < FIRST_SLEEPER:
                    many = _wanted(kind, len(some), len(peers), policy)
                else:
                    many = _wanted_asleep(len(some), len(free), policy)
                drawn.append(_draw(generator, free, many))
                busy[drawn[-1]] = True
            shadows = np.concatenate(drawn)
            watchers = scene.watchers(region, rhythm) if kind == Kind.REBOOT else bare[:0]
            watchers = watchers[~busy[watchers]][:_WATCHERS_MOST]
            groups.append((_Door(region, rhythm, is_compared=True), [mine, shadows, watchers]))
        self._admit(kind, groups, scene)

    def due(self, kind: Kind, *, first: bool, after_s: float, clock: Floats, ripe: Bools) -> Indices:
        """Return the rows of blocks whose deadline has come (``ripe``: regions that may be judged, mask)."""
        ledger = self.ledger
        if not len(ledger.number):
            return np.empty(0, np.int64)
        passed = clock[ledger.region] - ledger.clock >= after_s
        mine = (ledger.kind == int(kind)) & (ledger.is_first_done != first)
        return np.flatnonzero(mine & passed & ripe[ledger.region])

    def tables(self, rows: Indices, process: Process, d0: float, population: Population) -> Tables:
        """Return what the blocks of these rows have come to."""
        ledger = self.ledger
        rhythm = ledger.rhythm[rows]
        return Tables(
            process=np.where(rhythm < FIRST_SLEEPER, int(process), int(ASLEEP.get(process, process))),
            d0=np.full(len(rows), d0),
            region=ledger.region[rows].astype(np.int64),
            unsteady=rhythm == _UNSTEADY,
            counts=ledger.counts[rows],
            silent=ledger.silent(rows, population.hardware),
        )

    def release(self, rows: Indices) -> Indices:
        """Return the updated devices of these blocks, which are pending no more."""
        if not len(self.pending_block):
            return self.pending_device
        mine = self.ledger.belongs(self.pending_block, rows)
        out = self.pending_device[mine]
        self.pending_device, self.pending_block = self.pending_device[~mine], self.pending_block[~mine]
        return out

    def forget_stay(self, stops: Bools) -> None:
        """Drop the open blocks of `stay` that have no controls, where (mask of regions) the weather is bad."""
        ledger = self.ledger
        ledger.close(np.flatnonzero((ledger.kind == _STAY) & ~ledger.is_compared & stops[ledger.region]))

    def waiting(self, kind: Kind) -> Indices:
        """Return the pending devices of this kind of block."""
        rows = self.ledger.rows(self.pending_block)
        return self.pending_device[self.ledger.kind[rows] == int(kind)] if len(rows) else self.pending_device

    def _busy(self, kind: Kind, devices: int) -> Bools:
        busy = np.zeros(devices, np.bool_)
        ledger = self.ledger
        if len(ledger.device):
            asked = np.flatnonzero(ledger.arm == _SHADOW)
            asked = asked[ledger.kind[ledger.rows(ledger.block[asked])] == int(kind)]
            busy[ledger.device[asked]] = True
        return busy

    def _margin(self, region: int, policy: HaltPolicy) -> float:
        """Return how far the level will rise before a shadow drawn now has answered, twice over."""
        return float(self.slope[region]) * (policy.reboot_s + 2 * policy.block_s) * _NEXT_DUE

    def _admit(self, kind: Kind, groups: "list[tuple[_Door, list[Indices]]]", scene: Scene) -> None:
        """Let devices, by arm, in by their strata's young blocks, or by new ones."""
        policy, now, ledger = scene.world.policy, scene.moment.now, self.ledger
        young = ledger.young_blocks(kind, now - policy.block_s)
        new = [door for door, _ in groups if (door.region, door.rhythm, door.is_compared) not in young]
        numbers = ledger.open_blocks(
            kind,
            region=[door.region for door in new],
            rhythm=[door.rhythm for door in new],
            is_compared=[door.is_compared for door in new],
            clock=[scene.clock[door.region] for door in new],
            now=now,
        )
        young |= {
            (door.region, door.rhythm, door.is_compared): number
            for door, number in zip(new, numbers.tolist(), strict=True)
        }
        block = np.array([young[door.region, door.rhythm, door.is_compared] for door, _ in groups])
        rows = ledger.rows(block)
        wakes_s = [policy.wakes * float(scene.world.wake_s[arms[0]].max(initial=0)) for _, arms in groups]
        ledger.clock[rows] = np.maximum(ledger.clock[rows], scene.clock[ledger.region[rows]] + wakes_s)
        sizes = [len(each) for _, arms in groups for each in arms]
        device = np.concatenate([each for _, arms in groups for each in arms])
        numbers = np.repeat(np.repeat(block, [len(arms) for _, arms in groups]), sizes)
        arm = np.repeat(np.array([each for _, arms in groups for each in range(len(arms))], np.int8), sizes)
        since = now + (scene.world.returns_s[device] if kind == Kind.REBOOT else policy.g1_s / 2)
        ledger.enter(numbers, arm, device, scene.world.population.hardware[device], since)
        updated = arm == _UPDATED
        self.pending_device = np.concatenate([self.pending_device, device[updated]])
        self.pending_block = np.concatenate([self.pending_block, numbers[updated]])


@dataclass(frozen=True, slots=True)
class _Door:
    """Which blocks a device may enter."""

    region: int
    rhythm: int
    is_compared: bool


def _alike(devices: Indices, rhythm: int, roster: Roster) -> list[Indices]:
    """Return groups of devices that began at about the same time; but for unsteady ones, one group is enough."""
    if rhythm != _UNSTEADY or len(devices) == 1:
        return [devices]
    order = np.argsort(roster.started_at[devices], kind="stable")
    return np.array_split(devices[order], min(len(devices), _GROUPS_MOST))


def _middle(values: Floats) -> float:
    """Return a median of a few values."""
    return float(np.sort(values)[len(values) // 2])


def _draw(generator: np.random.Generator, pool: Indices, many: int) -> Indices:
    """Return ``many`` of ``pool`` at random."""
    return pool if many >= len(pool) else generator.choice(pool, many, replace=False, shuffle=False)


def is_late_news(moment: Moment, rebooted_at: Floats, policy: HaltPolicy) -> Bools:
    """Whether a reboot became known so late that shadows drawn now would be asked another question."""
    return moment.now - rebooted_at > _LATE_NEWS_BLOCKS * policy.block_s


def _wanted(kind: Kind, updated: int, pool: int, policy: HaltPolicy) -> int:
    """Return how many shadows to draw: no more than leaves some for the blocks before these have answered."""
    if kind == Kind.REBOOT:
        held_s, each, most = policy.reboot_s, policy.shadows_most, max(_SHADOWS_MOST, 2 * updated)
    else:
        held_s, each, most = policy.g1_s / 2, min(_STALL_SHADOWS, policy.shadows_most), _STALL_SHADOWS_MOST
    ration = ceil(pool * policy.block_s / (held_s + 2 * policy.block_s))
    return min(updated * each, most, ration)


def _wanted_asleep(updated: int, free: int, policy: HaltPolicy) -> int:
    """Return the same for devices that sleep: they enter seldom and answer late, so a part of those left now."""
    return min(updated * policy.shadows_most, ceil(free / _ASLEEP_SHARE))
