"""The machine of one device in one campaign: what a report may and may not change."""

import pytest

from firmware_store.errors import IllegalTransitionError
from server.domain.execution import IN_FLIGHT, REPORTED, TERMINAL, TRANSITIONS, State, may_follow, next_state

PATH = (
    State.WAITING,
    State.DUE,
    State.DOWNLOADING,
    State.INSTALLING,
    State.REBOOTING,
    State.TRIAL,
    State.CONFIRMED,
)


def test_the_way_of_a_good_update_is_open() -> None:
    state = PATH[0]
    for reported in PATH[1:]:
        state = next_state(state, reported)

    assert state is State.CONFIRMED


@pytest.mark.parametrize("at", range(len(PATH) - 1))
def test_every_later_state_may_follow_since_reports_get_lost(at: int) -> None:
    for later in PATH[at + 1 :]:
        assert may_follow(PATH[at], later)


@pytest.mark.parametrize("at", range(2, len(PATH)))
def test_no_earlier_state_may_follow_within_an_attempt(at: int) -> None:
    for earlier in PATH[:at]:
        assert not may_follow(PATH[at], earlier)


@pytest.mark.parametrize("state", sorted(IN_FLIGHT))
def test_progress_within_a_state_is_no_change_of_state(state: State) -> None:
    assert may_follow(state, state)


@pytest.mark.parametrize("state", sorted(TERMINAL - {State.CONFIRMED}))
def test_an_attempt_that_is_over_stays_over(state: State) -> None:
    assert not any(may_follow(state, reported) for reported in State)


def test_only_a_rollback_takes_a_device_out_of_confirmed() -> None:
    followers = {reported for reported in State if may_follow(State.CONFIRMED, reported)}

    assert followers - {State.CONFIRMED} == {State.ROLLED_BACK}


@pytest.mark.parametrize("state", sorted({State.FAILED, State.CANCELLED, State.ROLLED_BACK}))
def test_a_further_attempt_begins_from_the_beginning(state: State) -> None:
    for reported in (State.DUE, State.DOWNLOADING, State.CONFIRMED):
        assert may_follow(state, reported, same_attempt=False)


@pytest.mark.parametrize("state", sorted({State.CONFIRMED, State.REJECTED}))
def test_a_device_that_confirmed_or_refused_makes_no_further_attempt(state: State) -> None:
    assert not any(may_follow(state, reported, same_attempt=False) for reported in State)


def test_no_device_may_claim_what_the_server_concludes() -> None:
    assert REPORTED.isdisjoint({State.WAITING, State.SILENT, State.SKIPPED})


@pytest.mark.parametrize(
    "reported", sorted({State.TRIAL, State.CONFIRMED, State.FAILED, State.CANCELLED, State.ROLLED_BACK})
)
def test_whatever_a_silent_device_says_later_wins(reported: State) -> None:
    assert may_follow(State.SILENT, reported)


def test_whatever_may_still_be_said_before_a_silence_may_be_said_after_it() -> None:
    """Silence is a conclusion of the server's; it must not shut a door that was open to the device."""
    for before, following in TRANSITIONS.items():
        if State.SILENT in following:
            assert following - {State.SILENT} <= TRANSITIONS[State.SILENT], before


def test_a_transition_that_is_not_in_the_table_says_what_is() -> None:
    with pytest.raises(IllegalTransitionError, match="rolled_back cannot become trial") as caught:
        next_state(State.ROLLED_BACK, State.TRIAL)

    assert caught.value.state == State.ROLLED_BACK
    assert caught.value.allowed == ()
