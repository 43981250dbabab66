"""A campaign's state machine: one table, and everything else asks it.

The API's 409 answers (``allowed``) and the diagram in ``docs/architecture.md`` come from this table.
``paused`` is one state with a set of causes, each cleared by its owner alone; the campaign runs when the set is empty.
An approval of a halted campaign is one of its next run: it stays halted until somebody resumes it.
A campaign that is watching offers its release to those who come late, so it can pause, too; resumed, it watches anew.
``advance`` lets the open wave of a running campaign through a gate that waits for a person.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from firmware_store.errors import IllegalTransitionError

NO_REASON: Final = "not given"
"""What stands where somebody could have said why; an emergency and a resume after a halt do not pass with it."""


class State(StrEnum):
    """Values are what is stored and shown."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    WATCHING = "watching"
    FINISHED = "finished"
    HALTED = "halted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What moves a campaign; people and the orchestrator use the same words."""

    SUBMIT = "submit"
    APPROVE = "approve"
    START = "start"
    ADVANCE = "advance"
    PAUSE = "pause"
    RESUME = "resume"
    COMPLETE = "complete"
    FINISH = "finish"
    HALT = "halt"
    ROLLBACK = "rollback"
    RETURN = "return"
    CANCEL = "cancel"


class Cause(StrEnum):
    """Why a campaign is paused."""

    OPERATOR = "operator"
    WEATHER = "weather"
    FREEZE = "freeze"
    WINDOW = "window"
    EVALUATOR = "evaluator"
    BROKER = "broker"
    BRAKE_BUDGET = "brake_budget"
    GATE = "gate"
    TRUST = "trust"
    EVIDENCE = "evidence"  # the halt rule wants a person to look
    RESTORED = "restored"  # the database came back from a backup: what happened since, only a person knows


class Membership(StrEnum):
    """Whether devices that join the cohort after the start are of the campaign, too."""

    DYNAMIC = "dynamic"
    SNAPSHOT = "snapshot"


TERMINAL: Final = frozenset({State.ROLLED_BACK, State.CANCELLED})
ACTIVE: Final = frozenset({State.RUNNING, State.PAUSED, State.WATCHING, State.ROLLING_BACK})
"""At most one campaign in these states for each cohort in a region."""

JUDGED: Final = frozenset({State.RUNNING, State.PAUSED, State.WATCHING})
"""The halt rule has its eye on campaigns in these states."""

OFFERING: Final = frozenset({State.RUNNING, State.WATCHING})
"""An offer is signed for campaigns in these states alone."""

TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = MappingProxyType(
    {
        State.DRAFT: {Event.SUBMIT: State.AWAITING_APPROVAL, Event.CANCEL: State.CANCELLED},
        State.AWAITING_APPROVAL: {Event.APPROVE: State.SCHEDULED, Event.CANCEL: State.CANCELLED},
        State.SCHEDULED: {Event.START: State.RUNNING, Event.CANCEL: State.CANCELLED},
        State.RUNNING: {
            Event.ADVANCE: State.RUNNING,
            Event.PAUSE: State.PAUSED,
            Event.COMPLETE: State.WATCHING,
            Event.HALT: State.HALTED,
            Event.CANCEL: State.CANCELLED,
        },
        State.PAUSED: {
            Event.PAUSE: State.PAUSED,
            Event.RESUME: State.RUNNING,
            Event.HALT: State.HALTED,
            Event.ROLLBACK: State.ROLLING_BACK,
            Event.CANCEL: State.CANCELLED,
        },
        State.WATCHING: {
            Event.PAUSE: State.PAUSED,
            Event.FINISH: State.FINISHED,
            Event.HALT: State.HALTED,
            Event.ROLLBACK: State.ROLLING_BACK,
            Event.CANCEL: State.CANCELLED,
        },
        State.FINISHED: {Event.ROLLBACK: State.ROLLING_BACK},
        State.HALTED: {
            Event.APPROVE: State.HALTED,
            Event.RESUME: State.RUNNING,
            Event.ROLLBACK: State.ROLLING_BACK,
            Event.CANCEL: State.CANCELLED,
        },
        State.ROLLING_BACK: {Event.RETURN: State.ROLLED_BACK, Event.CANCEL: State.CANCELLED},
        State.ROLLED_BACK: {},
        State.CANCELLED: {},
    }
)


def allowed(state: State) -> tuple[Event, ...]:
    """Return the events that ``state`` knows, in the table's order."""
    return tuple(TRANSITIONS[state])


def next_state(state: State, event: Event) -> State:
    """Return the state that follows ``event``.

    Raises:
        IllegalTransitionError: ``event`` is not allowed in ``state``; nothing changes.
    """
    following = TRANSITIONS[state].get(event)
    if following is None:
        raise IllegalTransitionError(
            f"A campaign that is {state} cannot {event}; it can {_words(allowed(state))}.",
            state=state,
            allowed=allowed(state),
        )
    return following


def _words(events: tuple[Event, ...]) -> str:
    return ", ".join(events) if events else "do nothing more"
