"""The slot backend that keeps images as files, for the simulator and for boards whose slots are mounted folders."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from device_sim.agent.boot_environment import (
    FILE,
    TRIAL_BOOTS,
    BootEnvironment,
    Image,
    SlotInfo,
    SlotState,
    other,
    read_environment,
    write_environment,
)
from device_sim.agent.durable_file import StorageError, sync_directory
from device_sim.agent.file_installation import FileInstallation, digest_of, image_holds, storage_errors
from device_sim.agent.slots import Release
from firmware_store.errors import ConflictError, DigestError, IllegalTransitionError
from firmware_store.suit_values import is_component_name
from server.protocol.reasons import Reason

_SPARE_BYTES: Final = 1 << 20  # left free, for the state files


class FileSlots:
    """Slots as files: ``slots/{a,b}/{component}.img`` beside the boot environment. One process at a time."""

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._directory = directory
        self._durable = durable
        self._environment = read_environment(directory)

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
        _check_room(self.folder(name), release.images)
        self._save(self._environment.with_slot(target))  # before its first byte changes
        _lay_out(self.folder(name), release.images)
        return FileInstallation(
            name,
            target.images,
            folder=self.folder(name),
            running=running.images,
            running_folder=self.folder(running.name),
            staging=self._directory / "slots" / "staging",
            seal=lambda: self.seal(name),
        )

    def activate(self, slot: str) -> None:
        """See ``SlotBackend``.

        Raises:
            DigestError: the slot's bytes have changed since they were sealed; it is unbootable now.
            IllegalTransitionError: the slot was never sealed, or is the running one.
        """
        info = self._environment.slots[slot]
        if slot == self.booted() or info.state not in {SlotState.BOOTABLE, SlotState.TRIAL}:
            raise _illegal(info, "activate", SlotState.BOOTABLE)
        self.check(info)
        environment = self._environment.with_slot(replace(info, state=SlotState.TRIAL))
        self._save(replace(environment, tries_left=TRIAL_BOOTS))

    def confirm(self) -> None:
        """See ``SlotBackend``.

        Raises:
            IllegalTransitionError: the running slot is not on trial.
        """
        info = self._environment.slots[self.booted()]
        if info.state not in {SlotState.TRIAL, SlotState.CONFIRMED}:
            raise _illegal(info, "confirm", SlotState.TRIAL)
        environment = self._environment.with_slot(replace(info, state=SlotState.CONFIRMED))
        self._save(replace(environment, active=info.name, tries_left=0))

    def revert(self, slot: str, *, verify: bool = False) -> None:
        """See ``SlotBackend``.

        Raises:
            ConflictError: the other slot is not confirmed, or with ``verify`` not intact; nothing has changed.
        """
        back = self._environment.slots[other(slot)]
        if back.state is not SlotState.CONFIRMED:
            raise ConflictError(f"slot {back.name} is {back.state}: there is no way back to it")
        if verify and not self._is_intact(back):
            raise ConflictError(f"slot {back.name} is damaged: there is no way back to it")
        info = self._environment.slots[slot]
        if info.state is not SlotState.EMPTY:
            info = replace(info, state=SlotState.UNBOOTABLE)
        self._save(replace(self._environment.with_slot(info), active=back.name, tries_left=0))

    def folder(self, slot: str) -> Path:
        """Where a slot's images lie."""
        return self._directory / "slots" / slot

    def seal(self, slot: str) -> None:
        """Make an installed slot bootable, if its bytes are the ones that were signed.

        Raises:
            DigestError: they are not; the slot is unbootable.
        """
        info = self._environment.slots[slot]
        if info.state is not SlotState.INSTALLING:
            raise _illegal(info, "seal", SlotState.INSTALLING)
        if self._durable:
            _sync_files(self.folder(slot), info.images)
        self.check(info)
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
        folder = self.folder(slot.name)
        return all(image_holds(folder / f"{image.name}.img", image) for image in slot.images)

    def _save(self, environment: BootEnvironment) -> None:
        write_environment(self._directory, environment, durable=self._durable)
        self._environment = environment


def provision(
    directory: Path, *, version: str = "1.0.0", seeds: Mapping[str, Path] | None = None, durable: bool = True
) -> None:
    """Give a device its factory image in slot a, unless it has one; ``seeds`` are its components' files."""
    if (directory / FILE).exists():
        return
    folder = directory / "slots" / "a"
    folder.mkdir(parents=True, exist_ok=True)
    images: list[Image] = []
    for name, seed in (seeds or {}).items():
        image = folder / f"{name}.img"
        shutil.copyfile(seed, image)
        images.append(Image(name, digest_of(image), image.stat().st_size))
    factory = SlotInfo("a", SlotState.CONFIRMED, 0, version, b"", tuple(images))
    slots = MappingProxyType({"a": factory, "b": SlotInfo("b")})
    write_environment(directory, BootEnvironment(slots, active="a", booted="a"), durable=durable)


def _check_room(folder: Path, images: tuple[Image, ...]) -> None:
    with storage_errors():
        folder.mkdir(parents=True, exist_ok=True)
        have = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        free = shutil.disk_usage(folder).free
    if sum(image.size_bytes for image in images) - have + _SPARE_BYTES > free:
        raise StorageError("no room for the release", reason=Reason.STORAGE_FULL)


def _lay_out(folder: Path, images: tuple[Image, ...]) -> None:
    """Give each image a file of its size; what a file held before stays, for chunks that are the same."""
    keep = {f"{image.name}.img" for image in images}
    with storage_errors():
        for path in folder.iterdir():
            if path.name not in keep:
                path.unlink()
        for image in images:
            descriptor = os.open(folder / f"{image.name}.img", os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.ftruncate(descriptor, image.size_bytes)
            finally:
                os.close(descriptor)


def _sync_files(folder: Path, images: tuple[Image, ...]) -> None:
    with storage_errors():
        for image in images:
            descriptor = os.open(folder / f"{image.name}.img", os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(folder)


def _illegal(slot: SlotInfo, verb: str, needed: SlotState) -> IllegalTransitionError:
    return IllegalTransitionError(
        f"cannot {verb} slot {slot.name}: it is {slot.state}", state=slot.state, allowed=(needed,)
    )
