"""One device's way through one campaign: the whole state machine.

Anything that affects a transition lives here. A device's report carries an absolute state, and MQTT may deliver it
late, twice or not at all, so the events are the states a device reports, and skipping ahead is legal: a server that
was away sees ``confirmed`` where it last knew ``downloading``. What is never legal is leaving a terminal state within
the same attempt, and reaching ``confirmed`` by any word but the device's own.

``silent`` is the server's conclusion on a device that has rebooted, not the device's word. Whatever the device says
later wins over it: a late ``confirmed`` is a late success, while the evidence keeps what was known then.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from firmware_store.errors import IllegalTransitionError


class State(StrEnum):
    """Values are what is stored and shown; ``server.protocol.messages`` numbers them for the wire."""

    WAITING = "waiting"
    DUE = "due"
    DOWNLOADING = "downloading"
    INSTALLING = "installing"
    REBOOTING = "rebooting"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"
    SILENT = "silent"
    SKIPPED = "skipped"


ATTEMPTS_MOST: Final = 3
"""After so many failed attempts of one campaign a device leaves it alone, and the server holds the device."""

TERMINAL: Final = frozenset({State.CONFIRMED, State.FAILED, State.REJECTED, State.CANCELLED, State.ROLLED_BACK})
"""No report of the same attempt leaves these; only an operator's rollback takes a device out of ``confirmed``."""

IN_FLIGHT: Final = frozenset({State.DOWNLOADING, State.INSTALLING, State.REBOOTING, State.TRIAL})
REPORTED: Final = frozenset(State) - {State.WAITING, State.SILENT, State.SKIPPED}
"""The states a device may claim; the others are the server's to conclude."""

_ENDS: Final = frozenset({State.FAILED, State.CANCELLED})
_AFTER_REBOOT: Final = frozenset({State.TRIAL, State.CONFIRMED, State.ROLLED_BACK}) | _ENDS
_WORK: Final = frozenset({State.DOWNLOADING, State.INSTALLING, State.REBOOTING}) | _AFTER_REBOOT

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        State.WAITING: frozenset({State.DUE, State.REJECTED, State.SKIPPED}) | _WORK,
        State.DUE: frozenset({State.DUE, State.REJECTED, State.SKIPPED}) | _WORK,
        State.DOWNLOADING: _WORK | {State.REJECTED},
        State.INSTALLING: _WORK - {State.DOWNLOADING} | {State.REJECTED},
        State.REBOOTING: _AFTER_REBOOT | {State.REBOOTING, State.SILENT},
        State.TRIAL: _AFTER_REBOOT | {State.SILENT},
        State.SILENT: _AFTER_REBOOT | {State.REBOOTING},
        State.CONFIRMED: frozenset({State.CONFIRMED, State.ROLLED_BACK}),  # once more: there is no way back
        State.FAILED: frozenset(),
        State.REJECTED: frozenset(),
        State.CANCELLED: frozenset(),
        State.ROLLED_BACK: frozenset(),
        State.SKIPPED: frozenset({State.DUE}) | _WORK,
    }
)


def may_follow(state: State, reported: State, *, same_attempt: bool = True) -> bool:
    """Tell whether ``reported`` may replace ``state``. A newer attempt starts from ``waiting``, unless it is over.

    A device that has confirmed, or whose release was refused, makes no further attempt.
    """
    if same_attempt:
        return reported in TRANSITIONS[state]
    if state in {State.CONFIRMED, State.REJECTED}:
        return False
    return reported in TRANSITIONS[State.WAITING]


def next_state(state: State, reported: State, *, same_attempt: bool = True) -> State:
    """Return the state that follows.

    Raises:
        IllegalTransitionError: ``reported`` may not follow ``state``; nothing changes.
    """
    if not may_follow(state, reported, same_attempt=same_attempt):
        raise IllegalTransitionError(
            f"An execution that is {state} cannot become {reported}.", state=state, allowed=sorted(TRANSITIONS[state])
        )
    return reported
