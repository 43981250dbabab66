"""A device's storage in virtual time, with what the cast has in store for it: media that fail, and power cuts."""

from collections.abc import Callable
from functools import partial

from device_sim.scenario.cast import Role
from device_sim.scenario.draws import generator
from device_sim.scenario.faults import NeverConfirms, PowerCut
from device_sim.scenario.faulty_slots import ON_THE_MEDIUM, FaultySlots, Medium
from device_sim.virtual.clock import Clock
from device_sim.virtual.memory_slots import MemorySlots, MemoryStorage

Cut = Callable[[str | None, int | None], None]
"""Hears of the state, or of the number of the step, in which the power may go."""


class FaultyStorage(MemoryStorage):
    """``begin`` it at each boot. Where nothing is ever wrong with it, the slots are seen as they are."""

    def __init__(self, role: Role, slots: MemorySlots, clock: Clock, *, seed: int, cut: Cut) -> None:
        super().__init__(slots)
        self._whole = slots
        self._cut = cut
        self._role = role
        self._medium: Medium | None = None
        may_fail = any(isinstance(fault, (*ON_THE_MEDIUM, PowerCut)) for fault in role.faults)
        if may_fail or role.effects_of(NeverConfirms):
            self._medium = Medium(
                role.faults,
                now=lambda: clock.now,
                rng=generator(seed, role.id, "medium"),
                on_step=partial(cut, None),
            )

    def begin(self, version: str) -> None:
        """A boot of this version begins."""
        self._installation = None
        if self._medium is None:
            return
        self._medium.has_power = True
        confirms = self._role.effect(NeverConfirms, version) is None
        self._slots = FaultySlots(
            self._whole, self._medium, confirms=confirms, on_confirm=partial(self._cut, "confirming", None)
        )

    def lose_power(self) -> None:
        """Nothing more is stored in this boot."""
        if self._medium is not None:
            self._medium.has_power = False
