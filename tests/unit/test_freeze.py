"""Freezes by the wall clock, at the two moments of the year when that is not what it seems."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_store.errors import InvalidInputError
from server.domain.freeze import Freeze, check_zone, is_frozen
from server.domain.identity import Region

EU, US = Region("eu"), Region("us")
BERLIN = "Europe/Berlin"


def freeze(starts: str, ends: str, *, zone: str = BERLIN, region: Region | None = EU) -> Freeze:
    return Freeze(UUID(int=1), region, zone, datetime.fromisoformat(starts), datetime.fromisoformat(ends), "sales")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_it_holds_from_its_start_to_its_end_by_the_zones_clock() -> None:
    december = freeze("2026-12-20T18:00", "2027-01-02T06:00")

    held = [is_frozen([december], EU, utc(f"2026-12-20T{time}")) for time in ("16:59:59", "17:00")]
    assert held == [False, True]
    held = [is_frozen([december], EU, utc(f"2027-01-02T{time}")) for time in ("04:59:59", "05:00")]
    assert held == [True, False]


def test_it_holds_in_its_own_region_or_everywhere() -> None:
    now = utc("2026-12-24T12:00")

    assert not is_frozen([freeze("2026-12-20T18:00", "2027-01-02T06:00")], US, now)
    assert is_frozen([freeze("2026-12-20T18:00", "2027-01-02T06:00", region=None)], US, now)
    assert not is_frozen([], US, now)


def test_across_the_switch_to_summer_time_both_ends_keep_to_the_clock() -> None:
    """On 2026-03-29 Berlin's clocks go from 02:00 (UTC+1) to 03:00 (UTC+2)."""
    night = freeze("2026-03-28T22:00", "2026-03-29T06:00")

    assert night.begins_at == utc("2026-03-28T21:00")
    assert night.is_over_at == utc("2026-03-29T04:00")


def test_across_the_switch_to_winter_time_both_ends_keep_to_the_clock() -> None:
    """On 2026-10-25 Berlin's clocks go from 03:00 (UTC+2) back to 02:00 (UTC+1)."""
    night = freeze("2026-10-24T22:00", "2026-10-25T06:00")

    assert night.begins_at == utc("2026-10-24T20:00")
    assert night.is_over_at == utc("2026-10-25T05:00")


def test_a_time_that_comes_twice_counts_from_the_first_and_until_the_second() -> None:
    assert freeze("2026-10-25T02:30", "2026-10-26T00:00").begins_at == utc("2026-10-25T00:30")
    assert freeze("2026-10-24T00:00", "2026-10-25T02:30").is_over_at == utc("2026-10-25T01:30")


def test_a_time_that_never_comes_makes_a_freeze_no_shorter() -> None:
    assert freeze("2026-03-29T02:30", "2026-03-30T00:00").begins_at == utc("2026-03-29T00:30")
    assert freeze("2026-03-28T00:00", "2026-03-29T02:30").is_over_at == utc("2026-03-29T01:30")


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../../etc/passwd", "/etc/localtime", "Europe", "europe/b\0"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError):
        check_zone(name)


@given(
    st.datetimes(datetime.fromisoformat("2000-01-01"), datetime.fromisoformat("2035-01-01")),
    st.timedeltas(timedelta(minutes=1), timedelta(days=60)),
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia", "UTC"]),
)
def test_a_freeze_is_never_over_before_it_begins(starts: datetime, lasts: timedelta, zone: str) -> None:
    one = Freeze(UUID(int=1), EU, zone, starts, starts + lasts, "sales")

    assert one.begins_at < one.is_over_at
    assert one.holds(EU, one.begins_at)
    assert not one.holds(EU, one.is_over_at)
