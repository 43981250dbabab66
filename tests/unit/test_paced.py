"""Whom a line under way has yet to pass was let in when it was drawn: nobody else gets that room."""

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


AT_ZERO = Ramp.flat(0)


def line(region=EU, *, ramp=AT_ZERO, starting=0, in_flight=0, startable=TEN):
    return Line(region, ramp, 5000, starting, in_flight, startable)


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

    drawn = raised([first, line(US)], verdict, (0, 0), policy=Policy(), ramp_s=0, now=NOW)

    assert drawn == {US: Ramp(NOW, 0, NOW + 60, 100)}
