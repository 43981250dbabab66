"""What the doctor found: one thing that was looked at, how it is, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

DAY_S: Final = 86_400.0
SOON_S: Final = 14 * DAY_S
"""What ends within this time is worth a word."""


class State(StrEnum):
    """Values are shown. What was skipped could not be looked at from here."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy``: what to do; empty where nothing is to be done."""

    check: str
    state: State
    says: str
    remedy: str = ""


def ends(check: str, what: str, at: float, *, now: float, remedy: str, soon_s: float = SOON_S) -> Finding:
    """Return how it stands with something that ends at a moment (Unix seconds)."""
    left = at - now
    if left <= 0:
        return Finding(check, State.FAIL, f"{what} ended {-left / DAY_S:.1f} days ago", remedy)
    state = State.WARN if left < soon_s else State.OK
    return Finding(check, state, f"{what} ends in {left / DAY_S:.1f} days", remedy if state is State.WARN else "")
