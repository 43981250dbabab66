"""Where the images of the slots lie: as files in two folders, or wherever else a platform keeps them."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from device_sim.agent.boot_environment import Image
from device_sim.agent.durable_file import (
    StorageError,
    blocks_of,
    make_directory,
    opened,
    remove_if_there,
    storage_errors,
    sync_directory,
)
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from server.protocol.reasons import Reason

SPARE_BYTES = 1 << 20  # left free, for the state files


class Places(Protocol):
    """What the file backend needs to know of the images' places. All of it may raise StorageError."""

    def path(self, slot: str, name: str) -> str:
        """Return the path of a component's image."""

    def check_room(self, slot: str, images: Sequence[Image]) -> None:
        """Refuse a release that does not fit, before anything of it is written."""

    def lay_out(self, slot: str, images: Sequence[Image]) -> None:
        """Give each image its place; what was there before stays, for chunks that are the same."""

    def has_bytes(self, slot: str, name: str) -> bool:
        """Tell whether there is anything to read: what was only laid out need not be."""

    def holds(self, slot: str, image: Image) -> bool:
        """Tell whether a place has an image, to the last byte; one that cannot be read has not."""

    def put(self, made: str, slot: str, image: Image) -> None:
        """Move a finished file of the staging folder to an image's place."""

    def sync(self, slot: str, images: Sequence[Image]) -> None:
        """Return when all of a slot's images are on the medium."""


class Folders:
    """``slots/{a,b}/{component}.img`` in a device's directory."""

    def __init__(self, directory: Path, *, durable: bool = True, files: Filesystem = SYSTEM_FILES) -> None:
        self._directory = directory
        self._durable = durable
        self._files = files

    def folder(self, slot: str) -> Path:
        """Where a slot's images lie."""
        return self._directory / "slots" / slot

    def path(self, slot: str, name: str) -> str:
        return f"{self.folder(slot)}/{name}.img"

    def check_room(self, slot: str, images: Sequence[Image]) -> None:
        folder = str(self.folder(slot))
        with storage_errors():
            make_directory(self.folder(slot), durable=self._durable, files=self._files)
            names = self._files.listdir(folder)
            have = sum(self._files.stat(f"{folder}/{name}").allocated_bytes for name in names)
            free = self._files.free_bytes(folder)
        if sum(image.size_bytes for image in images) - have + SPARE_BYTES > free:
            raise StorageError("no room for the release", reason=Reason.STORAGE_FULL)

    def lay_out(self, slot: str, images: Sequence[Image]) -> None:
        folder = str(self.folder(slot))
        keep = {f"{image.name}.img" for image in images}
        with storage_errors():
            for name in self._files.listdir(folder):
                if name not in keep:
                    self._files.unlink(f"{folder}/{name}")
            for image in images:
                with opened(self._files, self.path(slot, image.name), os.O_WRONLY | os.O_CREAT) as descriptor:
                    self._files.ftruncate(descriptor, image.size_bytes)

    def has_bytes(self, slot: str, name: str) -> bool:
        try:
            return self._files.stat(self.path(slot, name)).allocated_bytes > 0
        except OSError:
            return False

    def holds(self, slot: str, image: Image) -> bool:
        return image_holds(self.path(slot, image.name), image, files=self._files)

    def put(self, made: str, slot: str, image: Image) -> None:
        with storage_errors():
            self._files.rename(made, self.path(slot, image.name))

    def sync(self, slot: str, images: Sequence[Image]) -> None:
        if not self._durable:
            return
        with storage_errors():
            for image in images:
                with opened(self._files, self.path(slot, image.name), os.O_RDONLY) as descriptor:
                    self._files.fsync(descriptor)
            sync_directory(self.folder(slot), files=self._files)


def image_holds(path: str, image: Image, *, files: Filesystem = SYSTEM_FILES) -> bool:
    """Tell whether a file is an image, to the last byte; one that cannot be read is not."""
    try:
        return files.stat(path).size_bytes == image.size_bytes and digest_of(path, files=files) == image.digest
    except OSError:
        return False


def digest_of(path: str, *, files: Filesystem = SYSTEM_FILES) -> bytes:
    """Return the SHA-256 of a file's bytes, read in blocks. Raises: OSError."""
    digest = hashlib.sha256()
    with opened(files, path, os.O_RDONLY) as descriptor:
        for block in blocks_of(files, descriptor):
            digest.update(block)
    return digest.digest()


def copy_bytes(source: str, target: str, *, most: int, files: Filesystem = SYSTEM_FILES) -> None:
    """Copy at most so many of a file's first bytes over those of one that is there. Raises: OSError, DigestError."""
    offset = 0
    with opened(files, source, os.O_RDONLY) as old, opened(files, target, os.O_WRONLY) as new:
        for block in blocks_of(files, old):
            wanted = block[: most - offset]
            if files.pwritev(new, [wanted], offset) != len(wanted):
                raise StorageError("an image was copied in part", reason=Reason.STORAGE_FULL)
            offset += len(wanted)
            if offset == most:
                return


def clear_folder(folder: Path, *, files: Filesystem = SYSTEM_FILES) -> None:
    """Remove a folder of files, as far as it is there. Raises: OSError."""
    try:
        names = files.listdir(str(folder))
    except FileNotFoundError:
        return
    for name in names:
        remove_if_there(folder / name, files=files)
    files.rmdir(str(folder))
