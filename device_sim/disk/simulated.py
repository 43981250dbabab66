"""A disk in memory that answers the agent's calls, and knows what each of them has really brought to the medium."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EBADF, EEXIST, EINVAL, EISDIR, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY
from itertools import count
from typing import Final, NamedTuple

from device_sim.agent.filesystem import Mapped, Status
from device_sim.disk.medium import ROOT, Medium, Name, Operation, Resize, Write

CAPACITY_BYTES: Final = 1 << 30
PAGE_BYTES: Final = 4096


class Moment(NamedTuple):
    """The disk right before a call that changes something: ``call`` may have begun, and nobody was told of its end.

    ``pending`` are the operations that nobody has synced, the oldest first; ``underway`` is what the call would add
    to them, or, for a sync, those of them that it is about.
    """

    medium: Medium
    pending: tuple[Operation, ...]
    underway: tuple[Operation, ...]
    call: str


@dataclass(slots=True)
class _Open:
    number: int
    is_directory: bool


class SimulatedDisk:
    """See ``Filesystem``. ``before`` is told of every moment at which the power may go."""

    def __init__(
        self,
        medium: Medium | None = None,
        *,
        capacity_bytes: int = CAPACITY_BYTES,
        before: Callable[[Moment], None] | None = None,
    ) -> None:
        self.medium = medium or Medium()
        self.before = before
        self._capacity_bytes = capacity_bytes
        self._pending: list[Operation] = []
        self._files = {number: bytes(content) for number, content in self.medium.files.items()}
        self._directories = {number: dict(names) for number, names in self.medium.directories.items()}
        self._numbers = count(max((ROOT, *self._files, *self._directories)) + 1)
        self._descriptors = count(3)
        self._open: dict[int, _Open] = {}
        self._written = set(self._files)
        """Files that something was written to: what was only given a size takes up no room."""

    # --- the calls of the agent ---

    def open(self, path: str, flags: int) -> int:
        directory, name = self._place(path)
        number = self._directories[directory].get(name) if name else ROOT
        if number is None:
            if not flags & os.O_CREAT:
                raise _error(ENOENT, path)
            number = next(self._numbers)
            self._change([Name(directory, name, number), Resize(number, 0)], f"create {name}")
        elif flags & os.O_TRUNC and self._files.get(number):
            self._change([Resize(number, 0)], f"truncate {name}")
        is_directory = number in self._directories
        if flags & os.O_DIRECTORY and not is_directory:
            raise _error(ENOTDIR, path)
        if flags & os.O_WRONLY and is_directory:
            raise _error(EISDIR, path)
        descriptor = next(self._descriptors)
        self._open[descriptor] = _Open(number, is_directory)
        return descriptor

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]

    def pread(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        return self._files[self._file(descriptor)][offset : offset + size_bytes]

    def pwritev(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        number, data = self._file(descriptor), b"".join(parts)
        if not data:
            return 0
        if offset + len(data) - len(self._files[number]) > self.free_bytes("/"):
            raise _error(ENOSPC, "")
        self._written.add(number)
        for page in Write(number, offset, data).cut_at(PAGE_BYTES):
            self._change([page], "write")
        return len(data)

    def ftruncate(self, descriptor: int, size_bytes: int) -> None:
        number = self._file(descriptor)
        if len(self._files[number]) != size_bytes:
            self._change([Resize(number, size_bytes)], "resize")

    def fsync(self, descriptor: int) -> None:
        one = self._open[descriptor]
        meant = self._names_of(one.number) if one.is_directory else self._data_of(one.number)
        if meant:
            self._tell(meant, "sync directory" if one.is_directory else "sync")
            self.medium = self.medium.after(meant)
            self._pending = [operation for operation in self._pending if operation not in meant]

    def map(self, descriptor: int, size_bytes: int) -> Mapped:
        content = self._files[self._file(descriptor)]
        if len(content) < size_bytes:
            raise _error(EINVAL, "")
        return content[:size_bytes]

    def rename(self, source: str, target: str) -> None:
        old, new = self._place(source), self._place(target)
        number = self._number(source)
        if not {number, self._directories[new[0]].get(new[1])}.isdisjoint(self._directories):
            raise _error(EISDIR, source)  # the agent renames files alone
        self._change([Name(*new, number, old)], f"rename {old[1]} to {new[1]}")

    def unlink(self, path: str) -> None:
        directory, name = self._place(path)
        if self._number(path) in self._directories:
            raise _error(EISDIR, path)
        self._change([Name(directory, name, None)], f"unlink {name}")

    def mkdir(self, path: str) -> None:
        directory, name = self._place(path)
        if name in self._directories[directory]:
            raise _error(EEXIST, path)
        self._change([Name(directory, name, next(self._numbers), is_directory=True)], f"mkdir {name}")

    def rmdir(self, path: str) -> None:
        directory, name = self._place(path)
        if self._directories[self._folder(path)]:
            raise _error(ENOTEMPTY, path)
        self._change([Name(directory, name, None)], f"rmdir {name}")

    def listdir(self, path: str) -> list[str]:
        return sorted(self._directories[self._folder(path)])

    def stat(self, path: str) -> Status:
        number = self._number(path)
        size_bytes = len(self._files.get(number, b""))
        pages = -(-size_bytes // PAGE_BYTES) if number in self._written else 0
        return Status(size_bytes, pages * PAGE_BYTES)

    def free_bytes(self, _path: str) -> int:
        return self._capacity_bytes - sum(len(self._files[number]) for number in self._written)

    # --- what a laboratory asks ---

    def sync(self) -> None:
        """Bring everything to the medium, as a machine does that is shut down in order."""
        self.medium = self.medium.after(self._pending)
        self._pending.clear()

    # --- within ---

    def _tell(self, underway: Sequence[Operation], call: str) -> None:
        if self.before is not None:
            self.before(Moment(self.medium, tuple(self._pending), tuple(underway), call))

    def _change(self, operations: Sequence[Operation], call: str) -> None:
        self._tell(operations, call)
        self._pending += operations
        now = Medium(self._files, self._directories).after(operations)
        self._files = dict(now.files)
        self._directories = {number: dict(names) for number, names in now.directories.items()}

    def _data_of(self, number: int) -> list[Operation]:
        return [one for one in self._pending if isinstance(one, (Write, Resize)) and one.file == number]

    def _names_of(self, number: int) -> list[Operation]:
        """The changes of a directory, and of those that a rename into it or out of it hangs together with."""
        together = {number}
        meant: list[Operation] = []
        for one in reversed(self._pending):
            if isinstance(one, Name) and not together.isdisjoint(one.directories):
                together |= one.directories
                meant.append(one)
        return meant[::-1]

    def _file(self, descriptor: int) -> int:
        one = self._open.get(descriptor)
        if one is None or one.is_directory:
            raise _error(EBADF, "")
        return one.number

    def _place(self, path: str) -> tuple[int, str]:
        folder, _, name = path.rpartition("/")
        return self._folder(folder), name

    def _folder(self, path: str) -> int:
        number = ROOT
        for name in filter(None, path.split("/")):
            found = self._directories[number].get(name)
            if found is None:
                raise _error(ENOENT, path)
            if found not in self._directories:
                raise _error(ENOTDIR, path)
            number = found
        return number

    def _number(self, path: str) -> int:
        directory, name = self._place(path)
        if name not in self._directories[directory]:
            raise _error(ENOENT, path)
        return self._directories[directory][name]


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
