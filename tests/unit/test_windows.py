"""Maintenance windows in a device's local time: open or not, for long enough, and when next."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from firmware_store.errors import InvalidInputError
from server.domain.plan import Policy
from server.domain.windows import Window, ever_fits, fits, next_opening

NIGHT = (Window("0 2 * * *", 3 * 3600),)
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(f"{text}+00:00").timestamp()


def berlin_offset(moment: float) -> int:
    offset = datetime.fromtimestamp(moment, BERLIN).utcoffset()
    assert offset is not None
    return int(offset.total_seconds()) // 60


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-22 01:59:59", False),
        ("2026-11-22 02:00:00", True),
        ("2026-11-22 04:59:59", True),
        ("2026-11-22 05:00:00", False),
    ],
)
def test_a_window_is_open_from_its_first_second_to_its_last(moment: str, is_open: bool) -> None:
    assert fits(NIGHT, at(moment), utc_offset_minutes=0, needed_s=0.5) is is_open


def test_without_windows_it_is_always_open() -> None:
    assert fits((), 0, utc_offset_minutes=0, needed_s=1e9)


@pytest.mark.parametrize(("needed_s", "does"), [(600, True), (601, False)])
def test_what_takes_longer_than_the_window_stays_open_does_not_fit(needed_s: int, does: bool) -> None:
    assert fits(NIGHT, at("2026-11-22 04:50:00"), utc_offset_minutes=0, needed_s=needed_s) is does


def test_windows_that_touch_are_one() -> None:
    evening, morning = Window("0 22 * * *", 2 * 3600), Window("0 0 * * *", 6 * 3600)

    assert fits((evening, morning), at("2026-11-22 23:00:00"), utc_offset_minutes=0, needed_s=7 * 3600)
    assert not fits((evening, morning), at("2026-11-22 23:00:00"), utc_offset_minutes=0, needed_s=7 * 3600 + 1)


def test_a_window_of_a_whole_day_never_closes() -> None:
    always = (Window("0 0 * * *", 86_400),)

    assert fits(always, at("2026-11-22 23:59:59"), utc_offset_minutes=0, needed_s=1 << 63)


@pytest.mark.parametrize(("offset", "is_open"), [(0, False), (60, True), (-1380, True), (61, True), (-60, False)])
def test_a_window_is_in_the_devices_local_time(offset: int, is_open: bool) -> None:
    assert fits(NIGHT, at("2026-11-22 01:00:00"), utc_offset_minutes=offset, needed_s=0) is is_open


def test_the_next_opening_is_in_the_servers_time() -> None:
    opening = next_opening(NIGHT, at("2026-11-22 12:00:00"), utc_offset_minutes=60)

    assert opening == at("2026-11-23 01:00:00")


def test_the_earliest_of_several_windows_opens_next() -> None:
    windows = (Window("0 2 * * 1", 60), Window("30 1 * * *", 60))

    assert next_opening(windows, at("2026-11-22 23:00:00"), utc_offset_minutes=0) == at("2026-11-23 01:30:00")


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_when_the_clocks_change_the_window_stays_at_its_hour(day: str) -> None:
    """Spring forward and fall back in Berlin, 01:00 UTC: three in the morning is 01:00 or 02:00 UTC afterwards."""
    before = at(f"{day} 00:30:00")
    later = (Window("0 4 * * *", 3600),)
    for hours in range(6):
        moment = before + 3600 * hours
        local = datetime.fromtimestamp(moment, BERLIN)

        assert fits(later, moment, utc_offset_minutes=berlin_offset(moment), needed_s=0) is (local.hour == 4)


def test_an_opening_in_the_hour_that_does_not_exist_is_left_out_that_night() -> None:
    """02:30 of 29 March 2026 is on no clock in Berlin; the window is a night later."""
    window = (Window("30 2 * * *", 600),)
    start = at("2026-03-28 23:00:00")

    assert not any(
        fits(window, moment, utc_offset_minutes=berlin_offset(moment), needed_s=0)
        for moment in range(int(start), int(start) + 6 * 3600, 60)
    )


@pytest.mark.parametrize("moment", [0.0, 9e18, 2.52e11, -9e18])
def test_a_time_that_no_calendar_shows_is_outside_of_every_window(moment: float) -> None:
    always = (Window("* * * * *", 60),)

    assert fits(always, moment, utc_offset_minutes=0, needed_s=0) is (moment == 0)
    assert (next_opening(always, moment, utc_offset_minutes=0) is None) is (moment != 0)


def test_a_window_that_never_opens_is_none() -> None:
    never = (Window("0 0 */31 * MON#5", 60),)

    assert not fits(never, at("2026-11-22 01:00:00"), utc_offset_minutes=0, needed_s=0)
    assert next_opening(never, at("2026-11-22 01:00:00"), utc_offset_minutes=0) is None


@given(st.text(alphabet="0123456789*/,-#L W MONJA\n\u0661", max_size=40))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        window = Window(text, 60)
    except InvalidInputError:
        return
    next_opening((window,), at("2026-11-22 01:00:00"), utc_offset_minutes=0)
    fits((window,), at("2026-11-22 01:00:00"), utc_offset_minutes=0, needed_s=0)


@given(
    st.sampled_from(["0 2 * * *", "*/7 1-5 * * *", "15 22 * * 1-5", "0 0 1 * *"]),
    st.integers(1, 604_800),
    st.integers(1_700_000_000, 1_900_000_000),
    st.integers(-1440, 1440),
)
def test_it_opens_at_its_opening_and_not_before(opens: str, duration_s: int, now: int, offset: int) -> None:
    windows = (Window(opens, duration_s),)
    opening = next_opening(windows, now, utc_offset_minutes=offset)

    assert opening is not None
    assert opening > now
    assert fits(windows, opening, utc_offset_minutes=offset, needed_s=duration_s)
    local = datetime.fromtimestamp(opening, UTC) + timedelta(minutes=offset)
    assert local.second == 0
    if not fits(windows, now, utc_offset_minutes=offset, needed_s=0):
        assert not fits(windows, opening - 1, utc_offset_minutes=offset, needed_s=0)


@pytest.mark.parametrize(
    ("windows", "needed", "does"),
    [
        ((), 1e9, True),
        (NIGHT, 3 * 3600, True),
        (NIGHT, 3 * 3600 + 1, False),
        ((Window("*/30 * * * *", 1800),), 86_400, True),
        ((Window("0 0 */31 * MON#5", 3600),), 60, False),
        ((Window("0 0 */31 * MON#5", 3600), *NIGHT), 60, True),
    ],
    ids=["no windows", "just long enough", "too short", "joined", "never opens", "one of them"],
)
def test_windows_that_are_never_open_for_long_enough_are_noticed(
    windows: tuple[Window, ...], needed: float, *, does: bool
) -> None:
    assert ever_fits(windows, needed_s=needed) is does


def test_a_policy_has_windows_that_a_device_can_use() -> None:
    policy = Policy(windows=[{"opens": "0 2 * * *", "duration_s": 3600}], trial_s=300)

    assert policy.device_windows == (Window("0 2 * * *", 3600),)
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(
    "windows",
    [
        [{"opens": "0 2 * * *", "duration_s": 419}],
        [{"opens": "0 2 * * * *", "duration_s": 3600}],
        [{"opens": "sometimes", "duration_s": 3600}],
        [{"opens": "0 2 * * *"}],
        [{"opens": "0 2 * * *", "duration_s": 3600}] * 9,
    ],
)
def test_a_policy_whose_windows_no_device_could_use_is_refused(windows: Any) -> None:
    with pytest.raises(ValidationError):
        Policy(windows=windows, trial_s=300)
