"""What luck explains of a number of silent devices, in small fleets and in the largest."""

import pytest

from server.domain.bounds import is_luck


@pytest.mark.parametrize(
    ("seen", "expected", "is_explained"),
    [
        (0, 0.0, True),
        (1, 0.0, False),
        (1, 0.0101, True),
        (1, 0.0100, False),
        (9, 10.0, True),
        (18, 10.0, True),
        (19, 10.0, False),
        (866, 800.0, True),
        (868, 800.0, False),
        (2_000, 800.0, False),
        (100_000, 5_000.0, False),
    ],
)
def test_luck_explains_what_comes_once_in_a_hundred_times(seen: int, expected: float, is_explained: bool) -> None:
    assert is_luck(seen, expected) is is_explained
