"""Whom a line under way has yet to pass was let in when it was drawn: nobody else gets that room."""

import math

import numpy as np
import pytest

from server.domain.gate import Ramp
from server.domain.halt import Verdict
from server.domain.halt.view import UNBOUNDED
from server.domain.identity import Region
from server.domain.paced import Line, Startable, raised, rooms
from server.domain.plan import Policy

NOW = 1_800_000_000
EU, US = Region("eu"), Region("us")
TEN = Startable(np.arange(100, 1100, 100), np.array([0, 1] * 5))
ROOMY = Verdict(room_in_regions=np.array([10, 10]), room_in_classes=np.array([6, 8]), room=12)


AT_ZERO, AT_ONCE = Ramp.flat(0), Ramp.flat(5000)


def line(region=EU, *, ramp=AT_ZERO, planned=AT_ONCE, starting=0, in_flight=0, startable=TEN):
    return Line(region, ramp, planned, starting, in_flight, startable)


def half_way(level):
    """A line that has been drawn 30 s ago, passes the level now, and ends 400 above it."""
    return Ramp(NOW - 30, level - 400, NOW + 30, level + 400)


@pytest.mark.parametrize(
    ("ramp", "whole", "region", "classes"),
    [
        (Ramp.flat(0), 12, 10, [6, 8]),
        (half_way(400), 8, 6, [4, 6]),
        (Ramp(NOW - 60, 0, NOW, 800), 12, 10, [6, 8]),
    ],
)
def test_a_line_under_way_takes_the_room_of_those_whom_it_has_yet_to_pass(ramp, whole, region, classes):
    left = rooms([line(ramp=ramp), line(US)], ROOMY, (0, 0), policy=Policy(), now=NOW)

    assert (left.whole, left.in_regions, left.in_classes.tolist()) == (whole, [region, 10], classes)


def test_so_do_those_who_are_about_to_start():
    left = rooms([line(starting=3), line(US)], ROOMY, (2, 1), policy=Policy(), now=NOW)

    assert (left.whole, left.in_regions, left.in_classes.tolist()) == (9, [7, 10], [4, 7])


def test_the_cap_of_a_region_counts_whom_its_line_has_let_in():
    flying = line(ramp=half_way(400), in_flight=3)

    left = rooms([flying], Verdict(), (0, 0), policy=Policy(in_flight_most=9), now=NOW)

    assert left.in_regions == [2]
    assert left.whole == UNBOUNDED - 4


def test_regions_whose_lines_begin_at_different_times_share_the_room_of_a_class():
    """One region's line has let in all of a class; the other's stays below the first device of it."""
    verdict = Verdict(room_in_regions=np.array([10, 10]), room_in_classes=np.array([2, 2]))
    first = line(ramp=half_way(400))

    drawn = raised([first, line(US)], verdict, (0, 0), policy=Policy(), now=NOW)

    assert drawn == {US: Ramp(NOW, 0, NOW + 60, 100)}


HOUR = Ramp(NOW - 600, 1000, NOW + 3000, 4600)
"""A level for each second; ten minutes of it are over."""


@pytest.mark.parametrize(
    ("level", "pace", "reached"),
    [
        (1600, 1.0, 1660),  # as the plan has it
        (1550, 1.0, 1660),  # a little behind, which is made up for at once
        (1000, 1.0, 1120),  # far behind: twice as fast
        (1000, 0.1, 1120),  # slow: a line of two minutes, and nothing is made up for
        (1700, 1.0, None),  # ahead of it, as after a change of the clock: the plan comes
    ],
)
def test_a_level_that_was_held_back_makes_up_for_it_and_is_never_above_the_plan(level, pace, reached):
    behind = line(ramp=Ramp.flat(level, NOW - 60), planned=HOUR, startable=Startable.nobody())

    drawn = raised([behind], Verdict(pace=pace), (0, 0), policy=Policy(), now=NOW)

    assert ({} if reached is None else {EU: reached}) == {name: ramp.l1 for name, ramp in drawn.items()}


def test_a_wave_takes_its_time_also_where_most_are_above_its_beginning():
    """From 85 to 95 % in an hour: a sixtieth of ten percent in a minute."""
    closing = line(ramp=Ramp.flat(85_000, NOW), planned=Ramp(NOW, 85_000, NOW + 3600, 95_000))

    drawn = raised([closing], Verdict(), (0, 0), policy=Policy(), now=NOW)

    assert drawn[EU].l1 == pytest.approx(85_000 + 10_000 / 60, abs=1)


# --- bytes per second ---


def passed(ramp, startable=TEN):
    return len(startable.within(ramp.l0, ramp.l1))


@pytest.mark.parametrize(
    ("starts_per_s", "devices", "seconds"),
    [
        (1.0, 10, 60),  # room for all: the line takes its block
        (0.1, 6, 60),
        (0.04, 2, 60),
        (0.03, 1, 60),
        (0.001, 1, 1000),  # one device, and as long as it takes
    ],
)
def test_a_line_passes_no_more_than_may_start_while_it_rises(starts_per_s, devices, seconds):
    drawn = raised([line()], Verdict(), (0, 0), policy=Policy(), now=NOW, starts_per_s=starts_per_s)[EU]

    assert (passed(drawn), drawn.t1 - drawn.t0) == (devices, seconds)


def test_the_slope_of_one_region_leaves_the_others_theirs():
    drawn = raised([line(), line(US)], Verdict(), (0, 0), policy=Policy(), now=NOW, starts_per_s=0.1)

    assert {name: passed(ramp) for name, ramp in drawn.items()} == {EU: 6, US: 6}


def test_late_devices_that_were_let_in_and_whom_a_line_passes_count_together():
    flying = line(ramp=half_way(400))._replace(admitted=1)

    left = rooms([flying, line(US)], Verdict(), (0, 0), policy=Policy(), now=NOW, starts_per_s=0.1)

    assert left.in_regions == [1, 6]


def test_a_cap_is_the_bundles_that_fit_into_a_second():
    assert Policy(region_bytes_per_s_most=1_000_000).starts_per_s(4_000_000) == 0.25
    assert Policy().starts_per_s(4_000_000) == math.inf


def test_level_by_level_no_more_start_than_the_cap_has_let_in_until_then():
    """Two hundred devices at one every two seconds: nobody is early, and nobody waits for nothing."""
    heights = np.sort(np.random.default_rng(7).integers(0, 100_000, 200))
    many = Startable(heights, np.zeros(200, np.int64))
    ramp, started = Ramp.flat(0, NOW), []
    for now in range(NOW, NOW + 520):
        state = line(ramp=ramp, planned=Ramp.flat(100_000), startable=many.above(ramp.level(now)))
        drawn = raised([state], Verdict(), (0,), policy=Policy(), now=now, starts_per_s=0.5).get(EU)
        if drawn is not None:
            ramp = drawn
            started += [ramp.due_at(int(height)) - NOW for height in many.within(ramp.l0, ramp.l1).heights]

    started.sort()
    assert all(number <= 0.5 * at + 30 for number, at in enumerate(started))
    assert (len(started), ramp.l1) == (200, 100_000)
    assert started[-1] > 340
