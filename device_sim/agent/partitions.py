"""Slots as partitions: each component of each slot is a block device, or a file of a fixed size, that is there."""

import hashlib
import os
from collections.abc import Mapping, Sequence

from device_sim.agent.boot_environment import Image
from device_sim.agent.durable_file import StorageError, opened, storage_errors
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.agent.slot_places import copy_bytes
from server.protocol.reasons import Reason

_BLOCK_BYTES = 1 << 20


class Partitions:
    """See ``Places``. ``paths`` has a path for each component, slot by slot."""

    def __init__(self, paths: Mapping[str, Mapping[str, str]], *, files: Filesystem = SYSTEM_FILES) -> None:
        self._paths = paths
        self._files = files

    def path(self, slot: str, name: str) -> str:
        if name not in self._paths[slot]:
            raise StorageError(f"slot {slot} has no partition for {name}")
        return self._paths[slot][name]

    def check_room(self, slot: str, images: Sequence[Image]) -> None:
        with storage_errors():
            for image in images:
                if self._files.stat(self.path(slot, image.name)).size_bytes < image.size_bytes:
                    raise StorageError(f"{image.name} is larger than its partition", reason=Reason.STORAGE_FULL)

    def lay_out(self, slot: str, images: Sequence[Image]) -> None:
        """They are where they are."""

    def has_bytes(self, slot: str, name: str) -> bool:  # noqa: ARG002 - nobody knows without reading it
        return True

    def holds(self, slot: str, image: Image) -> bool:
        digest, offset = hashlib.sha256(), 0
        try:
            with opened(self._files, self.path(slot, image.name), os.O_RDONLY) as descriptor:
                while offset < image.size_bytes:
                    wanted = min(_BLOCK_BYTES, image.size_bytes - offset)
                    block = self._files.pread(descriptor, wanted, offset)
                    if not block:
                        return False
                    digest.update(block)
                    offset += len(block)
        except OSError:
            return False
        return digest.digest() == image.digest

    def put(self, made: str, slot: str, image: Image) -> None:
        with storage_errors():
            copy_bytes(made, self.path(slot, image.name), most=image.size_bytes, files=self._files)

    def sync(self, slot: str, images: Sequence[Image]) -> None:
        with storage_errors():
            for image in images:
                with opened(self._files, self.path(slot, image.name), os.O_RDWR) as descriptor:
                    self._files.fsync(descriptor)
