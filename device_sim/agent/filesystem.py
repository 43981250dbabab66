"""What the agent asks of a filesystem: so few calls that a simulated disk can answer them, and be cut off at each.

They are those of ``os``: paths are texts, descriptors are numbers, and whatever goes wrong is an ``OSError``. What has
been written is on the medium once its file has been synced, and a name once its directory has.
"""

import mmap
import os
import stat
from collections.abc import Sequence
from errno import EINVAL
from typing import Final, NamedTuple, Protocol, TypeAlias

Mapped: TypeAlias = bytes | mmap.mmap

_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700


class Status(NamedTuple):
    """Of a file; ``allocated_bytes`` are those that take up room."""

    size_bytes: int
    allocated_bytes: int


class Filesystem(Protocol):
    """See ``SystemFiles`` for the usual one."""

    def open(self, path: str, flags: int) -> int:
        """Open a file by ``os.O_*``, or a directory to sync it; what is created is the owner's alone."""

    def close(self, descriptor: int) -> None: ...

    def pread(self, descriptor: int, size_bytes: int, offset: int) -> bytes: ...

    def pwritev(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        """Write the parts one behind the other; return how many bytes were written."""

    def ftruncate(self, descriptor: int, size_bytes: int) -> None: ...

    def fsync(self, descriptor: int) -> None: ...

    def map(self, descriptor: int, size_bytes: int) -> Mapped:
        """Return a file's first bytes without reading them all at once. Raises: OSError, where it has fewer."""

    def rename(self, source: str, target: str) -> None:
        """Give a file the name ``target``, in the place of whatever has it, in one step."""

    def unlink(self, path: str) -> None: ...

    def mkdir(self, path: str) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def listdir(self, path: str) -> list[str]: ...

    def stat(self, path: str) -> Status: ...

    def free_bytes(self, path: str) -> int:
        """How much may still be written where ``path`` lies."""


class SystemFiles:
    """The files of the machine."""

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags, _MODE)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def pread(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        return os.pread(descriptor, size_bytes, offset)

    def pwritev(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        return os.pwritev(descriptor, parts, offset)

    def ftruncate(self, descriptor: int, size_bytes: int) -> None:
        os.ftruncate(descriptor, size_bytes)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def map(self, descriptor: int, size_bytes: int) -> Mapped:
        if not size_bytes:
            return b""  # there is no map of nothing
        try:
            return mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ)
        except ValueError as exc:
            raise OSError(EINVAL, os.strerror(EINVAL)) from exc

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)  # noqa: PTH105 - of texts, as everything here

    def unlink(self, path: str) -> None:
        os.unlink(path)  # noqa: PTH108 - the same

    def mkdir(self, path: str) -> None:
        os.mkdir(path, _DIRECTORY_MODE)  # noqa: PTH102 - the same

    def rmdir(self, path: str) -> None:
        os.rmdir(path)  # noqa: PTH106 - the same

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)  # noqa: PTH208 - the same

    def stat(self, path: str) -> Status:
        found = os.stat(path)  # noqa: PTH116 - the same
        if stat.S_ISBLK(found.st_mode):
            size_bytes = _size_of_device(path)
            return Status(size_bytes, size_bytes)
        return Status(found.st_size, found.st_blocks * 512)

    def free_bytes(self, path: str) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


def _size_of_device(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


SYSTEM_FILES: Final = SystemFiles()
