"""What each order means for a device in each stage of an update: one table, tested cell by cell.

A device that has not started has no row: only an offer starts it, and any other order leaves it alone.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from server.protocol.orders import Action
from server.protocol.reasons import Reason


class Stage(StrEnum):
    DOWNLOADING = "downloading"
    WRITTEN = "written"
    TRIAL = "trial"
    CONFIRMED = "confirmed"


class Course(StrEnum):
    """What the device does about it."""

    GO_ON = "go_on"
    WAIT = "wait"  # written, and not activated for now
    STOP = "stop"  # the download ends; verified chunks stay in the slot
    DISCARD = "discard"  # the written slot becomes unbootable
    REVERT = "revert"  # boot the previous slot
    GO_BACK = "go_back"  # boot the previous slot, if it was confirmed and is intact


# ``NONE`` stands for "no current directive names this campaign", whether its end is signed or another has its place.
SWITCH: Final[Mapping[Stage, Mapping[Action, Course]]] = MappingProxyType(
    {
        Stage.DOWNLOADING: MappingProxyType(
            {
                Action.OFFER: Course.GO_ON,
                Action.HOLD: Course.GO_ON,
                Action.HALT: Course.STOP,
                Action.ROLLBACK: Course.STOP,
                Action.NONE: Course.STOP,
            }
        ),
        Stage.WRITTEN: MappingProxyType(
            {
                Action.OFFER: Course.GO_ON,
                Action.HOLD: Course.WAIT,
                Action.HALT: Course.DISCARD,
                Action.ROLLBACK: Course.DISCARD,
                Action.NONE: Course.DISCARD,
            }
        ),
        Stage.TRIAL: MappingProxyType(
            {
                Action.OFFER: Course.GO_ON,
                Action.HOLD: Course.GO_ON,
                Action.HALT: Course.REVERT,
                Action.ROLLBACK: Course.REVERT,
                Action.NONE: Course.GO_ON,  # a trial finishes by its own checks
            }
        ),
        Stage.CONFIRMED: MappingProxyType(
            {
                Action.OFFER: Course.GO_ON,
                Action.HOLD: Course.GO_ON,
                Action.HALT: Course.GO_ON,
                Action.ROLLBACK: Course.GO_BACK,
                Action.NONE: Course.GO_ON,
            }
        ),
    }
)

REASONS: Final[Mapping[Action, Reason]] = MappingProxyType(
    {Action.HALT: Reason.HALTED, Action.ROLLBACK: Reason.ROLLED_BACK, Action.NONE: Reason.CAMPAIGN_ENDED}
)
"""Why an update ended, by the order that ended it."""


def course(stage: Stage, order: Action, *, keep_on_halt: bool = False) -> Course:
    """Return what to do; ``keep_on_halt`` lets a trial finish when it is halted."""
    if stage is Stage.TRIAL and order is Action.HALT and keep_on_halt:
        return Course.GO_ON
    return SWITCH[stage][order]
