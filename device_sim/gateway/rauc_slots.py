"""Slots that RAUC writes and switches. A release has one component: a RAUC bundle.

The bundle is fetched, checked and kept as an image in a folder of the file backend, so that the next one can be made
from it by chunks and deltas. RAUC gets it once every byte of it is the one that was signed; RAUC then checks its own
signature. What boots, RAUC decides; what is known of the slots is in the boot environment beside the folders.

Each change is made at RAUC first and written down after it, and what was written down is judged by what RAUC says at
the next start: a slot that was to be tried and is not the one that runs, nor the next one, has failed its trial.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from device_sim.agent.boot_environment import (
    BootEnvironment,
    EnvironmentFile,
    SlotInfo,
    SlotState,
    factory_environment,
    other,
)
from device_sim.agent.durable_file import StorageError
from device_sim.agent.file_slots import FileSlots
from device_sim.agent.slot_places import Folders
from device_sim.agent.slots import Installation, Release
from device_sim.gateway.rauc_bus import RaucBus, RaucSlot, boot_names
from firmware_store.errors import ConfigurationError

INSTALL_S: Final = 3600.0


class RaucSlots:
    """See ``SlotBackend``. ``names``: for each of the agent's slots its boot name; ``component``: the release's."""

    def __init__(
        self, directory: Path, rauc: RaucBus, *, names: Mapping[str, str], component: str, version: str = "1.0.0"
    ) -> None:
        self._rauc = rauc
        self._component = component
        self._slots = boot_names(rauc.slots(), names)
        booted = _running(self._slots)
        self._places = Folders(directory)
        self._store = _RaucStore(EnvironmentFile(directory), rauc, self._slots, booted=booted, version=version)
        self._files = FileSlots(
            directory, environment=self._store, places=self._places, before_bootable=self._hand_over
        )

    def slots(self) -> tuple[SlotInfo, ...]:
        return self._files.slots()

    def booted(self) -> str:
        return self._files.booted()

    def settle(self) -> None:
        """After a boot: what has come of a trial is written down, and a confirmed slot has all its tries again."""
        environment = self._store.read()
        self._store.write(environment)
        if environment.slots[environment.booted].state is SlotState.CONFIRMED:
            self._rauc.mark("good", self._slots[environment.booted].name)

    def install(self, release: Release) -> Installation:
        """See ``SlotBackend``.

        Raises:
            StorageError: the release is more or less than a RAUC bundle; or see ``FileSlots.install``.
            IllegalTransitionError: see ``FileSlots.install``.
        """
        if [image.name for image in release.images] != [self._component]:
            raise StorageError(f"a release for RAUC has one component, {self._component}")
        return self._files.install(release)

    def activate(self, slot: str) -> None:
        """See ``SlotBackend``. Raises: see ``FileSlots.activate``; StorageError, where RAUC refuses."""
        info = self._files.check_activatable(slot)
        self._rauc.mark("active", self._slots[slot].name)
        self._files.put_on_trial(info)

    def confirm(self) -> None:
        """See ``SlotBackend``. Raises: see ``FileSlots.confirm``; StorageError, where RAUC refuses."""
        self._files.check_confirmable()
        self._rauc.mark("good", self._slots[self.booted()].name)
        self._files.confirm()

    def revert(self, slot: str, *, verify: bool = False) -> None:
        """See ``SlotBackend``. Raises: see ``FileSlots.revert``; StorageError, where RAUC refuses.

        With ``verify`` the bundle that the other slot was written from is read back; its slot is RAUC's.
        """
        self._files.check_way_back(slot, verify=verify)
        self._rauc.mark("active", self._slots[other(slot)].name)
        self._rauc.mark("bad", self._slots[slot].name)
        self._files.revert(slot)

    def _hand_over(self, slot: SlotInfo) -> None:
        """Have RAUC write the slot. It stays unbootable: whether and when it is tried is for ``activate``."""
        self._rauc.install(self._places.path(slot.name, self._component), within_s=INSTALL_S)
        running = self._slots[self.booted()]
        if self._rauc.primary() != running.name:  # system.conf lacks activate-installed=false
            self._rauc.mark("active", running.name)
            self._rauc.mark("bad", self._slots[slot.name].name)


def _running(slots: Mapping[str, RaucSlot]) -> str:
    running = [own for own, slot in slots.items() if slot.is_booted]
    if len(running) != 1:
        raise ConfigurationError("RAUC does not know which of its slots runs")
    return running[0]


class _RaucStore:
    """The boot environment, seen in the light of what RAUC says runs and boots next."""

    def __init__(
        self, file: EnvironmentFile, rauc: RaucBus, slots: Mapping[str, RaucSlot], *, booted: str, version: str
    ) -> None:
        self._file = file
        self._rauc = rauc
        self._slots = slots
        self._booted = booted
        self._version = version

    def read(self) -> BootEnvironment:
        if not self._file.is_there:
            return factory_environment(SlotInfo(self._booted, SlotState.CONFIRMED, version=self._version))
        environment = replace(self._file.read(), booted=self._booted)
        running = environment.slots[self._booted]
        if running.state is SlotState.BOOTABLE:  # the power went after RAUC was told, and before it was written down
            return environment.with_slot(replace(running, state=SlotState.TRIAL))
        trial = environment.trial
        if trial is not None and trial != self._booted and self._rauc.primary() != self._slots[trial].name:
            spent = replace(environment.slots[trial], state=SlotState.UNBOOTABLE)
            return environment.with_slot(spent)
        return environment

    def write(self, environment: BootEnvironment) -> None:
        self._file.write(environment)
