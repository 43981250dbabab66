"""Small files and folders that a loss of power leaves as they were or as they are to be, never halfway in between."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, EEXIST, ENOSPC
from pathlib import Path
from typing import Final

from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from firmware_store.errors import TidegateError
from server.protocol.reasons import Reason

BLOCK_BYTES: Final = 1 << 20


class StorageError(TidegateError):
    """The device's own storage refused; ``reason`` is what a report says about it."""

    def __init__(self, message: str, *, reason: Reason = Reason.STORAGE_ERROR) -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what the system says of the medium into ``StorageError``."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in {ENOSPC, EDQUOT}
        raise StorageError(
            f"the slot's storage failed: {exc.strerror}", reason=Reason.STORAGE_FULL if full else Reason.STORAGE_ERROR
        ) from exc


@contextmanager
def opened(files: Filesystem, path: str, flags: int) -> Iterator[int]:
    """Open a file or a directory for as long as the block lasts."""
    descriptor = files.open(path, flags)
    try:
        yield descriptor
    finally:
        files.close(descriptor)


def read_file(path: Path, *, files: Filesystem = SYSTEM_FILES) -> bytes:
    """Return the whole of a small file. Raises: OSError."""
    with opened(files, str(path), os.O_RDONLY) as descriptor:
        return b"".join(blocks_of(files, descriptor))


def blocks_of(files: Filesystem, descriptor: int, *, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield an open file's bytes from its beginning to its end."""
    offset = 0
    while block := files.pread(descriptor, block_bytes, offset):
        yield block
        offset += len(block)


def replace_file(path: Path, data: bytes, *, durable: bool, files: Filesystem = SYSTEM_FILES) -> None:
    """Write beside ``path`` and rename over it; with ``durable``, on the medium when this returns.

    A fleet simulator gives durability up: it ends with its machine anyway.
    """
    fresh = f"{path}.new"
    with opened(files, fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        if files.pwritev(descriptor, [data], 0) != len(data):
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        if durable:
            files.fsync(descriptor)
    files.rename(fresh, str(path))
    if durable:
        sync_directory(path.parent, files=files)


def sync_directory(directory: Path, *, files: Filesystem = SYSTEM_FILES) -> None:
    """Make the names in ``directory`` last."""
    with opened(files, str(directory), os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        files.fsync(descriptor)


def make_directory(directory: Path, *, durable: bool, files: Filesystem = SYSTEM_FILES) -> None:
    """Make a directory and those above it, unless it is there; with ``durable`` none of them can be lost any more.

    One that is there already may still be on its way to the medium, so its name is synced, too.
    """
    try:
        files.mkdir(str(directory))
    except FileNotFoundError:
        make_directory(directory.parent, durable=durable, files=files)
        files.mkdir(str(directory))
    except OSError as exc:
        if exc.errno != EEXIST:
            raise
    if durable:
        sync_directory(directory.parent, files=files)


def remove_if_there(path: Path, *, files: Filesystem = SYSTEM_FILES) -> None:
    """Remove a file's name; a loss of power may bring it back."""
    try:
        files.unlink(str(path))
    except FileNotFoundError:
        return
