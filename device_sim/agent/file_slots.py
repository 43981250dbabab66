"""The slot backend that keeps images as files, for the simulator and for boards whose slots are mounted folders."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from device_sim.agent.boot_environment import (
    TRIAL_BOOTS,
    BootEnvironment,
    EnvironmentFile,
    EnvironmentStore,
    Image,
    SlotInfo,
    SlotState,
    factory_environment,
    other,
)
from device_sim.agent.durable_file import StorageError, make_directory, replace_file
from device_sim.agent.file_installation import FileInstallation
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.agent.slot_places import Folders, Places
from device_sim.agent.slots import Release
from firmware_store.errors import ConflictError, DigestError, IllegalTransitionError
from firmware_store.suit_values import is_component_name


class FileSlots:
    """Slots as files beside the boot environment, unless ``places`` and ``environment`` say otherwise.

    ``before_bootable`` is called with a slot whose bytes have been found to be the ones that were signed, before it is
    bootable; what it raises keeps it from that. One process at a time.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = True,
        files: Filesystem = SYSTEM_FILES,
        environment: EnvironmentStore | None = None,
        places: Places | None = None,
        before_bootable: Callable[[SlotInfo], None] | None = None,
    ) -> None:
        self._directory = directory
        self._files = files
        self._store = environment or EnvironmentFile(directory, durable=durable, files=files)
        self._places = places or Folders(directory, durable=durable, files=files)
        self._before_bootable = before_bootable
        self._environment = self._store.read()

    def slots(self) -> tuple[SlotInfo, ...]:
        return tuple(self._environment.slots.values())

    def booted(self) -> str:
        return self._environment.booted

    def install(self, release: Release) -> FileInstallation:
        """See ``SlotBackend``.

        Raises:
            IllegalTransitionError: the running slot is on trial, so that the other one is the only way back.
            StorageError: no room, or the medium failed.
        """
        running = self._environment.slots[self.booted()]
        if running.state is not SlotState.CONFIRMED:
            raise _illegal(running, "install beside", SlotState.CONFIRMED)
        if not all(is_component_name(image.name) for image in release.images):
            raise StorageError("a component whose name cannot be a file's")
        name = other(running.name)
        target = SlotInfo(
            name,
            SlotState.INSTALLING,
            release.sequence_number,
            release.version,
            release.manifest_digest,
            release.images,
        )
        self._places.check_room(name, release.images)
        self._save(self._environment.with_slot(target))  # before its first byte changes
        self._places.lay_out(name, release.images)
        return FileInstallation(
            name,
            target.images,
            places=self._places,
            running_slot=running.name,
            running=running.images,
            staging=self._directory / "slots" / "staging",
            seal=lambda: self.seal(name),
            files=self._files,
        )

    def activate(self, slot: str) -> None:
        """See ``SlotBackend``.

        Raises:
            DigestError: the slot's bytes have changed since they were sealed; it is unbootable now.
            IllegalTransitionError: the slot was never sealed, or is the running one.
        """
        info = self.check_activatable(slot)
        environment = self._environment.with_slot(replace(info, state=SlotState.TRIAL))
        self._save(replace(environment, tries_left=TRIAL_BOOTS))

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
        self.check(info)
        return info

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

    def seal(self, slot: str) -> None:
        """Make an installed slot bootable, if its bytes are the ones that were signed.

        Raises:
            DigestError: they are not; the slot is unbootable.
        """
        info = self._environment.slots[slot]
        if info.state is not SlotState.INSTALLING:
            raise _illegal(info, "seal", SlotState.INSTALLING)
        self._places.sync(slot, info.images)
        self.check(info)
        if self._before_bootable is not None:
            self._before_bootable(info)
        self._save(self._environment.with_slot(replace(info, state=SlotState.BOOTABLE)))

    def check(self, slot: SlotInfo) -> None:
        """Read a slot back; one that is not intact is unbootable from here on.

        Raises:
            DigestError: it is not intact.
        """
        if not self._is_intact(slot):
            self._save(self._environment.with_slot(replace(slot, state=SlotState.UNBOOTABLE)))
            raise DigestError(f"slot {slot.name} does not hold the bytes that were signed")

    def _is_intact(self, slot: SlotInfo) -> bool:
        return all(self._places.holds(slot.name, image) for image in slot.images)

    def _save(self, environment: BootEnvironment) -> None:
        self._store.write(environment)
        self._environment = environment


def provision(
    directory: Path,
    *,
    version: str = "1.0.0",
    seeds: Mapping[str, Path] | None = None,
    durable: bool = True,
    files: Filesystem = SYSTEM_FILES,
) -> None:
    """Give a device its factory image in slot a, unless it has one; ``seeds`` are its components' files."""
    store = EnvironmentFile(directory, durable=durable, files=files)
    if store.is_there:
        return
    places = Folders(directory, durable=durable, files=files)
    make_directory(places.folder("a"), durable=durable, files=files)
    images: list[Image] = []
    for name, seed in (seeds or {}).items():
        content = seed.read_bytes()
        replace_file(Path(places.path("a", name)), content, durable=durable, files=files)
        images.append(Image(name, hashlib.sha256(content).digest(), len(content)))
    store.write(factory_environment(SlotInfo("a", SlotState.CONFIRMED, 0, version, b"", tuple(images))))


def _illegal(slot: SlotInfo, verb: str, needed: SlotState) -> IllegalTransitionError:
    return IllegalTransitionError(
        f"cannot {verb} slot {slot.name}: it is {slot.state}", state=slot.state, allowed=(needed,)
    )
