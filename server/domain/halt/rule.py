"""The rule as a whole: what happened goes in, moment by moment, and a verdict comes out."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from server.domain.halt import conclusion, rails, state
from server.domain.halt.brake import Brake
from server.domain.halt.late import Late
from server.domain.halt.ledger import Arm, Kind, Ledger
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.rates import Rates, Tables, place, stack
from server.domain.halt.roster import Roster, Status
from server.domain.halt.shadows import Scene, World
from server.domain.halt.trials import Trials, is_late_news
from server.domain.halt.view import Floats, Indices, Moment, Population, Verdict
from server.domain.halt.wealth import AGE_LIMITS_S, Process, Wealth
from server.domain.halt.weather import Weather
from server.domain.halt.windows import Windows, settle_gone

_GAP_BLOCKS: Final = 3
_GAP_SHARE: Final = 3
_UPDATED: Final = int(Arm.UPDATED)


class HaltRule:
    """The halt rule of one run of a campaign; a resumed campaign goes on with `renewed`.

    Pure: everything it knows came in through `step`, and the same moments give the same verdicts.
    """

    def __init__(self, population: Population, policy: HaltPolicy, seed: int = 0) -> None:
        """Begin with wealth 1, and with no device updated."""
        regions, classes = len(population.regions), len(population.classes)
        self.population, self.policy = population, policy
        self.now: float | None = None
        self.roster = Roster()
        self.trials = Trials(Ledger(classes), seed)
        self.weather = Weather(0)
        self.wealth = Wealth(classes, regions, bool(population.wakes_s.any()))
        self.rates, self.explicit, self.rails = Rates(), rails.Explicit(), rails.Rails()
        self.brake, self.late, self.windows = Brake(), Late(), Windows()
        # By region and class: devices with a verdict, and how many silent ones their controls explain.
        self.judged: Floats = np.zeros((0, 0))
        self.expected: Floats = np.zeros((0, 0))
        # The same of those that sleep, in all.
        self.sleepers_judged = self.sleepers_expected = 0.0
        self.bare_silent: Indices = np.empty(0, np.int64)
        self.late_silent: Indices = np.empty(0, np.int64)
        self.run_silent: Indices = np.empty(0, np.int64)
        self.started = 0
        self.halted: dict[str, Any] | None = None
        self._fit()

    @classmethod
    def load(cls, data: bytes, population: Population, policy: HaltPolicy) -> "HaltRule":
        """Return the rule that `dump` wrote; its next steps are those of the original.

        Raises:
            ValueError: the bytes are no dump, or of a fleet with more devices, regions or classes than ``population``.
        """
        rule = cls(population, policy)
        state.load(rule, data)
        rule._fit()
        return rule

    def dump(self) -> bytes:
        """Return everything that the next steps depend on, but the population and the policy."""
        return state.dump(self)

    def grow(self, population: Population) -> None:
        """Go on with a population that has more devices, regions or classes; those known keep their index."""
        self.population = population
        self._fit()

    def renewed(self, seed: int) -> "HaltRule":
        """Return the rule of the run after a resume: all processes begin at 1, what devices did stays known.

        Verdicts given are given: judged devices make room for more, silent ones keep their slot, and nobody judged
        before is judged again at G2. What was not judged yet is evidence for the new run. Use this rule no more.
        """
        rule = HaltRule(self.population, self.policy, seed)
        rule.now, rule.started = self.now, self.started
        rule.roster, rule.weather, rule.rates = self.roster, self.weather, self.rates
        rule.judged, rule.expected = self.judged, self.expected
        rule.sleepers_judged, rule.sleepers_expected = self.sleepers_judged, self.sleepers_expected
        rule.trials.ledger, rule.trials.draws = self.trials.ledger, self.trials.draws
        rule.trials.pending_device, rule.trials.pending_block = self.trials.pending_device, self.trials.pending_block
        rule.trials.ledger.close(np.flatnonzero(rule.trials.ledger.is_first_done))
        rule.windows = self.windows
        rule.late.past = self.late.past
        rule._fit()
        return rule

    def accept(self) -> None:
        """A person has ended a hold in spite of what was seen: it takes more of that to hold again."""
        self.brake.used_s = 0.0
        self.rails.flapping = 0

    def step(self, moment: Moment) -> Verdict:
        """Take in a moment and return what is concluded from all so far.

        Raises:
            ValueError: the moment is older than the last, or its arrays are not of the population's size.
        """
        self._check(moment)
        elapsed_s = 0.0 if self.now is None else moment.now - self.now
        self.now = moment.now
        gap = max(_GAP_BLOCKS * self.policy.block_s, self.policy.g1_s / _GAP_SHARE)
        self._watch(moment, elapsed_s, is_blind=moment.is_blind or elapsed_s > gap)
        self.rates.fade(elapsed_s)
        self.trials.rise(moment.level, elapsed_s)
        first = self._hear(moment)
        self.trials.settle(moment, self.roster, self.population)
        bets = self._judge(moment)
        self._enter(moment, first)
        bets += self._look_back(moment)
        if bets:
            place(stack(bets), self.wealth, self.rates, beta=self.policy.beta)
        return conclusion.conclude(self, moment, elapsed_s)

    def _check(self, moment: Moment) -> None:
        sizes = {len(moment.last_seen), len(moment.online), len(moment.present)}
        if sizes != {len(self.population)} or len(moment.level) != len(self.population.regions):
            raise ValueError("A moment's arrays are not of the population's size.")
        if self.now is not None and moment.now < self.now:
            raise ValueError("A moment is older than the one before.")

    def _fit(self) -> None:
        """Make every array as large as the population."""
        regions, classes = len(self.population.regions), len(self.population.classes)
        self.roster.grow(len(self.population))
        self.windows.grow(len(self.population), regions)
        self.weather.grow(regions)
        self.wealth.grow(classes, regions, has_sleepers=bool(self.population.wakes_s.any()))
        self.trials.grow(regions, classes)
        spare = ((0, regions - self.judged.shape[0]), (0, classes - self.judged.shape[1]))
        self.judged, self.expected = np.pad(self.judged, spare), np.pad(self.expected, spare)
        self.world = World(self.population, self.policy, self.roster)
        self.sentinels = np.flatnonzero(self.population.height >= self.world.sentinel_height)

    def _watch(self, moment: Moment, elapsed_s: float, *, is_blind: bool) -> None:
        """Look at the weather: at the settled sentinels that are not due yet, so that no dusk looks like an outage.

        Devices that sleep watch nothing. Where the fleet has too few others of these, at all settled devices not due;
        else at all sentinels; else at all. When nearly everybody is due, at those who came back from their update long
        ago: what takes many of these at once is no late failure. They are no neutral watchers, so that the weather
        still counts as unknown.
        """
        population, regions = self.population, len(self.population.regions)
        waits = (self.roster.status == Status.NEVER) & moment.present & ~self.world.sleeps
        sentinels = self._not_due(self.sentinels[waits[self.sentinels]], moment)
        choices: tuple[Callable[[], Indices], ...] = (
            lambda: sentinels[population.settled[sentinels]],
            lambda: self._not_due(np.flatnonzero(waits & population.settled), moment),
            lambda: sentinels,
            lambda: self._not_due(np.flatnonzero(waits), moment),
            lambda: self._long_updated(moment),
        )
        for choice, whom in enumerate(choices):
            mine = whom()
            if len(mine) >= self.policy.min_sentinels:
                self.weather.watch(choice)
                break
        region = population.region[mine]
        count = np.bincount(region, minlength=regions)
        dark = np.bincount(region[~moment.online[mine]], minlength=regions)
        self.weather.look(count, dark, now=moment.now, elapsed_s=elapsed_s, is_blind=is_blind, policy=self.policy)
        if self.weather.choice == len(choices) - 1:
            self.weather.is_known = False

    def _long_updated(self, moment: Moment) -> Indices:
        """Return the settled devices that have been back from their update for an hour."""
        roster = self.roster
        long_ago = roster.rebooted_at <= moment.now - AGE_LIMITS_S[0]
        good = (roster.status == Status.GOOD) & moment.present & self.population.settled & ~self.world.sleeps
        out: Indices = np.flatnonzero(good & long_ago)
        return out

    def _not_due(self, devices: Indices, moment: Moment) -> Indices:
        level = moment.level[self.population.region[devices]]
        out: Indices = devices[self.population.height[devices] >= level]
        return out

    def _hear(self, moment: Moment) -> Indices:
        """Take in the news; return the places in ``moment.rebooted`` of devices that enter a trial."""
        roster = self.roster
        if len(moment.started):
            self.started += int(np.count_nonzero(roster.status[np.unique(moment.started)] == Status.NEVER))
        roster.watch(moment)
        roster.begin(moment.started, moment.now)
        self.weather.restart(self.population.region[moment.started], moment.now)
        first = roster.reboot(moment.rebooted, moment.rebooted_at)
        failed, succeeded = roster.speak(moment)
        self.explicit.hear(failed=failed, succeeded=succeeded, policy=self.policy)
        roster.finish(moment)
        silent = np.flatnonzero(roster.status == Status.SILENT)
        back = moment.last_seen[silent] >= roster.rebooted_at[silent] + self.world.returns_s[silent]
        roster.status[silent[back]] = Status.GOOD
        return first

    def _judge(self, moment: Moment) -> list[Tables]:
        """Return the bets on every block whose deadline has come in good weather."""
        policy, trials, clock = self.policy, self.trials, self.weather.clock
        stops = self.weather.judging_stops(moment.now)
        trials.forget_stay(stops)
        ripe = ~stops & (self.weather.streak >= policy.g1_s)
        bets = []
        g1 = trials.due(Kind.REBOOT, first=True, after_s=policy.g1_s, clock=clock, ripe=ripe)
        if len(g1):
            bets.append(trials.tables(g1, Process.G1, policy.d0, self.population))
            self._count(g1, bets[-1])
        g2 = trials.due(Kind.REBOOT, first=False, after_s=policy.g2_s, clock=clock, ripe=ripe)
        if len(g2):
            bets.append(trials.tables(g2, Process.G2, policy.d0, self.population))
            self.rails.late_judged += int(bets[-1].counts[:, Arm.UPDATED].sum())
            self.rails.late_expected += float(_explained(bets[-1]).sum())
            self.late_silent = np.concatenate([self.late_silent, self._silent_updated(g2)])
            trials.ledger.close(g2)
        stall = trials.due(Kind.STALL, first=True, after_s=policy.g1_s, clock=clock, ripe=ripe)
        if len(stall):
            bets.append(trials.tables(stall, Process.STALL, policy.d0, self.population))
            trials.release(stall)
            trials.ledger.close(stall)
        stay = trials.due(Kind.STAY, first=True, after_s=policy.stay_s, clock=clock, ripe=~stops)
        if len(stay):
            bets.append(self._judge_stay(stay))
        return bets

    def _judge_stay(self, rows: Indices) -> Tables:
        """Return the bets on who has gone; who has gone leaves the younger windows."""
        ledger, policy = self.trials.ledger, self.policy
        tables = self.trials.tables(rows, Process.STAY_FIRST_HOUR, policy.d0_stay, self.population)
        tables.process[:] += ledger.age[rows]
        counts, silent = tables.counts.sum(axis=2), tables.silent.sum(axis=2)
        for i, row in enumerate(rows):
            at = float(ledger.began[row])
            if not ledger.is_compared[row]:
                votes, gone = int(counts[i, Arm.UPDATED]), int(silent[i, Arm.UPDATED])
                self.late.bet(at=at, votes=votes, silent=gone, policy=policy)
            elif ledger.age[row] == 0:
                self.late.learn(at=at, controls=int(counts[i, 1:].sum()), silent=int(silent[i, 1:].sum()))
        self.roster.has_gone[ledger.device[ledger.belongs(ledger.block, rows)]] = True
        ledger.close(rows)
        settle_gone(self.roster, ledger, self.population)
        return tables

    def _count(self, rows: Indices, tables: Tables) -> None:
        """Give every device of these blocks its verdict at G1."""
        ledger, roster = self.trials.ledger, self.roster
        devices, silent = self.trials.release(rows), self._silent_updated(rows)
        devices = devices[roster.status[devices] == Status.REBOOTED]
        roster.status[devices] = Status.GOOD
        silent = silent[roster.status[silent] == Status.GOOD]
        roster.status[silent] = Status.SILENT
        self.run_silent = np.concatenate([self.run_silent, silent])
        np.add.at(self.judged, tables.region, tables.counts[:, Arm.UPDATED])
        np.add.at(self.expected, tables.region, _explained(tables))
        asleep = tables.process == Process.G1_ASLEEP
        self.sleepers_judged += float(tables.counts[asleep, Arm.UPDATED].sum())
        self.sleepers_expected += float(_explained(tables)[asleep].sum())
        bare = rows[~ledger.is_compared[rows]]
        self.rails.bare_judged += int(ledger.counts[bare, Arm.UPDATED].sum())
        self.bare_silent = np.concatenate([self.bare_silent, self._silent_updated(bare)])
        ledger.is_first_done[rows] = True

    def _look_back(self, moment: Moment) -> list[Tables]:
        """Watch what has come back: does it flap, does it stay?"""
        self.windows.count_drops(moment, self.weather)
        flaps = self.windows.flap(self.world, moment, self.rails)
        self.windows.stay(self.world, moment, self.trials.ledger, self.weather.clock)
        return [] if flaps is None else [flaps]

    def _silent_updated(self, rows: Indices) -> Indices:
        ledger = self.trials.ledger
        mine = np.flatnonzero(ledger.arm == _UPDATED)
        mine = mine[ledger.belongs(ledger.block[mine], rows)]
        out: Indices = ledger.device[mine].astype(np.int64)
        return out

    def _enter(self, moment: Moment, first: Indices) -> None:
        """Let devices that have rebooted, or begun, enter their trials."""
        rebooted, at = moment.rebooted[first], moment.rebooted_at[first]
        begun = np.flatnonzero(self.roster.status == Status.STARTED)
        begun = begun[moment.online[begun] & ~self.world.sleeps[begun]]
        waits = np.zeros(len(self.population), np.bool_)
        waits[self.trials.waiting(Kind.STALL)] = True
        begun = begun[~waits[begun]]
        if not len(begun) and not len(rebooted):
            return
        scene = Scene(moment, self.world, self.weather.clock)
        asleep = np.count_nonzero(scene.free & self.world.sleeps)
        awake = np.count_nonzero(scene.free) - asleep
        is_bare = np.where(self.world.sleeps, asleep, awake) < self.policy.min_controls
        bare = is_late_news(moment, at, self.policy) | is_bare[rebooted]
        bare_begun = is_bare[begun]
        if self.population.named is not None:
            bare |= self.population.named[rebooted]
            bare_begun |= self.population.named[begun]
        self.trials.enter(Kind.REBOOT, rebooted, bare, scene)
        self.trials.enter(Kind.STALL, begun, bare_begun, scene)


def _explained(tables: Tables) -> Floats:
    """Return how many of each block's updated devices their controls' rate makes silent, shape (blocks, classes)."""
    controls = tables.counts[:, Arm.SHADOW].sum(axis=1)
    rate = tables.silent[:, Arm.SHADOW].sum(axis=1) / np.maximum(controls, 1)
    out: Floats = tables.counts[:, Arm.UPDATED] * rate[:, None]
    return out
