"""A device's files in memory: thousands of devices that hold the same image hold its bytes once.

A file is a row of extents, each the bytes of one write. Those of images are taken from a pool that a fleet shares, so
a device costs its lists, not its images. Nothing survives the process.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from errno import EBADF, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY
from itertools import count
from pathlib import PurePosixPath
from typing import Final

from device_sim.agent.filesystem import Mapped, Status

FREE_BYTES: Final = 1 << 40
SHARED_FROM_BYTES: Final = 512
"""What is written in one piece of this size or more is looked for in the pool; state files are smaller, or unique."""


class Pool:
    """Bytes that many devices have written, each kept once."""

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}

    def share(self, data: bytes) -> bytes:
        """Return bytes that are equal, the same object each time."""
        return self._kept.setdefault(data, data)


class _File:
    """Extents in order and apart; between them are zeros."""

    __slots__ = ("offsets", "parts", "size_bytes")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.parts: list[bytes] = []
        self.size_bytes = 0

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self._clear(offset, end)
        place = bisect_left(self.offsets, offset)
        self.offsets.insert(place, offset)
        self.parts.insert(place, data)
        self.size_bytes = max(self.size_bytes, end)

    def read(self, offset: int, size_bytes: int) -> bytes:
        end = min(offset + size_bytes, self.size_bytes)
        if offset >= end:
            return b""
        found: list[bytes] = []
        at = offset
        for place in range(max(0, bisect_right(self.offsets, offset) - 1), len(self.offsets)):
            start, part = self.offsets[place], self.parts[place]
            if start >= end:
                break
            if start + len(part) <= at:
                continue
            if start > at:
                found.append(bytes(start - at))
                at = start
            piece = part if at == start and start + len(part) <= end else part[at - start : end - start]
            found.append(piece)
            at += len(piece)
        if at < end:
            found.append(bytes(end - at))
        return found[0] if len(found) == 1 else b"".join(found)

    def resize(self, size_bytes: int) -> None:
        if size_bytes < self.size_bytes:
            self._clear(size_bytes, self.size_bytes)
        self.size_bytes = size_bytes

    @property
    def allocated_bytes(self) -> int:
        return sum(map(len, self.parts))

    def _clear(self, start: int, end: int) -> None:
        """Leave nothing between two offsets; what reaches over them keeps its other parts."""
        first = max(0, bisect_right(self.offsets, start) - 1)
        last = bisect_left(self.offsets, end)
        offsets: list[int] = []
        parts: list[bytes] = []
        for at, part in zip(self.offsets[first:last], self.parts[first:last], strict=True):
            if at < start:
                offsets.append(at)
                parts.append(part[: start - at])
            if at + len(part) > end:
                offsets.append(end)
                parts.append(part[end - at :])
        self.offsets[first:last] = offsets
        self.parts[first:last] = parts


class MemoryFiles:
    """See ``Filesystem``. ``pool``: what the files of other devices share with these."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._files: dict[str, _File] = {}
        self._directories = {"/"}
        self._open: dict[int, _File | None] = {}  # None: a directory
        self._numbers = count(3)

    def open(self, path: str, flags: int) -> int:
        file = self._files.get(path)
        if path in self._directories:
            if flags & (os.O_WRONLY | os.O_RDWR):
                raise _error(EISDIR, path)
        elif flags & os.O_DIRECTORY:
            raise _error(ENOTDIR if file is not None else ENOENT, path)
        elif file is None:
            if not flags & os.O_CREAT or _folder(path) not in self._directories:
                raise _error(ENOENT, path)
            file = self._files[path] = _File()
        elif flags & os.O_TRUNC:
            file.resize(0)
        descriptor = next(self._numbers)
        self._open[descriptor] = file
        return descriptor

    def close(self, descriptor: int) -> None:
        if descriptor not in self._open:
            raise _error(EBADF, "")
        del self._open[descriptor]

    def pread(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        return self._file(descriptor).read(offset, size_bytes)

    def pwritev(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        file, at = self._file(descriptor), offset
        for part in parts:
            if part:
                file.write(at, self._pool.share(bytes(part)) if len(part) >= SHARED_FROM_BYTES else bytes(part))
                at += len(part)
        return at - offset

    def ftruncate(self, descriptor: int, size_bytes: int) -> None:
        self._file(descriptor).resize(size_bytes)

    def fsync(self, descriptor: int) -> None:
        if descriptor not in self._open:
            raise _error(EBADF, "")

    def map(self, descriptor: int, size_bytes: int) -> Mapped:
        file = self._file(descriptor)
        if file.size_bytes < size_bytes:
            raise _error(EINVAL, "")
        return file.read(0, size_bytes)

    def rename(self, source: str, target: str) -> None:
        if target in self._directories:
            raise _error(EISDIR, target)
        if source not in self._files or _folder(target) not in self._directories:
            raise _error(ENOENT, source)
        self._files[target] = self._files.pop(source)

    def unlink(self, path: str) -> None:
        if path in self._directories:
            raise _error(EISDIR, path)
        if self._files.pop(path, None) is None:
            raise _error(ENOENT, path)

    def mkdir(self, path: str) -> None:
        if path in self._directories or path in self._files:
            raise _error(EEXIST, path)
        if _folder(path) not in self._directories:
            raise _error(ENOENT, path)
        self._directories.add(path)

    def rmdir(self, path: str) -> None:
        if self.listdir(path):
            raise _error(ENOTEMPTY, path)
        self._directories.remove(path)

    def listdir(self, path: str) -> list[str]:
        if path not in self._directories:
            raise _error(ENOTDIR if path in self._files else ENOENT, path)
        everything = (*self._files, *self._directories)
        return [PurePosixPath(one).name for one in everything if one != path and _folder(one) == path]

    def stat(self, path: str) -> Status:
        if path in self._directories:
            return Status(0, 0)
        if path not in self._files:
            raise _error(ENOENT, path)
        file = self._files[path]
        return Status(file.size_bytes, file.allocated_bytes)

    def free_bytes(self, path: str) -> int:  # noqa: ARG002 - as much everywhere
        return FREE_BYTES

    def _file(self, descriptor: int) -> _File:
        file = self._open.get(descriptor)
        if file is None:
            raise _error(EISDIR if descriptor in self._open else EBADF, "")
        return file


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
