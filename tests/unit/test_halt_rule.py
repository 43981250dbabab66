"""The halt rule on small fleets in virtual time: bad releases, bad weather, and what it says about them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from server.domain.halt import Call, HaltPolicy, HaltRule, Moment, Population, Verdict
from server.domain.halt.roster import Status
from server.domain.halt.wealth import Process
from tests.halt_fleet import BEGIN, FULL, TICK_S, Fleet, Release, population, run

NONE = np.empty(0, np.int64)


def moment(fleet: Population, minute: float, **news) -> Moment:
    """A moment at which everybody is here, but for ``dark`` devices, heard from for the last time at ``dark_since``."""
    now = BEGIN + minute * TICK_S
    dark = news.pop("dark", NONE)
    seen = np.full(len(fleet), now)
    seen[dark] = news.pop("dark_since", BEGIN)
    fields = {
        "now": now,
        "last_seen": seen,
        "online": now - seen <= 150,
        "present": np.ones(len(fleet), np.bool_),
        "level": np.full(len(fleet.regions), FULL // 10, np.int64),
        "started": NONE,
        "rebooted": NONE,
        "rebooted_at": np.full(len(news.get("rebooted", NONE)), now),
        "over": NONE,
        "failed": NONE,
        "succeeded": NONE,
        "dropped": NONE,
    }
    return Moment(**{**fields, **news})


def lowest(fleet: Population, many: int) -> np.ndarray:
    return np.argsort(fleet.height)[:many]


def play(rule: HaltRule, fleet: Population, minutes, **always) -> Verdict:
    for minute in minutes:
        verdict = rule.step(moment(fleet, minute, **always))
    return verdict


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("release", "most_bricked"),
    [
        (Release(bricks=0.3), 14),
        (Release(bricks=0.05), 20),
        (Release(bricks=0.5, hardware=2), 20),
        (Release(bricks=0.2, region=0), 20),
    ],
)
def test_a_release_that_bricks_is_halted_after_few_devices(release, most_bricked, seed) -> None:
    fleet = Fleet(population(3000, seed=seed), release, seed=seed)

    verdict, _ = run(fleet, ticks=300)

    assert verdict.call == Call.HALT
    assert verdict.channel == "g1"
    assert fleet.bricked.sum() <= most_bricked


def test_a_release_that_makes_devices_flap_is_halted_by_that_channel() -> None:
    fleet = Fleet(population(3000), Release(flaps=0.3))

    verdict, _ = run(fleet, ticks=300)

    assert (verdict.call, verdict.channel) == (Call.HALT, "flap")
    assert "lost 3 or more sessions within 30 min" in verdict.why


def test_devices_that_die_hours_later_are_stopped_by_the_channel_that_watches_them_stay() -> None:
    fleet = Fleet(population(3000), Release(dies_later=0.3), rate=0.0005)

    verdict, _ = run(fleet, ticks=700)

    assert (verdict.call, verdict.channel) == (Call.HALT, "stay")
    assert "went dark for 90 min" in verdict.why


def test_devices_that_say_themselves_that_it_failed_halt_the_campaign() -> None:
    fleet = Fleet(population(3000), Release(fails=0.3))

    verdict, _ = run(fleet, ticks=100)

    assert (verdict.call, verdict.channel, verdict.scope) == (Call.HALT, "explicit", "fleet")
    assert "reported that the release failed; 2.0% are tolerated." in verdict.why


@pytest.mark.parametrize("share", [0.06, 0.5])
def test_an_outage_that_hits_both_groups_pauses_at_most(share) -> None:
    fleet = Fleet(population(3000), outages=((0, 45, 105, share),), rate=0.006)

    verdict, all_ = run(fleet, ticks=600)

    assert verdict.call == Call.GO
    assert max(each.wealth for each in all_) < 10
    assert (fleet.state == 2).all()
    assert any(each.bad_weather == {"r0"} for each in all_) == (share == 0.5)


def test_a_healthy_release_ends_without_a_brake() -> None:
    fleet = Fleet(population(3000))

    verdict, all_ = run(fleet, ticks=400)

    assert {each.call for each in all_} == {Call.GO}
    assert (fleet.state == 2).all()
    assert verdict.judged >= 0


def test_nothing_is_judged_while_we_cannot_see_and_it_goes_on_by_itself() -> None:
    fleet = Fleet(population(2000), Release(bricks=0.3), blind=frozenset(range(2, 90)))

    verdict, all_ = run(fleet, ticks=200)

    assert all(each.is_blind and each.call == Call.GO for each in all_[1:93])
    assert verdict.call == Call.HALT


def test_a_gap_between_moments_is_a_time_in_which_we_did_not_see() -> None:
    fleet = population(2000)
    rule = HaltRule(fleet, HaltPolicy())
    rule.step(moment(fleet, 0))

    assert not rule.step(moment(fleet, 1)).is_blind
    assert rule.step(moment(fleet, 20)).is_blind
    assert not play(rule, fleet, range(21, 26)).is_blind


def test_devices_dark_before_the_bad_weather_are_judged_after_it() -> None:
    fleet = population(2000)
    rule, updated = HaltRule(fleet, HaltPolicy()), lowest(population(2000), 10)
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=updated))
    rule.step(moment(fleet, 4, rebooted=updated))
    bad = range(5, 65)
    for minute in bad:
        verdict = rule.step(moment(fleet, minute, dark=updated, is_blind=True))

    assert verdict.judged == 0

    verdict = play(rule, fleet, range(65, 80), dark=updated)

    assert verdict.judged == 0

    verdict = play(rule, fleet, range(80, 88), dark=updated)

    assert (verdict.call, verdict.silent, verdict.judged) == (Call.HALT, 10, 10)


def test_regions_being_updated_that_go_bad_while_untouched_ones_stay_good_are_our_storm() -> None:
    fleet = population(4000, regions=4)
    rule = HaltRule(fleet, HaltPolicy())
    play(rule, fleet, range(3))
    updated = np.flatnonzero((fleet.region < 2) & (fleet.height < FULL // 50))
    rule.step(moment(fleet, 3, started=updated))
    hit = np.flatnonzero((fleet.region < 2) & (np.arange(4000) % 2 == 0))

    verdict = rule.step(moment(fleet, 4, dark=hit))

    assert verdict.is_storm_ours
    assert verdict.bad_weather == {"r0", "r1"}
    assert verdict.bad_since == BEGIN + 4 * TICK_S


def test_a_storm_over_untouched_regions_too_is_not_ours() -> None:
    fleet = population(4000, regions=4)
    rule = HaltRule(fleet, HaltPolicy())
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=np.flatnonzero((fleet.region < 2) & (fleet.height < FULL // 50))))

    verdict = rule.step(moment(fleet, 4, dark=np.flatnonzero((fleet.region < 3) & (np.arange(4000) % 2 == 0))))

    assert not verdict.is_storm_ours
    assert verdict.is_blind  # more than half of all regions


def _with_odds(odds: float, flying: int = 6) -> tuple[HaltRule, Population]:
    """A rule with so much wealth while devices are in flight."""
    fleet = population(2000)
    rule = HaltRule(fleet, HaltPolicy())
    play(rule, fleet, range(3))
    rule.wealth.log += np.log(odds)
    updated = lowest(fleet, flying)
    rule.step(moment(fleet, 3, started=updated))
    return rule, fleet


def test_the_brake_stops_the_level_until_all_in_flight_are_judged_and_then_slows_it() -> None:
    rule, fleet = _with_odds(12)
    updated = lowest(fleet, 6)
    verdict = rule.step(moment(fleet, 4, rebooted=updated))

    assert (verdict.call, verdict.pace) == (Call.BRAKE, 0.0)

    paces = [rule.step(moment(fleet, minute)).pace for minute in range(5, 24)]

    assert paces == sorted(paces)
    assert paces[0] == 0.0
    assert paces[-1] == (0.1 if rule.wealth.total() >= 10 else 1.0)


def test_so_much_braking_without_an_answer_is_for_a_person() -> None:
    rule, fleet = _with_odds(40, flying=1)
    verdict = play(rule, fleet, range(4, 120))

    assert verdict.call == Call.BRAKE

    verdicts = [rule.step(moment(fleet, minute)) for minute in range(120, 126)]
    held = next(each for each in verdicts if each.call == Call.HOLD)

    assert "has braked for 2 h" in held.why


def test_a_halt_stays_a_halt_and_keeps_its_reason() -> None:
    fleet = Fleet(population(3000), Release(bricks=0.3))
    rule = HaltRule(fleet.people, HaltPolicy())
    verdict, _ = run(fleet, ticks=200, rule=rule)
    fleet.bricked[:] = False

    later, _ = run(fleet, ticks=30, rule=rule, until=lambda _: False)

    assert later.call == Call.HALT
    assert (later.why, later.wealth, later.silent) == (verdict.why, verdict.wealth, verdict.silent)


def test_the_sentence_says_what_happened_to_whom_and_to_those_not_updated() -> None:
    fleet = population(2000)
    rule, updated = HaltRule(fleet, HaltPolicy()), lowest(fleet, 20)
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=updated))
    rule.step(moment(fleet, 4, rebooted=updated))

    verdict = play(rule, fleet, range(5, 21), dark=updated[:7])

    assert verdict.why == (
        f"7 of 20 updated devices went dark within 15 min of their reboot; of {verdict.controls:,} comparable devices "
        "not yet updated, none did."
    )
    assert verdict.evidence["terms"][0]["silent"] == 7


def _without_controls(silent: int) -> Verdict:
    fleet = population(60, regions=1)
    rule = HaltRule(fleet, HaltPolicy())
    here = np.arange(60) < 14  # the others are held
    updated = np.arange(14)
    play(rule, fleet, range(3), present=here)
    rule.step(moment(fleet, 3, present=here, started=updated))
    rule.step(moment(fleet, 4, present=here, rebooted=updated))
    return play(rule, fleet, range(5, 22), present=here, dark=updated[:silent])


def test_without_controls_three_silent_devices_that_are_a_fifth_of_the_judged_halt() -> None:
    verdict = _without_controls(3)

    assert (verdict.call, verdict.channel, verdict.silent, verdict.judged) == (Call.HALT, "rail", 3, 14)
    assert "nothing to compare them with" in verdict.why


def test_without_controls_fewer_silent_devices_do_not_halt() -> None:
    assert _without_controls(2).call == Call.GO


def _flapping_without_controls(flapping: np.ndarray, fleet: Population, **always) -> Verdict:
    """All of ``fleet`` is updated; an hour later some devices begin to lose their session every other minute.

    Then everybody left to watch the weather is updated, and the flapping would look like bad weather.
    """
    rule, everybody = HaltRule(fleet, HaltPolicy()), np.arange(len(fleet))
    always["level"] = np.full(len(fleet.regions), FULL, np.int64)
    play(rule, fleet, range(3), **always)
    rule.step(moment(fleet, 3, started=everybody, **always))
    rule.step(moment(fleet, 4, rebooted=everybody, **always))
    play(rule, fleet, range(5, 70), **always)
    online = np.ones(len(fleet), np.bool_)
    for minute in range(70, 140):
        online[flapping] = not minute % 2
        dropped = flapping if minute % 2 else NONE
        verdict = rule.step(moment(fleet, minute, dropped=dropped, online=online.copy(), **always))
    return verdict


def test_without_controls_steady_devices_of_which_a_fifth_flap_are_held_for_a_person() -> None:
    fleet = population(120)
    steady = np.flatnonzero(~fleet.unsteady)

    verdict = _flapping_without_controls(steady[:40], fleet)

    assert (verdict.call, verdict.channel, verdict.silent, verdict.judged) == (Call.HOLD, "rail", 40, len(steady))
    assert "lost 3 or more sessions within 30 min, and there was nothing to compare them with" in verdict.why


def test_a_flapping_that_was_accepted_hides_no_hold_and_no_more_of_it() -> None:
    fleet = population(120)
    rule = HaltRule(fleet, HaltPolicy())
    rule.rails.see_flapping(watched=20, flapping=5, policy=rule.policy)
    assert rule.step(moment(fleet, 0)).call == Call.HOLD

    rule.accept()
    assert rule.step(moment(fleet, 1)).call == Call.GO
    rule.rails.see_flapping(watched=20, flapping=5, policy=rule.policy)

    assert rule.step(moment(fleet, 2)).call == Call.HOLD


@pytest.mark.parametrize(
    ("share", "is_steady", "is_one_site", "is_blind"),
    [(0.15, True, False, False), (1, False, False, False), (0.5, True, True, False), (0.5, True, False, True)],
    ids=["few", "unsteady ones", "all at one site", "seen by nobody"],
)
def test_without_controls_other_flapping_holds_nothing(share, is_steady, is_one_site, is_blind) -> None:
    fleet = population(120)
    who = np.flatnonzero(fleet.unsteady != is_steady)
    who = who[: int(share * len(who))]
    site = np.arange(120)
    if is_one_site:
        site[who] = 0

    assert _flapping_without_controls(who, replace(fleet, site=site), is_blind=is_blind).call == Call.GO


@pytest.mark.parametrize(("silent", "call"), [(0, Call.GO), (1, Call.HOLD), (2, Call.HALT)])
def test_in_a_small_fleet_the_first_silent_device_holds_and_the_second_halts(silent, call) -> None:
    fleet = population(30, regions=1)
    rule, updated = HaltRule(fleet, HaltPolicy()), lowest(fleet, 4)
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=updated))
    rule.step(moment(fleet, 4, rebooted=updated))

    assert play(rule, fleet, range(5, 22), dark=updated[:silent]).call == call


def test_a_small_fleet_goes_in_steps_of_one_three_and_ten_with_a_verdict_between() -> None:
    fleet = Fleet(population(30, regions=1), rate=1.0, nap_rate=0)
    rule = HaltRule(fleet.people, HaltPolicy())
    _, all_ = run(fleet, ticks=200, rule=rule)
    flights = [each.in_flight for each in all_]

    steps = [b for a, b in pairwise(flights) if a == 0 and b > 0]

    assert steps == [1, 3, 10, 10, 6]


def test_named_canaries_are_compared_with_nothing_and_judged_by_the_guard_rails() -> None:
    fleet = population(2000)
    updated = np.arange(10)
    fleet = replace(fleet, named=np.arange(2000) < 10)
    rule = HaltRule(fleet, HaltPolicy())
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=updated))
    rule.step(moment(fleet, 4, rebooted=updated))

    verdict = play(rule, fleet, range(5, 22), dark=updated[:3])

    assert (rule.wealth.log[Process.G1] == 0).all()
    assert (verdict.call, verdict.channel) == (Call.HALT, "rail")


@pytest.mark.parametrize("is_named", [False, True])
def test_named_canaries_are_compared_with_nothing_later_either(is_named: bool) -> None:
    fleet = population(2000)
    updated = lowest(fleet, 30)
    named = np.zeros(2000, np.bool_)
    named[updated] = is_named
    fleet = replace(fleet, named=named)
    rule, vanished, back = HaltRule(fleet, HaltPolicy()), updated[:10], updated[10:]
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=updated))
    play(rule, fleet, range(4, 30), dark=vanished)
    rule.step(moment(fleet, 30, rebooted=back))
    play(rule, fleet, range(31, 75))
    play(rule, fleet, range(75, 240), dark=updated)

    has_bet = [bool((rows != 0).any()) for rows in np.split(rule.wealth.log, [Process.STALL, Process.STAY_FIRST_HOUR])]
    assert has_bet == [not is_named] * 3


def test_many_silent_devices_in_all_halt_whatever_the_odds() -> None:
    fleet = population(3000)
    policy = HaltPolicy(beta=10, d0=0.4, rail_excess=5, rail_share=0.001)
    rule, updated = HaltRule(fleet, policy), lowest(fleet, 40)
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=updated))
    rule.step(moment(fleet, 4, rebooted=updated))

    assert play(rule, fleet, range(5, 120), dark=updated[:6]).call == Call.GO

    verdict = play(rule, fleet, range(120, 130), dark=updated[:6])

    assert (verdict.call, verdict.channel) == (Call.HALT, "rail")
    assert "still dark 2 h after their reboot" in verdict.why


def test_a_silent_device_keeps_its_slot_until_it_is_heard_from() -> None:
    fleet = population(2000)
    rule, updated = HaltRule(fleet, HaltPolicy()), lowest(fleet, 10)
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=updated))
    rule.step(moment(fleet, 4, rebooted=updated))

    verdict = play(rule, fleet, range(5, 21), dark=updated[:1])

    assert verdict.in_flight == 1
    assert verdict.excess_silent.sum() == pytest.approx(1, abs=0.05)
    assert play(rule, fleet, range(21, 23)).in_flight == 0


def test_a_shadow_that_begins_before_it_has_answered_leaves_its_block() -> None:
    fleet = population(400, regions=1)
    rule, updated = HaltRule(fleet, HaltPolicy()), lowest(fleet, 5)
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=updated))
    rule.step(moment(fleet, 4, rebooted=updated))
    ledger = rule.trials.ledger
    kind = ledger.kind[ledger.rows(ledger.block)]
    shadows = ledger.device[(ledger.arm == 1) & (kind == 0)].astype(np.int64)
    before = int(ledger.counts[ledger.kind == 0, 1].sum())

    rule.step(moment(fleet, 5, started=shadows[:8]))

    assert before == len(shadows)
    assert int(ledger.counts[ledger.kind == 0, 1].sum()) == before - 8


def test_a_resumed_run_begins_at_1_and_knows_what_was_updated() -> None:
    fleet = Fleet(population(3000), Release(bricks=0.3))
    rule = HaltRule(fleet.people, HaltPolicy())
    run(fleet, ticks=200, rule=rule)

    renewed = rule.renewed(seed=2)
    verdict = renewed.step(fleet.next(Verdict(call=Call.HALT)))

    assert verdict.call == Call.GO
    assert verdict.wealth == pytest.approx(1.0)
    assert (renewed.roster.status != Status.NEVER).sum() == (fleet.state > 0).sum()


def test_a_resumed_small_fleet_is_not_held_for_what_it_was_resumed_in_spite_of() -> None:
    fleet = population(30, regions=1)
    rule, updated = HaltRule(fleet, HaltPolicy()), lowest(fleet, 5)
    play(rule, fleet, range(3))
    rule.step(moment(fleet, 3, started=updated[:4]))
    rule.step(moment(fleet, 4, rebooted=updated[:4]))
    held = play(rule, fleet, range(5, 22), dark=updated[:1])

    renewed = rule.renewed(seed=2)
    renewed.step(moment(fleet, 22, started=updated[4:], dark=updated[:1]))
    renewed.step(moment(fleet, 23, rebooted=updated[4:], dark=updated[:1]))
    verdict = play(renewed, fleet, range(24, 42), dark=updated[:1])

    assert held.call == Call.HOLD
    assert verdict.call == Call.GO
    assert play(renewed, fleet, range(42, 160), dark=updated[:1]).call == Call.GO


def test_new_devices_regions_and_classes_are_appended() -> None:
    small, large = population(500, regions=1, classes=2), population(800, regions=2, classes=3)
    rule = HaltRule(small, HaltPolicy())
    play(rule, small, range(3))
    keep = {
        name: np.concatenate([getattr(small, name), getattr(large, name)[500:]])
        for name in ("region", "hardware", "height", "unsteady")
    }
    grown = Population(regions=("r0", "r1"), classes=("hw0", "hw1", "hw2"), **keep)
    rule.grow(grown)

    verdict = rule.step(moment(grown, 3, started=lowest(grown, 5)))

    assert verdict.in_flight == 5
    assert len(verdict.room_in_regions) == 2
    assert len(verdict.room_in_classes) == 3
    assert verdict.wealth == pytest.approx(1.0)


def test_a_moment_that_is_older_or_of_another_size_is_refused() -> None:
    fleet = population(100)
    rule = HaltRule(fleet, HaltPolicy())
    rule.step(moment(fleet, 5))

    with pytest.raises(ValueError, match="older"):
        rule.step(moment(fleet, 4))
    with pytest.raises(ValueError, match="size"):
        rule.step(moment(population(99), 6))
