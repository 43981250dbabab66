"""Range, If-Range and If-None-Match, case by case and as laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.ranges import Part, RangeNotSatisfiableError, find_part, is_known

TAG = '"abc"'

PARTS: dict[str, Part | None] = {
    "bytes=0-0": Part(0, 1),
    "bytes=0-": Part(0, 1000),
    "bytes=500-599": Part(500, 600),
    "bytes=990-5000": Part(990, 1000),
    "bytes=-1": Part(999, 1000),
    "bytes=-5000": Part(0, 1000),
    " bytes = 7-8 ": Part(7, 9),
    # What is malformed, or no single range of bytes, is ignored.
    "bytes=": None,
    "bytes=-": None,
    "bytes=5-4": None,
    "bytes=1-2,5-6": None,
    "bytes=a-b": None,
    "bytes=-1-2": None,
    "bytes=0x1-2": None,
    "bytes=٣-٤": None,
    "items=0-1": None,
    f"bytes={'9' * 5000}-": None,
    "": None,
}


@pytest.mark.parametrize(("header", "part"), PARTS.items())
def test_a_range_is_a_part_or_is_ignored(header: str, part: Part | None) -> None:
    assert find_part(1000, TAG, range_header=header, if_range=None) == part


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
def test_a_range_of_which_nothing_is_there_is_said_so(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError) as caught:
        find_part(1000, TAG, range_header=header, if_range=None)

    assert caught.value.size_bytes == 1000


@pytest.mark.parametrize("condition", ['"other"', 'W/"abc"', "abc", "Wed, 21 Oct 2026 07:28:00 GMT", ""])
def test_a_range_of_something_else_is_the_whole(condition: str) -> None:
    assert find_part(1000, TAG, range_header="bytes=0-1", if_range=condition) is None


def test_a_range_of_the_same_thing_is_that_range() -> None:
    assert find_part(1000, TAG, range_header="bytes=0-1", if_range=TAG) == Part(0, 2)


@pytest.mark.parametrize("header", ["*", '"abc"', 'W/"abc"', '"x", "abc"', '"x",W/"abc" , "y"'])
def test_whoever_has_it_is_known(header: str) -> None:
    assert is_known(TAG, header)


@pytest.mark.parametrize("header", [None, "", '"x"', "abc", '"ab', '"abcd"', '"x", "y"'])
def test_whoever_has_something_else_is_not(header: str | None) -> None:
    assert not is_known(TAG, header)


@given(size=st.integers(1, 1 << 40), first=st.integers(0, 1 << 41), last=st.none() | st.integers(0, 1 << 41))
def test_a_part_lies_within_what_is_there_and_within_what_was_asked(size: int, first: int, last: int | None) -> None:
    header = f"bytes={first}-{'' if last is None else last}"
    try:
        part = find_part(size, TAG, range_header=header, if_range=None)
    except RangeNotSatisfiableError:
        assert first >= size
        return

    if part is None:
        assert last is not None
        assert last < first
    else:
        assert part.first == first
        assert part.first < part.end <= size
        assert part.end == size if last is None else part.end == min(size, last + 1)


@given(st.text())
def test_no_header_is_an_error_but_one_beyond_the_end(header: str) -> None:
    part = find_part(10, TAG, range_header=header, if_range=None)

    assert part is None or 0 <= part.first < part.end <= 10
