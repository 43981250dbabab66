"""The machine of a campaign, and what the design says of each of its states."""

import pytest

from firmware_store.errors import IllegalTransitionError
from server.domain.campaign import ACTIVE, JUDGED, TERMINAL, TRANSITIONS, Event, State, allowed, next_state


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_a_good_campaign_goes_from_draft_to_finished() -> None:
    state = State.DRAFT
    for event in (Event.SUBMIT, Event.APPROVE, Event.START, Event.COMPLETE, Event.FINISH):
        state = next_state(state, event)

    assert state is State.FINISHED


@pytest.mark.parametrize("state", sorted({State.RUNNING, State.PAUSED, State.WATCHING}))
def test_whatever_is_under_way_can_be_halted(state: State) -> None:
    assert next_state(state, Event.HALT) is State.HALTED


@pytest.mark.parametrize("state", sorted(set(State) - {State.RUNNING, State.PAUSED, State.WATCHING}))
def test_nothing_else_can_be_halted(state: State) -> None:
    with pytest.raises(IllegalTransitionError):
        next_state(state, Event.HALT)


@pytest.mark.parametrize("state", sorted({State.HALTED, State.PAUSED, State.WATCHING, State.FINISHED}))
def test_what_has_reached_devices_can_be_rolled_back(state: State) -> None:
    assert next_state(state, Event.ROLLBACK) is State.ROLLING_BACK


@pytest.mark.parametrize("state", sorted(set(State) - TERMINAL - {State.FINISHED}))
def test_whatever_is_not_over_can_be_cancelled(state: State) -> None:
    assert next_state(state, Event.CANCEL) is State.CANCELLED


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_nothing_follows_the_end(state: State) -> None:
    assert allowed(state) == ()


def test_a_second_cause_to_pause_is_no_change_of_state() -> None:
    assert next_state(State.PAUSED, Event.PAUSE) is State.PAUSED


def test_the_states_that_hold_an_audience_are_the_ones_of_the_design() -> None:
    assert {State.RUNNING, State.PAUSED, State.WATCHING, State.ROLLING_BACK} == ACTIVE
    assert JUDGED < ACTIVE


def test_an_event_that_is_not_allowed_names_those_that_are() -> None:
    with pytest.raises(IllegalTransitionError, match="is draft cannot pause; it can submit, cancel") as caught:
        next_state(State.DRAFT, Event.PAUSE)

    assert caught.value.state == State.DRAFT
    assert caught.value.allowed == (Event.SUBMIT, Event.CANCEL)
