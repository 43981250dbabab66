"""Whose word a wave's gate waits for when all else is met (pure).

Numbers open a gate by themselves. A gate may want more: a person's word, given by ``advance``. It is good for the open
wave of one run, and it opens nothing by itself: all that else must hold has to hold at that moment, too.
"""

from enum import StrEnum


class Awaited(StrEnum):
    """Whose word is missing; values are what is stored and shown."""

    NOBODY = ""
    ADVANCE = "advance"


def manual_sentence(number: int) -> str:
    """Say that a wave, counted from 1, waits for a person."""
    return f"Wave {number} waits for a person: all else that its gate wants is met, and `advance` lets it through."
