"""Weather: what counts as bad, for how long, and where."""

import numpy as np
import pytest

from server.domain.halt.policy import HaltPolicy
from server.domain.halt.weather import Weather

POLICY = HaltPolicy()


def look(weather: Weather, minute: int, dark: list[int], *, count: int = 100, is_blind: bool = False) -> None:
    weather.look(
        np.full(len(dark), count),
        np.array(dark),
        now=minute * 60.0,
        elapsed_s=60.0 if minute else 0.0,
        is_blind=is_blind,
        policy=POLICY,
    )


def calm(regions: int = 4, minutes: int = 10, dark: int = 2, count: int = 100) -> Weather:
    weather = Weather(regions)
    for minute in range(minutes):
        look(weather, minute, [dark] * regions, count=count)
    return weather


@pytest.mark.parametrize(("dark", "is_bad"), [(10, False), (11, True)])
def test_more_than_8_points_above_the_usual_is_bad(dark, is_bad) -> None:
    weather = calm()
    look(weather, 10, [dark, 2, 2, 2])

    assert (weather.bad_until > 600).tolist() == [is_bad, False, False, False]


@pytest.mark.parametrize(("dark", "is_bad"), [(2, False), (3, True)])
def test_fewer_than_3_more_than_usual_are_never_bad(dark, is_bad) -> None:
    weather = calm(dark=0, count=20)
    look(weather, 10, [dark, 0, 0, 0], count=20)

    assert bool(weather.bad_until[0] > 600) == is_bad


def test_bad_weather_lasts_five_minutes_past_its_end_and_the_usual_follows_slowly() -> None:
    weather = calm()
    usual = weather.usual[0]
    for minute in range(10, 40):
        look(weather, minute, [50, 2, 2, 2])

    assert usual < weather.usual[0] < 0.14
    assert weather.since(39 * 60.0) == 600
    assert weather.judging_stops(39 * 60.0 + 299).tolist() == [True, False, False, False]
    assert weather.judging_stops(39 * 60.0 + 300).tolist() == [False] * 4


def test_the_clock_of_a_region_runs_in_good_weather_only() -> None:
    weather = calm()
    for minute in range(10, 20):
        look(weather, minute, [50, 2, 2, 2])

    assert weather.clock.tolist() == [540, 1140, 1140, 1140]
    assert weather.streak[0] == 0


def test_half_of_all_regions_bad_is_bad_everywhere() -> None:
    weather = calm()
    look(weather, 10, [50, 50, 2, 2])

    assert weather.is_everywhere(600)
    assert weather.judging_stops(600).all()


def test_without_a_link_of_our_own_it_is_bad_everywhere() -> None:
    weather = calm()
    look(weather, 10, [2, 2, 2, 2], is_blind=True)

    assert weather.is_everywhere(600 + 299)
    assert not weather.is_everywhere(600 + 300)


def test_regions_with_few_sentinels_go_by_those_of_the_fleet() -> None:
    weather = calm(regions=3, count=10, dark=0)
    look(weather, 10, [2, 2, 1], count=10)

    assert weather.is_known
    assert (weather.bad_until > 600).all()


def test_with_too_few_in_all_the_weather_is_unknown_and_never_bad() -> None:
    weather = calm(regions=1, count=10, dark=0)
    look(weather, 10, [10], count=10)

    assert not weather.is_known
    assert not weather.is_everywhere(600)


def test_one_region_that_goes_bad_three_times_soon_after_it_restarted_is_our_storm() -> None:
    weather, now = calm(regions=3), 10
    ours, untouched = np.array([True, False, False]), np.array([False, True, True])
    answers = []
    for _ in range(3):
        weather.restart(np.array([0], np.int16), now * 60.0)
        look(weather, now + 2, [50, 2, 2])
        answers.append(weather.is_storm_ours(ours, untouched, (now + 2) * 60.0))
        for minute in range(now + 3, now + 20):
            look(weather, minute, [2, 2, 2])
        now += 20

    assert answers == [False, False, True]


def test_soon_after_a_restart_is_as_soon_as_the_policys_clock_says() -> None:
    weather, strict = calm(regions=2), POLICY.model_copy(update={"strike_within_s": 60.0})
    for restarted, bad in ((600.0, 700.0), (1300.0, 1350.0)):
        weather.restart(np.array([0], np.int16), restarted)
        weather.look(np.array([100] * 2), np.array([50, 2]), now=bad, elapsed_s=60, is_blind=False, policy=strict)

    assert weather.strikes.tolist() == [1, 0]


def test_where_no_untouched_region_is_watched_nobody_can_say_whose_storm_it_is() -> None:
    weather = calm(regions=2)
    look(weather, 10, [50, 50])

    assert not weather.is_storm_ours(np.array([True, True]), np.array([False, False]), 600)
