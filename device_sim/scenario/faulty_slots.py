"""Slots on a medium that fails: full, worn out, torn; or whose running image is not what its slot says.

It stands between the agent and any slot backend, with files or in memory, so a fault does the same in every world.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, TypeVar

from device_sim.agent.boot_environment import SlotInfo
from device_sim.agent.durable_file import StorageError
from device_sim.agent.slots import Installation, Piece, Release, SlotBackend
from device_sim.scenario.faults import Full, TimedFault, TornWrite, WriteError, WrongDeltaBase
from firmware_store.errors import DigestError
from server.protocol.reasons import Reason

ON_THE_MEDIUM: Final = (Full, WriteError, TornWrite, WrongDeltaBase)
"""The faults that are carried out here."""

_Kind = TypeVar("_Kind", bound=TimedFault)


class Medium:
    """What is wrong with one device's storage, over all its boots. ``now``: seconds of the fleet.

    ``on_step`` hears the number of each step of an update before it is done: 1 is the opening of the slot.
    """

    def __init__(
        self,
        faults: Sequence[TimedFault],
        *,
        now: Callable[[], float],
        rng: Random,
        on_step: Callable[[int], None] = lambda _number: None,
    ) -> None:
        self._faults = tuple(fault for fault in faults if isinstance(fault, ON_THE_MEDIUM))
        self._now = now
        self._rng = rng
        self._on_step = on_step
        self._steps = 0
        self.has_power = True
        """Without it, nothing that is asked of the medium happens."""

    def begin_update(self) -> None:
        """Count steps from here on; refuse, if there is no room."""
        self._steps = 0
        self.step()
        if self._active(Full):
            raise StorageError("no room for the release", reason=Reason.STORAGE_FULL)

    def step(self) -> None:
        """Count one more step.

        Raises:
            StorageError: the power went with it, or before.
        """
        self._steps += 1
        self._on_step(self._steps)
        if not self.has_power:
            raise StorageError("the power is gone")

    def write(self, parts: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Return what of a write arrives on the medium.

        Raises:
            StorageError: nothing does.
        """
        if any(self._rng.random() < fault.ratio for fault in self._active(WriteError)):
            raise StorageError("the medium does not take what is written")
        if any(self._rng.random() < fault.ratio for fault in self._active(TornWrite)):
            return [(offset, data[: len(data) // 2]) for offset, data in parts]
        return list(parts)

    def apply_delta(self) -> None:
        """Raises: DigestError: what a delta makes of the running image is something else."""
        if self._active(WrongDeltaBase):
            raise DigestError("what was made of the running image is not what was signed")

    def _active(self, kind: type[_Kind]) -> list[_Kind]:
        now = self._now()
        return [fault for fault in self._faults if isinstance(fault, kind) and fault.at <= now < fault.until]


class FaultySlots:
    """See ``SlotBackend``. Without ``confirms``, no confirmation takes; ``on_confirm`` hears of each before it does."""

    def __init__(
        self,
        slots: SlotBackend,
        medium: Medium,
        *,
        confirms: bool = True,
        on_confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self._slots = slots
        self._on_confirm = on_confirm
        self._medium = medium
        self._confirms = confirms

    def slots(self) -> tuple[SlotInfo, ...]:
        return self._slots.slots()

    def booted(self) -> str:
        return self._slots.booted()

    def install(self, release: Release) -> Installation:
        self._medium.begin_update()
        return _FaultyInstallation(self._slots.install(release), self._medium)

    def activate(self, slot: str) -> None:
        self._medium.step()
        self._slots.activate(slot)

    def confirm(self) -> None:
        self._on_confirm()
        self._medium.step()
        if not self._confirms:
            raise StorageError("the confirmation does not take")
        self._slots.confirm()

    def revert(self, slot: str, *, verify: bool = False) -> None:
        self._medium.step()
        self._slots.revert(slot, verify=verify)


class _FaultyInstallation:
    def __init__(self, installation: Installation, medium: Medium) -> None:
        self.slot = installation.slot
        self._installation = installation
        self._medium = medium

    def adopt(self, image: int) -> bool:
        self._medium.step()
        return self._installation.adopt(image)

    def reuse(self, image: int, pieces: Sequence[Piece], *, moved: bool = False) -> tuple[bool, ...]:
        return self._installation.reuse(image, pieces, moved=moved)

    def write(self, image: int, parts: Sequence[tuple[int, bytes]]) -> None:
        self._medium.step()
        self._installation.write(image, self._medium.write(parts))

    def stage(self, name: bytes) -> int:
        return self._installation.stage(name)

    def make(self, image: int, codec: str | None) -> None:
        self._medium.step()
        if codec is not None:
            self._medium.apply_delta()
        self._installation.make(image, codec)

    def seal(self) -> None:
        self._medium.step()
        self._installation.seal()
