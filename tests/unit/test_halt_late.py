"""Failures that come hours after the update: beside controls whatever the weather, and without them by the past."""

import numpy as np

from server.domain.halt import Call, HaltRule, Verdict
from server.domain.halt.late import Late
from server.domain.halt.ledger import Kind, Ledger
from server.domain.halt.policy import HaltPolicy
from server.domain.halt.trials import Trials
from server.domain.halt.wealth import Process
from tests.halt_fleet import Fleet, Release, population, run

POLICY = HaltPolicy()
STAY = [Process.STAY_FIRST_HOUR, Process.STAY_FOUR_HOURS, Process.STAY_LATER]
NOON, MIDNIGHT = 12 * 3600.0, 24 * 3600.0


def _informed() -> Late:
    late = Late()
    late.learn(at=NOON, controls=4000, silent=8)
    return late


def test_as_much_silence_as_ever_wins_nothing() -> None:
    late = _informed()
    for _ in range(20):
        late.bet(at=NOON, votes=1000, silent=2, policy=POLICY)

    assert late.wealth() < 1
    assert (late.watched, late.silent) == (20_000, 40)


def test_many_times_the_silence_of_the_past_wins() -> None:
    late = _informed()
    late.bet(at=NOON, votes=1000, silent=40, policy=POLICY)

    assert late.wealth() > 100
    assert 2 < late.expected < 3


def test_an_hour_of_which_little_is_known_is_no_bet() -> None:
    late = _informed()
    late.learn(at=MIDNIGHT, controls=39, silent=0)
    late.bet(at=MIDNIGHT, votes=1000, silent=500, policy=POLICY)

    assert late.usual(MIDNIGHT) is None
    assert (late.wealth(), late.watched) == (1.0, 0)


def test_a_short_past_without_silence_is_taken_with_care() -> None:
    late = Late()
    late.learn(at=NOON, controls=100, silent=0)

    assert late.usual(NOON) > 0.015


def showers(regions: int, *, until: int) -> tuple[tuple[int, int, int, float], ...]:
    """Return outages such that no region has two hours of good weather: 10 minutes in each 80, one after another."""
    every = 20 * regions
    return tuple(
        (region, begins, begins + 10, 0.5)
        for region in range(regions)
        for begins in range(100 + 20 * region, until, every)
    )


def test_devices_that_die_later_are_found_though_each_window_has_bad_weather_in_it() -> None:
    fleet = Fleet(population(3000, regions=4), Release(dies_later=0.3), rate=0.0005, outages=showers(4, until=900))
    verdict, verdicts = run(fleet, ticks=900)

    assert {name for each in verdicts for name in each.bad_weather} == {"r0", "r1", "r2", "r3"}
    assert (verdict.call, verdict.channel) == (Call.HALT, "stay")
    assert fleet.bricked.sum() < 120


def test_an_outage_that_outlasts_the_bad_weather_takes_both_groups_and_wins_nothing() -> None:
    fleet = Fleet(population(2000, regions=4), rate=0.002, outages=((0, 120, 300, 0.6), (1, 320, 390, 0.8)))
    rule = HaltRule(fleet.people, POLICY, fleet.seed)
    verdict, verdicts = run(fleet, ticks=520, rule=rule)

    assert {name for each in verdicts for name in each.bad_weather} == {"r0", "r1"}
    assert verdict.call == Call.GO
    assert max(each.wealth for each in verdicts) < 2
    silent, control_silent = rule.wealth.tally[STAY].sum(axis=0)[[3, 4]].sum(axis=0)[[1, 3]]  # of r0 and r1
    assert min(silent, control_silent) > 50


def updated_fleet(*outages: tuple[int, int, int, float]) -> tuple[Fleet, HaltRule, list[Verdict]]:
    """Return a fleet of which everybody has been updated, and a rule that has watched a day."""
    fleet = Fleet(population(1000, regions=4), rate=0.02, outages=outages)
    rule = HaltRule(fleet.people, POLICY, fleet.seed)
    rule.late.past[:] = (2000, 1)
    _, verdicts = run(fleet, ticks=600, rule=rule)
    assert (fleet.state == 2).all()
    return fleet, rule, verdicts[-1:]


def test_an_outage_after_everybody_was_updated_is_weather_and_no_late_failure() -> None:
    fleet, rule, verdicts = updated_fleet((0, 700, 900, 0.6))
    while fleet.tick < 1000:
        verdicts.append(rule.step(fleet.next(verdicts[-1])))

    assert {name for each in verdicts for name in each.bad_weather} == {"r0"}
    assert {each.call for each in verdicts} == {Call.GO}
    assert rule.late.watched > 1000


def test_deaths_after_everybody_was_updated_are_held() -> None:
    fleet, rule, verdicts = updated_fleet()
    doomed = np.random.default_rng(3).permutation(1000)[:200]
    while fleet.tick < 1000 and verdicts[-1].call is Call.GO:
        fleet.bricked[doomed[: max(0, fleet.tick - 700) // 2]] = True
        verdicts.append(rule.step(fleet.next(verdicts[-1])))

    assert (verdicts[-1].call, verdicts[-1].channel) == (Call.HOLD, "late")
    assert fleet.bricked.sum() < 150


def test_bad_weather_ends_the_windows_that_have_no_controls_and_no_other() -> None:
    trials = Trials(Ledger(1), seed=1)
    numbers = trials.ledger.open_blocks(
        Kind.STAY,
        region=[0, 0, 1],
        rhythm=[0] * 3,
        is_compared=[True, False, False],
        clock=[0.0] * 3,
        now=NOON,
    )
    trials.forget_stay(np.array([True, False]))

    assert trials.ledger.number.tolist() == [numbers[0], numbers[2]]
