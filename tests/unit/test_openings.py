"""When windows open next by a wall clock: what devices will see, on the days on which clocks are changed as well."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_store.errors import InvalidInputError
from server.domain.openings import HORIZON_S, fixed, of_zone, openings
from server.domain.windows import Window, fits


def at(text: str) -> float:
    return datetime.fromisoformat(f"{text}+00:00").timestamp()


def shown(moments: list[float]) -> list[str]:
    return [datetime.fromtimestamp(moment, UTC).strftime("%m-%d %H:%M") for moment in moments]


@pytest.mark.parametrize(
    ("opens", "now", "expected"),
    [
        ("0 2 * * *", "2026-03-27 12:00", ["03-28 01:00", "03-29 01:00", "03-30 00:00"]),
        ("30 2 * * *", "2026-03-27 12:00", ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        ("30 2 * * *", "2026-10-23 12:00", ["10-24 00:30", "10-25 00:30", "10-25 01:30"]),
        ("0 5 * * *", "2026-10-23 12:00", ["10-24 03:00", "10-25 04:00", "10-26 04:00"]),
    ],
    ids=["at the jump", "in the hour that is skipped", "in the hour that comes twice", "after it"],
)
def test_windows_keep_to_the_wall_clock_over_its_changes(opens: str, now: str, expected: list[str]) -> None:
    windows = (Window(opens, 7200),)

    assert shown(openings(windows, at(now), of_zone("Europe/Berlin"), needed_s=600, count=3)) == expected


def test_a_window_that_lies_in_the_hour_that_is_skipped_does_not_open_that_night() -> None:
    found = openings(
        (Window("0 2 * * *", 1800),), at("2026-03-27 12:00"), of_zone("Europe/Berlin"), needed_s=0, count=2
    )

    assert shown(found) == ["03-28 01:00", "03-30 00:00"]


def test_an_opening_that_is_too_short_is_none() -> None:
    windows = (Window("0 2 * * *", 600), Window("0 4 * * 1", 3600))

    found = openings(windows, at("2026-11-22 12:00"), fixed(60), needed_s=601, count=2)

    assert shown(found) == ["11-23 03:00", "11-30 03:00"]


@pytest.mark.parametrize("windows", [(), (Window("* * * * *", 60),), (Window("0 0 * * *", 86_400),)])
def test_what_never_closes_has_no_opening(windows: tuple[Window, ...]) -> None:
    assert openings(windows, at("2026-11-22 12:00"), fixed(0), needed_s=0, count=3) == []


def test_nobody_looks_further_than_a_year() -> None:
    now = at("2026-03-01 12:00")

    assert openings((Window("0 0 29 2 *", 3600),), now, fixed(0), needed_s=0, count=1) == []
    assert openings((Window("0 0 28 2 *", 3600),), now, fixed(0), needed_s=0, count=9)[-1] < now + HORIZON_S


def test_a_zone_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        of_zone("Europe/Atlantis")


EXPRESSIONS = ["30 2 * * *", "0 3 * * *", "*/20 1-2 * * *", "59 23 * * 0", "0 0,2 29 * *", "15 * * * 6"]
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca"]
DAYS = ["2026-03-07 20:00", "2026-03-28 12:00", "2026-04-04 10:00", "2026-10-24 12:00", "2026-10-31 18:00"]
WINDOWS = st.lists(st.builds(Window, st.sampled_from(EXPRESSIONS), st.integers(1, 9000)), min_size=1, max_size=2)


@settings(max_examples=6)
@given(WINDOWS, st.sampled_from(ZONES), st.sampled_from(DAYS), st.integers(0, 4000))
def test_openings_are_the_minutes_at_which_a_device_begins_to_find_them_open(
    windows: list[Window], zone: str, day: str, needed_s: int
) -> None:
    """A device that looks at every minute of a day."""
    now, offset = at(day), of_zone(zone)

    def is_open(moment: float, needed_s: float) -> bool:
        return fits(windows, moment, utc_offset_minutes=offset(moment), needed_s=needed_s)

    minutes = [now + 60 * number for number in range(1, 26 * 60)]
    expected = [moment for moment in minutes if not is_open(moment - 1, 0) and is_open(moment, needed_s)]

    found = openings(windows, now, offset, needed_s=needed_s, count=200)

    assert [moment for moment in found if moment <= minutes[-1]] == expected
