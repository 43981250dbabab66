"""The inactive slot of the file backend while it is written, and the file beside it in which a delta is staged."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from device_sim.agent.boot_environment import Image
from device_sim.agent.durable_file import StorageError, make_directory, opened, remove_if_there, storage_errors
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem, Mapped
from device_sim.agent.seeds import Seeds
from device_sim.agent.slot_places import Places, clear_folder, copy_bytes, image_holds
from device_sim.agent.slots import STAGED, Piece
from firmware_store.deltas import Codec, target_pieces
from firmware_store.errors import DigestError
from server.protocol.reasons import Reason

_READ_BYTES: Final = 1 << 18
_ROW_MOST: Final = 64
"""Pieces written at once; POSIX promises no more than 16 (IOV_MAX), Linux takes 1,024."""

TRIES_MOST: Final = 2
"""A delta that ended the agent so often is left: once, it may have been the power."""
_TRIED: Final = ".tried"

_STAGED_SPARE_BYTES: Final = 1 << 16
"""A staged file may be larger than the largest image by so much. Nobody vouches for a delta's size but whoever signs
directives: without a bound, pieces of nothing but zeros would fill the medium with a few kilobytes on the wire."""


class FileInstallation:
    """See ``Installation``. ``seal`` does the backend's part of sealing."""

    def __init__(
        self,
        slot: str,
        images: Sequence[Image],
        *,
        places: Places,
        running_slot: str,
        running: Sequence[Image],
        staging: Path,
        seal: Callable[[], None],
        files: Filesystem = SYSTEM_FILES,
    ) -> None:
        self.slot = slot
        self._images = images
        self._places = places
        self._files = files
        self._targets = [places.path(slot, image.name) for image in images]
        self._sources = [places.path(running_slot, image.name) for image in images]
        self._running = {image.name: image for image in running}
        self._staging = staging
        self._staged: Path | None = None
        self._staged_most = _STAGED_SPARE_BYTES + max((image.size_bytes for image in images), default=0)
        self._seeds: tuple[int, Seeds] | None = None  # of the image that was last asked for
        self._seal = seal

    def adopt(self, image: int) -> bool:
        wanted = self._images[image]
        if self._places.has_bytes(self.slot, wanted.name) and self._places.holds(self.slot, wanted):
            return True
        if wanted not in self._running.values():
            return False
        with storage_errors():
            copy_bytes(self._sources[image], self._targets[image], most=wanted.size_bytes, files=self._files)
        return self._places.holds(self.slot, wanted)

    def reuse(self, image: int, pieces: Sequence[Piece], *, moved: bool = False) -> tuple[bool, ...]:
        if image == STAGED:
            return tuple(data is not None for data in Seeds(self._open, files=self._files).take(pieces))
        if self._seeds is None or self._seeds[0] != image:
            self._seeds = image, Seeds(self._sources[image], files=self._files)
        found = Seeds(self._targets[image], files=self._files).take(pieces)
        missing = [piece for piece, have in zip(pieces, found, strict=True) if have is None]
        copied = dict(zip(missing, self._seeds[1].take(missing, moved=moved), strict=True))
        self.write(image, [(piece.offset, data) for piece, data in copied.items() if data is not None])
        return tuple(have is not None or copied[piece] is not None for piece, have in zip(pieces, found, strict=True))

    def stage(self, name: bytes) -> int:
        with storage_errors():
            make_directory(self._staging, durable=False, files=self._files)
            self._staged = self._staging / name.hex()
            if self._tries >= TRIES_MOST:
                raise StorageError("a delta that has ended the agent again and again, for want of memory perhaps")
            for path in map(self._staging.joinpath, self._files.listdir(str(self._staging))):
                if path != self._staged and path.suffix != _TRIED:
                    self._files.unlink(str(path))
            with opened(self._files, str(self._staged), os.O_WRONLY | os.O_CREAT):
                return self._files.stat(str(self._staged)).size_bytes

    def write(self, image: int, parts: Sequence[tuple[int, bytes]]) -> None:
        if image == STAGED:
            path, most, what = str(self._open), self._staged_most, "a delta that is larger than what it makes"
        else:
            path, most = self._targets[image], self._images[image].size_bytes
            what = "a chunk that reaches past the end of its image"
        if any(offset < 0 or offset + len(data) > most for offset, data in parts):
            raise StorageError(what)
        _write_into(self._files, path, parts)

    def make(self, image: int, codec: str | None) -> None:
        wanted = self._images[image]
        made = self._open
        try:
            if codec is not None:
                made = self._staging / "made"
                with storage_errors():
                    self._note_try()
                    self._apply(Codec(codec), image, made)
            if not image_holds(str(made), wanted, files=self._files):
                raise DigestError(f"what was made of {wanted.name} is not what was signed")
            self._places.put(str(made), self.slot, wanted)
        finally:
            with storage_errors():
                for path in (made, self._tried, self._open):
                    remove_if_there(path, files=self._files)
                self._staged = None

    def seal(self) -> None:
        with suppress(OSError):  # what is left over takes up room, and does no other harm
            clear_folder(self._staging, files=self._files)
        self._seal()

    def _apply(self, codec: Codec, image: int, made: Path) -> None:
        """Write what the staged delta makes of the running slot's image."""
        files, wanted = self._files, self._images[image]
        delta_bytes = files.stat(str(self._open)).size_bytes
        with (
            opened(files, self._sources[image], os.O_RDONLY) as source,
            opened(files, str(self._open), os.O_RDONLY) as delta,
            opened(files, str(made), os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as result,
            _mapped(files, source, self._source_bytes(image)) as old,
        ):
            reader = _Reader(files, delta)
            pieces = target_pieces(codec, old, reader, delta_bytes=delta_bytes, target_bytes=wanted.size_bytes)
            offset = 0
            for piece in pieces:
                if files.pwritev(result, [piece], offset) != len(piece):
                    raise StorageError("an image was written in part", reason=Reason.STORAGE_FULL)
                offset += len(piece)

    def _source_bytes(self, image: int) -> int:
        """How much of the running slot's image there is: its place may be larger than it."""
        running = self._running.get(self._images[image].name)
        return self._files.stat(self._sources[image]).size_bytes if running is None else running.size_bytes

    def _note_try(self) -> None:
        """Write down that a delta is about to be applied; whoever survives that takes it back."""
        with opened(self._files, str(self._tried), os.O_WRONLY | os.O_CREAT) as descriptor:
            self._files.pwritev(descriptor, [b"."], self._tries)
            self._files.fsync(descriptor)

    @property
    def _tries(self) -> int:
        """How often this delta has been applied, and that was the end of the agent."""
        try:
            return self._files.stat(str(self._tried)).size_bytes
        except FileNotFoundError:
            return 0

    @property
    def _tried(self) -> Path:
        """So many bytes long as this delta has been tried."""
        return self._open.with_suffix(_TRIED)

    @property
    def _open(self) -> Path:
        assert self._staged is not None, "the core writes into a staged file only after it has opened one"
        return self._staged


class _Reader:
    """Reads an open file from its beginning to its end."""

    def __init__(self, files: Filesystem, descriptor: int) -> None:
        self._files = files
        self._descriptor = descriptor
        self._offset = 0

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(_READ_BYTES), b""))
        data = self._files.pread(self._descriptor, size, self._offset)
        self._offset += len(data)
        return data


@contextmanager
def _mapped(files: Filesystem, descriptor: int, size_bytes: int) -> Iterator[Mapped]:
    mapped = files.map(descriptor, size_bytes)
    try:
        yield mapped
    finally:
        if not isinstance(mapped, bytes):
            mapped.close()


def _write_into(files: Filesystem, path: str, parts: Sequence[tuple[int, bytes]]) -> None:
    if not parts:
        return
    with storage_errors(), opened(files, path, os.O_WRONLY) as descriptor:
        for offset, row in _rows(parts):
            if files.pwritev(descriptor, row, offset) != sum(map(len, row)):
                raise StorageError("a chunk was written in part", reason=Reason.STORAGE_FULL)


def _rows(parts: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    """Give what belongs one behind the other, and comes so, as one row: it is one call of the system."""
    begin = end = 0
    row: list[bytes] = []
    for offset, data in parts:
        if row and (offset != end or len(row) == _ROW_MOST):
            yield begin, row
            row = []
        if not row:
            begin = offset
        row.append(data)
        end = offset + len(data)
    yield begin, row
