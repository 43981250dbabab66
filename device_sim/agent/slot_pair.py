"""What may be done with two slots, and when: the rules of every backend that keeps their states itself."""

from abc import ABC, abstractmethod
from dataclasses import replace

from device_sim.agent.boot_environment import TRIAL_BOOTS, BootEnvironment, SlotInfo, SlotState, other
from device_sim.agent.slots import Release
from firmware_store.errors import ConflictError, DigestError, IllegalTransitionError


class SlotPair(ABC):
    """``SlotBackend`` but for the installation. Where states and images are kept is for those who derive from it."""

    def __init__(self, environment: BootEnvironment) -> None:
        self._environment = environment

    def slots(self) -> tuple[SlotInfo, ...]:
        return tuple(self._environment.slots.values())

    def booted(self) -> str:
        return self._environment.booted

    def activate(self, slot: str) -> None:
        """See ``SlotBackend``.

        Raises:
            DigestError: the slot's bytes are not, or no longer, the ones that were signed; it is unbootable now.
            IllegalTransitionError: the slot was never sealed, or is the running one.
        """
        self.put_on_trial(self.check_activatable(slot))

    def confirm(self) -> None:
        """See ``SlotBackend``.

        Raises:
            IllegalTransitionError: the running slot is not on trial.
        """
        info = self.check_confirmable()
        environment = self._environment.with_slot(replace(info, state=SlotState.CONFIRMED))
        self._save(replace(environment, active=info.name, tries_left=0))

    def revert(self, slot: str, *, verify: bool = False) -> None:
        """See ``SlotBackend``.

        Raises:
            ConflictError: the other slot is not confirmed, or with ``verify`` not intact; nothing has changed.
        """
        back = self.check_way_back(slot, verify=verify)
        info = self._environment.slots[slot]
        if info.state is not SlotState.EMPTY:
            info = replace(info, state=SlotState.UNBOOTABLE)
        self._save(replace(self._environment.with_slot(info), active=back.name, tries_left=0))

    def check_activatable(self, slot: str) -> SlotInfo:
        """Return the slot, if it may be activated. Raises: see ``activate``."""
        info = self._environment.slots[slot]
        if slot == self.booted() or info.state not in {SlotState.BOOTABLE, SlotState.TRIAL}:
            raise _illegal(info, "activate", SlotState.BOOTABLE)
        self._check(info)
        return info

    def put_on_trial(self, slot: SlotInfo) -> None:
        """Activate what ``check_activatable`` has returned."""
        environment = self._environment.with_slot(replace(slot, state=SlotState.TRIAL))
        self._save(replace(environment, tries_left=TRIAL_BOOTS))

    def check_confirmable(self) -> SlotInfo:
        """Return the running slot, if it may be confirmed. Raises: see ``confirm``."""
        info = self._environment.slots[self.booted()]
        if info.state not in {SlotState.TRIAL, SlotState.CONFIRMED}:
            raise _illegal(info, "confirm", SlotState.TRIAL)
        return info

    def check_way_back(self, slot: str, *, verify: bool) -> SlotInfo:
        """Return the slot that boots instead of ``slot``. Raises: see ``revert``."""
        back = self._environment.slots[other(slot)]
        if back.state is not SlotState.CONFIRMED:
            raise ConflictError(f"slot {back.name} is {back.state}: there is no way back to it")
        if verify and not self._is_intact(back):
            raise ConflictError(f"slot {back.name} is damaged: there is no way back to it")
        return back

    def _check_installable(self) -> SlotInfo:
        """Return the running slot, if something may be installed beside it.

        Raises:
            IllegalTransitionError: it is on trial, so that the other one is the only way back.
        """
        running = self._environment.slots[self.booted()]
        if running.state is not SlotState.CONFIRMED:
            raise _illegal(running, "install beside", SlotState.CONFIRMED)
        return running

    def _begin(self, release: Release) -> SlotInfo:
        """Write down that the other slot is being written, before its first byte changes, and return it."""
        target = SlotInfo(
            other(self.booted()),
            SlotState.INSTALLING,
            release.sequence_number,
            release.version,
            release.manifest_digest,
            release.images,
        )
        self._save(self._environment.with_slot(target))
        return target

    def _check_sealable(self, slot: str) -> SlotInfo:
        """Return the slot, if it may be sealed. Raises: IllegalTransitionError: nothing is installed there."""
        info = self._environment.slots[slot]
        if info.state is not SlotState.INSTALLING:
            raise _illegal(info, "seal", SlotState.INSTALLING)
        return info

    def _make_bootable(self, slot: SlotInfo) -> None:
        self._save(self._environment.with_slot(replace(slot, state=SlotState.BOOTABLE)))

    def _check(self, slot: SlotInfo) -> None:
        """Read a slot back; one that is not intact is unbootable from here on.

        Raises:
            DigestError: it is not intact.
        """
        if not self._is_intact(slot):
            self._save(self._environment.with_slot(replace(slot, state=SlotState.UNBOOTABLE)))
            raise DigestError(f"slot {slot.name} does not hold the bytes that were signed")

    @abstractmethod
    def _is_intact(self, slot: SlotInfo) -> bool:
        """Tell whether a slot holds the bytes that were signed."""

    @abstractmethod
    def _save(self, environment: BootEnvironment) -> None:
        """Keep an environment, and go by it from then on. Raises: StorageError, and the old one is in force."""


def _illegal(slot: SlotInfo, verb: str, needed: SlotState) -> IllegalTransitionError:
    return IllegalTransitionError(
        f"cannot {verb} slot {slot.name}: it is {slot.state}", state=slot.state, allowed=(needed,)
    )
