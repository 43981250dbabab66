"""Without controls: updated devices against the past of their own kind."""

from server.domain.halt.late import Late
from server.domain.halt.policy import HaltPolicy

POLICY = HaltPolicy()
NOON, MIDNIGHT = 12 * 3600.0, 24 * 3600.0


def _informed() -> Late:
    late = Late()
    late.learn(at=NOON, controls=4000, silent=8)
    return late


def test_as_much_silence_as_ever_wins_nothing() -> None:
    late = _informed()
    for _ in range(20):
        late.bet(at=NOON, votes=1000, silent=2, policy=POLICY)

    assert late.wealth() < 1
    assert (late.watched, late.silent) == (20_000, 40)


def test_many_times_the_silence_of_the_past_wins() -> None:
    late = _informed()
    late.bet(at=NOON, votes=1000, silent=40, policy=POLICY)

    assert late.wealth() > 100
    assert 2 < late.expected < 3


def test_an_hour_of_which_little_is_known_is_no_bet() -> None:
    late = _informed()
    late.learn(at=MIDNIGHT, controls=39, silent=0)
    late.bet(at=MIDNIGHT, votes=1000, silent=500, policy=POLICY)

    assert late.usual(MIDNIGHT) is None
    assert (late.wealth(), late.watched) == (1.0, 0)


def test_a_short_past_without_silence_is_taken_with_care() -> None:
    late = Late()
    late.learn(at=NOON, controls=100, silent=0)

    assert late.usual(NOON) > 0.015
