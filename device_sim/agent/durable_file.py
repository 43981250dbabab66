"""Replacing a small file so that a loss of power leaves the old content or the new one, never half of either."""

import os
from errno import ENOSPC
from pathlib import Path

from firmware_store.errors import TidegateError
from server.protocol.reasons import Reason


class StorageError(TidegateError):
    """The device's own storage refused; ``reason`` is what a report says about it."""

    def __init__(self, message: str, *, reason: Reason = Reason.STORAGE_ERROR) -> None:
        super().__init__(message)
        self.reason = reason


def replace_file(path: Path, data: bytes, *, durable: bool) -> None:
    """Write beside ``path`` and rename over it; with ``durable``, on the medium when this returns.

    A fleet simulator gives durability up: it ends with its machine anyway.
    """
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
    if durable:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` last."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
