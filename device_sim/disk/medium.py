"""What a disk's medium holds, and the operations on their way to it that a loss of power may take or leave.

A file is a number with bytes; a directory is a number with names. The rules are the least that POSIX and a journal
promise: until a file is synced, any of its sectors may have arrived, and no others; until a directory is, its changes
may have arrived up to any one of them, in their order; neither waits for the other.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

SECTOR_BYTES: Final = 512
"""What a medium writes whole or not at all."""
ROOT: Final = 0


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for a file, at an offset; the file grows where they reach past its end."""

    file: int
    offset: int
    data: bytes

    def cut_at(self, unit_bytes: int) -> list["Write"]:
        """The same, cut where units of the file end: pages, or sectors."""
        parts, at, end = [], self.offset, self.offset + len(self.data)
        while at < end:
            until = min(end, (at // unit_bytes + 1) * unit_bytes)
            parts.append(Write(self.file, at, self.data[at - self.offset : until - self.offset]))
            at = until
        return parts


@dataclass(frozen=True, slots=True)
class Resize:
    """Another size for a file: cut off, or filled up with zeros."""

    file: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a directory for a file, or for a directory, instead of whatever had it; None takes the name away.

    ``before`` is the place that it leaves: a rename is one operation.
    """

    directory: int
    name: str
    file: int | None
    before: tuple[int, str] | None = None
    is_directory: bool = False

    @property
    def directories(self) -> frozenset[int]:
        """Those that it changes."""
        return frozenset({self.directory} if self.before is None else {self.directory, self.before[0]})


Operation: TypeAlias = Write | Resize | Name


@dataclass(frozen=True, slots=True)
class Medium:
    """What would be read after a loss of power; never changed in place."""

    files: Mapping[int, bytes] = field(default_factory=dict)
    directories: Mapping[int, Mapping[str, int]] = field(default_factory=lambda: {ROOT: {}})

    def after(self, operations: Iterable[Operation]) -> "Medium":
        """The medium once these operations have arrived, in this order."""
        files = dict(self.files)
        directories = dict(self.directories)
        for operation in operations:
            match operation:
                case Write(file, offset, data):
                    files[file] = overwritten(files.get(file, b""), offset, data)
                case Resize(file, size_bytes):
                    files[file] = files.get(file, b"")[:size_bytes].ljust(size_bytes, b"\0")
                case Name():
                    _rename(directories, operation)
                    if operation.is_directory and operation.file is not None:
                        directories.setdefault(operation.file, {})
                    elif operation.file is not None and operation.file not in directories:
                        files.setdefault(operation.file, b"")  # the name has arrived before the first byte
        return Medium(files, directories)

    def digest(self) -> bytes:
        """The SHA-256 of all that can be reached from the root."""
        digest = hashlib.sha256()
        self._feed(digest.update, ROOT)
        return digest.digest()

    def _feed(self, update: Callable[[bytes], None], directory: int) -> None:
        for name, number in sorted(self.directories[directory].items()):
            update(f"{name}\0".encode())
            if number in self.directories:
                update(b"[")
                self._feed(update, number)
                update(b"]")
            else:
                content = self.files.get(number, b"")
                update(len(content).to_bytes(8, "big"))
                update(content)


def overwritten(content: bytes, offset: int, data: bytes) -> bytes:
    """Return a file's content with ``data`` at ``offset``."""
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


def _rename(directories: dict[int, Mapping[str, int]], operation: Name) -> None:
    if operation.before is not None:
        directory, name = operation.before
        directories[directory] = {n: file for n, file in directories.get(directory, {}).items() if n != name}
    names = dict(directories.get(operation.directory, {}))
    if operation.file is None:
        names.pop(operation.name, None)
    else:
        names[operation.name] = operation.file
    directories[operation.directory] = names
