"""A publication's pace: no stretch of time has more than the rate allows for it, and one batch."""

from hypothesis import given
from hypothesis import strategies as st

from server.services.pace import Pace

steps = st.lists(st.tuples(st.integers(1, 5_000), st.floats(0, 10)), min_size=1, max_size=40)


@given(st.integers(1, 10_000), steps)
def test_no_more_goes_than_the_rate_allows_and_one_batch(bytes_per_s: int, steps: list[tuple[int, float]]) -> None:
    now = 0.0
    pace = Pace(bytes_per_s, clock=lambda: now)
    went: list[tuple[float, int]] = []
    for size, idle_s in steps:
        now += idle_s
        if pace.wait_s:
            now += pace.wait_s
        assert pace.wait_s < 1e-6
        pace.note(size)
        went.append((now, size))

    for first, (begin, _) in enumerate(went):
        for last in range(first, len(went)):
            end = went[last][0]
            batches = [size for _, size in went[first : last + 1]]
            assert sum(batches) <= (end - begin) * bytes_per_s + batches[-1] + 1e-3


def test_time_in_which_nothing_went_saves_up_nothing() -> None:
    now = 100.0
    pace = Pace(1000, clock=lambda: now)
    now += 3600
    pace.note(2000)

    assert pace.wait_s == 2
