"""Files that only their owner may read: 0600, whole or not at all, over another file only where that is said."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from firmware_store.errors import ConfigurationError, ConflictError

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def read_private_file(path: Path, *, max_bytes: int) -> bytes:
    """Return the first ``max_bytes`` of a regular file that only its owner can read.

    Raises:
        ConfigurationError: there is no such file, or others may read or write it.
    """
    try:
        # The checks are made on the file that is open, so that nobody can swap it in between.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{path} is not a regular file")
            if status.st_mode & _OTHERS:
                raise ConfigurationError(f"others may read or write {path}: chmod 600 it")
            return file.read(max_bytes)
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc


def write_new_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Create ``path``: after a power cut it is complete or absent.

    Raises:
        ConflictError: ``path`` exists; it is left as it was.
        ConfigurationError: the file cannot be written.
    """
    try:
        with _written(path, data, mode) as temporary:
            # A link fails where the name exists; a rename would replace it.
            os.link(temporary, path)
        sync_directory(path.parent)
    except FileExistsError as exc:
        raise ConflictError(f"{path} exists and is not overwritten") from exc
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc.strerror}") from exc


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put ``data`` in the place of ``path``: after a power cut it is the old file or the new one.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    try:
        with _written(path, data, mode) as temporary:
            temporary.replace(path)
        sync_directory(path.parent)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc.strerror}") from exc


@contextmanager
def _written(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """Yield a file beside ``path`` that holds ``data`` on the disk; unless it was moved, it is gone afterwards."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
