"""Where a backup lies: a folder, or one file. Both hold a few parts by name; the last one makes it a backup.

A folder is written as it is, and is none until its last part is there; a file (``.zip``, where nothing is compressed by
the format) has its name only once it is whole. Names are ours and never come from an archive.
"""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

from firmware_store.errors import ConfigurationError, ConflictError, CorruptBackupError
from firmware_store.private_files import sync_directory

MANIFEST: Final = "manifest.json"
SEAL: Final = "manifest.sha256"
"""The digest of the manifest, and written last."""
SUFFIX: Final = ".zip"


class Writer(Protocol):
    """``with`` it: what was written is a backup when the block has ended well."""

    def part(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open a new part; one at a time."""


class Reader(Protocol):
    """A backup, of which nothing has been verified."""

    def part(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open a part. Raises: CorruptBackupError: it is not there, or its bytes cannot be read."""


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Write a backup: to a file where ``path`` ends in ``.zip``, else to a new folder.

    Raises:
        ConflictError: there is something already; it is left as it was.
        ConfigurationError: it cannot be written.
    """
    if path.exists() and not (path.is_dir() and path.suffix != SUFFIX and not any(path.iterdir())):
        raise ConflictError(f"{path} exists and is not overwritten.")
    try:
        if path.suffix == SUFFIX:
            with _writing_file(path) as file:
                yield file
        else:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield _NewFolder(path)
            sync_directory(path)
            sync_directory(path.parent)
    except OSError as exc:
        raise ConfigurationError(f"The backup cannot be written to {path}: {exc.strerror}.") from exc


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """Open a backup.

    Raises:
        ConfigurationError: there is none.
        CorruptBackupError: a file that is none, or not whole.
    """
    if path.is_dir():
        yield _Folder(path)
        return
    if not path.is_file():
        raise ConfigurationError(f"There is no backup at {path}.")
    try:
        with zipfile.ZipFile(path) as file:
            yield _File(file)
    except zipfile.BadZipFile as exc:
        raise CorruptBackupError(f"{path} is no backup, or not all of one: {exc}.") from exc


class _NewFolder:
    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def part(self, name: str) -> Iterator[IO[bytes]]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(self._path / name, flags, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


class _NewFile:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    @contextmanager
    def part(self, name: str) -> Iterator[IO[bytes]]:
        with self._file.open(name, "w", force_zip64=True) as part:
            yield part


@contextmanager
def _writing_file(path: Path) -> Iterator[_NewFile]:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with os.fdopen(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as raw:
            with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as file:
                yield _NewFile(file)
            raw.flush()
            os.fsync(raw.fileno())
        os.link(unfinished, path)  # fails where somebody else was first; a rename would replace theirs
        sync_directory(path.parent)
    except FileExistsError as exc:
        raise ConflictError(f"{path} exists and is not overwritten.") from exc
    finally:
        unfinished.unlink(missing_ok=True)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def part(self, name: str) -> Iterator[IO[bytes]]:
        with _readable(name), (self._path / name).open("rb") as file:
            yield file


class _File:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    @contextmanager
    def part(self, name: str) -> Iterator[IO[bytes]]:
        with _readable(name), self._file.open(name) as part:
            yield part


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, KeyError) as exc:
        raise CorruptBackupError(f"The backup is not whole: {name} is missing.") from exc
    except (OSError, EOFError, zipfile.BadZipFile) as exc:
        raise CorruptBackupError(f"The backup cannot be read: {name}: {exc}.") from exc
