"""The slot backend that keeps images as files, for the simulator and for boards whose slots are mounted folders."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from device_sim.agent.boot_environment import (
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
from device_sim.agent.slot_pair import SlotPair
from device_sim.agent.slot_places import Folders, Places
from device_sim.agent.slots import Release
from firmware_store.suit_values import is_component_name


class FileSlots(SlotPair):
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
        super().__init__(self._store.read())

    def install(self, release: Release) -> FileInstallation:
        """See ``SlotBackend``.

        Raises:
            IllegalTransitionError: the running slot is on trial, so that the other one is the only way back.
            StorageError: no room, or the medium failed.
        """
        running = self._check_installable()
        if not all(is_component_name(image.name) for image in release.images):
            raise StorageError("a component whose name cannot be a file's")
        name = other(running.name)
        self._places.check_room(name, release.images)
        self._begin(release)
        self._places.lay_out(name, release.images)
        return FileInstallation(
            name,
            release.images,
            places=self._places,
            running_slot=running.name,
            running=running.images,
            staging=self._directory / "slots" / "staging",
            seal=lambda: self.seal(name),
            files=self._files,
        )

    def seal(self, slot: str) -> None:
        """Make an installed slot bootable, if its bytes are the ones that were signed.

        Raises:
            DigestError: they are not; the slot is unbootable.
        """
        info = self._check_sealable(slot)
        self._places.sync(slot, info.images)
        self._check(info)
        if self._before_bootable is not None:
            self._before_bootable(info)
        self._make_bootable(info)

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
