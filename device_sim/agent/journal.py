"""The persisted state and the effects of the event at hand, in an order that is safe to cut anywhere.

A change made by ``update`` reaches the disk before any effect emitted after it; one made by ``remember`` may be lost
by a restart, and goes along with the next ``update``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from device_sim.agent.events import Effect, Note, Persist, Write
from device_sim.agent.state import AgentState


class Journal:
    """See the module's text."""

    def __init__(self, state: AgentState) -> None:
        self.state = state
        self._effects: list[Effect] = []
        self._unsaved = False

    def update(self, **changes: Any) -> None:
        """Change fields of the state, for good before the next effect."""
        self.state = replace(self.state, **changes)
        self._unsaved = True

    def remember(self, **changes: Any) -> None:
        """Change fields of the state that a restart may forget."""
        self.state = replace(self.state, **changes)

    def emit(self, effect: Effect) -> None:
        """Add an effect; what was updated is saved first."""
        if self._unsaved and not isinstance(effect, Note):
            self._save()
        self._effects.append(effect)

    def take(self) -> list[Effect]:
        """Return the effects since the last time; what is written with nothing in between is one effect."""
        if self._unsaved:
            self._save()
        effects, self._effects = self._effects, []
        return effects if len(effects) < 2 else list(_joined(effects))

    def _save(self) -> None:
        self._effects.append(Persist(self.state))
        self._unsaved = False


def _joined(effects: Iterable[Effect]) -> Iterator[Effect]:
    for image, run in groupby(effects, lambda effect: effect.image if isinstance(effect, Write) else None):
        if image is None:
            yield from run
        else:
            yield Write(image, tuple(part for write in run if isinstance(write, Write) for part in write.parts))
