"""The rule as a whole: what happened goes in, moment by moment, and a verdict comes out."""

from dataclasses import replace
from typing import Any, Final

import numpy as np

from server.domain.halt import pace, rails, sentence, state
from server.domain.halt.brake import Brake
from server.domain.halt.late import Late
from server.domain.halt.ledger import Arm, Kind, Ledger
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.rates import Rates, Tables, place
from server.domain.halt.roster import Roster, Status, by_region_and_class
from server.domain.halt.shadows import Scene, World
from server.domain.halt.trials import Trials, is_late_news
from server.domain.halt.view import Bools, Call, Floats, Indices, Moment, Population, Verdict
from server.domain.halt.wealth import CHANNELS, Process, Wealth
from server.domain.halt.weather import Weather
from server.domain.halt.windows import Windows, settle_gone

_GAP_BLOCKS: Final = 3
_GAP_SHARE: Final = 3
_TERMS_SHOWN: Final = 5


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
        self.wealth = Wealth(classes, regions)
        self.rates, self.explicit, self.rails = Rates(), rails.Explicit(), rails.Rails()
        self.brake, self.late, self.windows = Brake(), Late(), Windows()
        self.judged: Floats = np.zeros((0, 0))
        self.expected: Floats = np.zeros((0, 0))
        self.bare_silent: Indices = np.empty(0, np.int64)
        self.late_silent: Indices = np.empty(0, np.int64)
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

        Verdicts given are given: judged devices make room for more. Silent ones keep their slot.
        """
        rule = HaltRule(self.population, self.policy, seed)
        rule.now, rule.started = self.now, self.started
        rule.roster, rule.weather, rule.rates = self.roster, self.weather, self.rates
        rule.judged, rule.expected = self.judged, self.expected
        rule.trials.ledger, rule.trials.draws = self.trials.ledger, self.trials.draws
        rule.trials.pending_device, rule.trials.pending_block = self.trials.pending_device, self.trials.pending_block
        rule._fit()
        return rule

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
        self._judge(moment)
        self._enter(moment, first)
        self._look_back(moment)
        return self._conclude(moment, elapsed_s)

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
        if (classes, regions) != (self.wealth.classes, self.wealth.regions):
            self.wealth.grow(classes, regions)
        self.trials.grow(regions, classes)
        spare = ((0, regions - self.judged.shape[0]), (0, classes - self.judged.shape[1]))
        self.judged, self.expected = np.pad(self.judged, spare), np.pad(self.expected, spare)
        self.world = World(self.population, self.policy, self.roster)
        self.sentinels = np.flatnonzero(self.population.height >= self.world.sentinel_height)

    def _watch(self, moment: Moment, elapsed_s: float, *, is_blind: bool) -> None:
        """Look at the weather: at sentinels that are here and have not begun; where too few, at all such devices."""
        never = self.roster.status == Status.NEVER
        mine = self.sentinels[never[self.sentinels]]
        mine = mine[moment.present[mine]]
        if len(mine) < self.policy.min_sentinels:
            mine = np.flatnonzero(never & moment.present)
        region, regions = self.population.region[mine], len(self.population.regions)
        count = np.bincount(region, minlength=regions)
        dark = np.bincount(region[~moment.online[mine]], minlength=regions)
        self.weather.look(count, dark, now=moment.now, elapsed_s=elapsed_s, is_blind=is_blind, policy=self.policy)

    def _hear(self, moment: Moment) -> Indices:
        """Take in the news; return the places in ``moment.rebooted`` of devices that enter a trial."""
        roster = self.roster
        self.started += int((roster.status[np.unique(moment.started)] == Status.NEVER).sum())
        roster.begin(moment.started)
        self.weather.restart(self.population.region[moment.started], moment.now)
        first = roster.reboot(moment.rebooted, moment.rebooted_at)
        failed, succeeded = roster.speak(moment)
        self.explicit.hear(failed=failed, succeeded=succeeded, policy=self.policy)
        roster.finish(moment)
        silent = np.flatnonzero(roster.status == Status.SILENT)
        back = moment.last_seen[silent] >= roster.rebooted_at[silent] + self.policy.reboot_s
        roster.status[silent[back]] = Status.GOOD
        return first

    def _judge(self, moment: Moment) -> None:
        """Judge every block whose deadline has come in good weather."""
        policy, trials, clock = self.policy, self.trials, self.weather.clock
        ripe = ~self.weather.judging_stops(moment.now) & (self.weather.streak >= policy.g1_s)
        g1 = trials.due(Kind.REBOOT, first=True, after_s=policy.g1_s, clock=clock, ripe=ripe)
        if len(g1):
            tables = self._bet(g1, Process.G1, policy.d0)
            self._count(g1, tables)
        g2 = trials.due(Kind.REBOOT, first=False, after_s=policy.g2_s, clock=clock, ripe=ripe)
        if len(g2):
            tables = self._bet(g2, Process.G2, policy.d0)
            self.rails.late_judged += int(tables.counts[:, Arm.UPDATED].sum())
            self.rails.late_expected += float(_explained(tables).sum())
            self.late_silent = np.concatenate([self.late_silent, self._silent_updated(g2)])
            trials.ledger.close(g2)
        stall = trials.due(Kind.STALL, first=True, after_s=policy.g1_s, clock=clock, ripe=ripe)
        if len(stall):
            self._bet(stall, Process.STALL, policy.d0)
            trials.release(stall)
            trials.ledger.close(stall)

        stay = trials.due(Kind.STAY, first=True, after_s=policy.stay_s, clock=clock, ripe=ripe)
        if len(stay):
            self._judge_stay(stay)

    def _judge_stay(self, rows: Indices) -> None:
        """Bet on who has gone; an older window's devices are out of the younger ones before those are judged."""
        ledger, policy = self.trials.ledger, self.policy
        for began in np.unique(ledger.began[rows]):
            mine = np.flatnonzero((ledger.kind == Kind.STAY) & (ledger.began == began))
            mine = mine[np.isin(ledger.number[mine], ledger.number[rows])]
            tables = self.trials.tables(mine, Process.STAY_FIRST_HOUR, self.population)
            tables.process[:] += ledger.age[mine]
            place(tables, self.wealth, self.rates, beta=policy.beta, d0=policy.d0_stay)
            self._compare_with_history(mine, tables)
            gone = np.isin(ledger.block, ledger.number[mine])
            self.roster.has_gone[ledger.device[gone]] = True
            rows = rows[~np.isin(rows, mine)]
            closed = ledger.number[mine]
            later = ledger.number[rows]
            ledger.close(ledger.rows(closed))
            settle_gone(self.roster, ledger, self.population)
            rows = ledger.rows(later)

    def _compare_with_history(self, rows: Indices, tables: Tables) -> None:
        ledger = self.trials.ledger
        counts, silent = tables.counts.sum(axis=2), tables.silent.sum(axis=2)
        for i, row in enumerate(rows):
            at, unsteady = float(ledger.began[row]), bool(ledger.unsteady[row])
            if not ledger.is_compared[row]:
                votes, gone = int(counts[i, Arm.UPDATED]), int(silent[i, Arm.UPDATED])
                self.late.bet(unsteady=unsteady, at=at, votes=votes, silent=gone, policy=self.policy)
            elif ledger.age[row] == 0 and ledger.is_local[row]:
                many, gone = int(counts[i, 1:].sum()), int(silent[i, 1:].sum())
                self.late.learn(unsteady=unsteady, at=at, controls=many, silent=gone)

    def _look_back(self, moment: Moment) -> None:
        """Watch what has come back: does it flap, does it stay?"""
        self.windows.count_drops(moment, self.weather.judging_stops(moment.now))
        flaps = self.windows.flap(self.world, moment)
        if flaps is not None:
            place(flaps, self.wealth, self.rates, beta=self.policy.beta, d0=self.policy.d0)
        self.windows.stay(self.world, moment, self.trials.ledger, self.weather.clock)

    def _bet(self, rows: Indices, process: Process, d0: float) -> Tables:
        tables = self.trials.tables(rows, process, self.population)
        place(tables, self.wealth, self.rates, beta=self.policy.beta, d0=d0)
        return tables

    def _count(self, rows: Indices, tables: Tables) -> None:
        """Give every device of these blocks its verdict at G1."""
        ledger, roster = self.trials.ledger, self.roster
        devices, silent = self.trials.release(rows), self._silent_updated(rows)
        devices = devices[roster.status[devices] == Status.REBOOTED]
        roster.status[devices] = Status.GOOD
        silent = silent[roster.status[silent] == Status.GOOD]
        roster.status[silent] = Status.SILENT
        np.add.at(self.judged, tables.region, tables.counts[:, Arm.UPDATED])
        np.add.at(self.expected, tables.region, _explained(tables))
        bare = rows[~ledger.is_compared[rows]]
        self.rails.bare_judged += int(ledger.counts[bare, Arm.UPDATED].sum())
        self.bare_silent = np.concatenate([self.bare_silent, self._silent_updated(bare)])
        ledger.is_first_done[rows] = True

    def _silent_updated(self, rows: Indices) -> Indices:
        ledger = self.trials.ledger
        mine = (ledger.arm == Arm.UPDATED) & np.isin(ledger.block, ledger.number[rows])
        out: Indices = ledger.device[mine].astype(np.int64)
        return out

    def _enter(self, moment: Moment, first: Indices) -> None:
        """Let devices that have rebooted, or begun, enter their trials."""
        rebooted, at = moment.rebooted[first], moment.rebooted_at[first]
        begun = np.flatnonzero(self.roster.status == Status.STARTED)
        begun = begun[moment.online[begun]]
        begun = begun[~np.isin(begun, self.trials.waiting(Kind.STALL))]
        if not len(begun) and not len(rebooted):
            return
        scene = Scene(moment, self.world, self.weather.clock)
        is_bare = int(scene.free.sum()) < self.policy.min_controls
        bare = is_late_news(moment, at, self.policy) | is_bare
        if self.population.named is not None:
            bare |= self.population.named[rebooted]
        self.trials.enter(Kind.REBOOT, rebooted, bare, scene)
        self.trials.enter(Kind.STALL, begun, np.full(len(begun), is_bare), scene)

    def _conclude(self, moment: Moment, elapsed_s: float) -> Verdict:
        roster, policy, population = self.roster, self.policy, self.population
        flight = by_region_and_class(roster.flight(), population)
        silent = by_region_and_class(np.flatnonzero(roster.status == Status.SILENT), population)
        excess = np.maximum(silent - self.expected, 0)
        everywhere = self.weather.is_everywhere(moment.now)
        in_regions, in_classes, room = pace.rooms(
            judged=self.judged,
            excess=silent - self.expected,
            in_flight=flight,
            started=self.started,
            fleet=len(population),
            is_known=self.weather.is_known,
            policy=policy,
        )
        odds = max(self.wealth.total(), self.explicit.wealth())
        speed = self.brake.press(
            odds=odds, elapsed_s=elapsed_s, moment=moment, roster=roster, policy=policy, counts=not everywhere
        )
        verdict = self._decide(int(silent.sum()))
        if speed < 1.0 and verdict.call < Call.BRAKE:
            verdict = replace(verdict, call=Call.BRAKE)
        bad = self.weather.bad_until > moment.now
        updating, untouched = self._updating(flight)
        return replace(
            verdict,
            is_weather_known=self.weather.is_known,
            is_blind=everywhere,
            is_storm_ours=self.weather.is_storm_ours(updating, untouched, moment.now),
            bad_weather=frozenset(population.regions[each] for each in np.flatnonzero(bad)),
            bad_since=self.weather.since(moment.now),
            room_in_regions=in_regions,
            room_in_classes=in_classes,
            room=room,
            in_flight=int(flight.sum()),
            pace=speed,
            excess_silent=excess.sum(axis=1),
        )

    def _updating(self, flight: Indices) -> tuple[Bools, Bools]:
        """Return which regions are being updated, and which have never been touched."""
        begun = self.population.region[self.roster.status != Status.NEVER]
        touched = np.bincount(begun, minlength=len(self.population.regions)) > 0
        return flight.sum(axis=1) > 0, ~touched

    def _decide(self, silent: int) -> Verdict:
        """Return the call with its reason and numbers; a halt is for ever."""
        if self.halted is not None:
            return Verdict(**{**self.halted, "call": Call.HALT})
        policy, wealth = self.policy, self.wealth
        total, (process, scope) = wealth.total(), wealth.largest()
        name = sentence.scope_name(scope, self.population.classes, self.population.regions)
        tally = [int(each) for each in wealth.tally[process, scope]]
        main = Verdict(
            wealth=total,
            channel=CHANNELS[process],
            scope=name,
            why=sentence.compare(process, name, tally, policy) if tally[0] else "",
            judged=tally[0],
            silent=tally[1],
            controls=tally[2],
            control_silent=tally[3],
            evidence=self._evidence(),
        )
        verdict = self._call(main, silent)
        if verdict.call == Call.HALT:
            self.halted = {name: getattr(verdict, name) for name in state.HALT_FIELDS}
        return verdict

    def _call(self, main: Verdict, silent: int) -> Verdict:
        policy, told = self.policy, self.explicit
        if main.wealth >= policy.halt_at:
            return replace(main, call=Call.HALT)
        other = replace(main, scope="fleet", controls=0, control_silent=0)
        said = replace(
            other,
            channel="explicit",
            why=sentence.explicit(told.failed, told.succeeded, policy),
            judged=told.failed + told.succeeded,
            silent=told.failed,
        )
        if told.wealth() >= policy.halt_at:
            return replace(said, call=Call.HALT)
        gone = {
            "excess": int((self.roster.status[self.late_silent] == Status.SILENT).sum()),
            "bare": int((self.roster.status[self.bare_silent] == Status.SILENT).sum()),
            "small": silent,
        }
        judged = {
            "excess": self.rails.late_judged,
            "bare": self.rails.bare_judged,
            "small": int(self.judged.sum()),
        }
        call, which = rails.check(
            self.rails,
            late_silent=gone["excess"],
            bare_silent=gone["bare"],
            silent=silent,
            fleet=len(self.population),
            policy=policy,
        )
        if which:
            why = sentence.rail(
                which, silent=gone[which], judged=judged[which], expected=self.rails.late_expected, policy=policy
            )
            return replace(other, call=call, channel="rail", why=why, judged=judged[which], silent=gone[which])
        if self.late.wealth() >= policy.halt_at:
            why = sentence.late(self.late.silent, self.late.watched, self.late.expected)
            return replace(
                other, call=Call.HOLD, channel="late", why=why, judged=self.late.watched, silent=self.late.silent
            )
        reason = said if told.wealth() > main.wealth else main
        if self.brake.used_s >= policy.brake_budget_s and self.brake.is_on:
            return replace(reason, call=Call.HOLD, why=sentence.budget(self.brake.used_s, reason.why))
        return reason if reason.wealth >= policy.brake_at or reason is said else main

    def _evidence(self) -> dict[str, Any]:
        """Return the numbers behind the verdict: the largest terms of M with their counts, and the other processes."""
        terms = self.wealth.terms()
        rows = []
        for place_ in np.argsort(terms, axis=None)[::-1][:_TERMS_SHOWN]:
            process, scope = (int(each) for each in np.unravel_index(place_, terms.shape))
            updated, silent, controls, control_silent = (int(each) for each in self.wealth.tally[process, scope])
            rows.append(
                {
                    "process": Process(process).name.lower(),
                    "scope": sentence.scope_name(scope, self.population.classes, self.population.regions),
                    "wealth": float(terms[process, scope]),
                    "updated": updated,
                    "silent": silent,
                    "controls": controls,
                    "control_silent": control_silent,
                }
            )
        return {
            "wealth": float(terms.sum()),
            "terms": rows,
            "explicit": {
                "wealth": self.explicit.wealth(),
                "failed": self.explicit.failed,
                "succeeded": self.explicit.succeeded,
            },
            "late": {"wealth": self.late.wealth(), "silent": self.late.silent, "expected": self.late.expected},
            "judged": int(self.judged.sum()),
            "expected_silent": float(self.expected.sum()),
            "bare_judged": self.rails.bare_judged,
            "braked_s": self.brake.used_s,
            "started": self.started,
        }


def _explained(tables: Tables) -> Floats:
    """Return how many of each block's updated devices their controls' rate makes silent, shape (blocks, classes)."""
    controls = tables.counts[:, Arm.SHADOW].sum(axis=1)
    rate = tables.silent[:, Arm.SHADOW].sum(axis=1) / np.maximum(controls, 1)
    out: Floats = tables.counts[:, Arm.UPDATED] * rate[:, None]
    return out
