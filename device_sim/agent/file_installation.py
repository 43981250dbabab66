"""The inactive slot of the file backend while it is written, and the file beside it in which a delta is staged."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

from device_sim.agent.boot_environment import Image
from device_sim.agent.durable_file import StorageError
from device_sim.agent.seeds import Seeds
from device_sim.agent.slots import STAGED, Piece
from firmware_store.deltas import Codec, apply_delta
from firmware_store.errors import DigestError
from server.protocol.reasons import Reason

_BLOCK_BYTES: Final = 1 << 20
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
        folder: Path,
        running: Sequence[Image],
        running_folder: Path,
        staging: Path,
        seal: Callable[[], None],
    ) -> None:
        self.slot = slot
        self._images = images
        self._targets = [str(folder / f"{image.name}.img") for image in images]
        self._running_digests = {image.name: image.digest for image in running}
        self._running = running_folder
        self._staging = staging
        self._staged: Path | None = None
        self._staged_most = _STAGED_SPARE_BYTES + max((image.size_bytes for image in images), default=0)
        self._seeds: tuple[int, Seeds] | None = None  # of the image that was last asked for
        self._seal = seal

    def adopt(self, image: int) -> bool:
        wanted = self._images[image]
        target, source = Path(self._targets[image]), self._running / f"{wanted.name}.img"
        if _was_written(target) and image_holds(target, wanted):
            return True
        if self._running_digests.get(wanted.name) != wanted.digest:
            return False
        with storage_errors():
            shutil.copyfile(source, target)
            os.truncate(target, wanted.size_bytes)  # a damaged source may be longer; what follows fetches within this
        return image_holds(target, wanted)

    def reuse(self, image: int, pieces: Sequence[Piece], *, moved: bool = False) -> tuple[bool, ...]:
        if image == STAGED:
            return tuple(data is not None for data in Seeds(self._open).take(pieces))
        if self._seeds is None or self._seeds[0] != image:
            self._seeds = image, Seeds(self._running / f"{self._images[image].name}.img")
        found = Seeds(self._targets[image]).take(pieces)
        missing = [piece for piece, have in zip(pieces, found, strict=True) if have is None]
        copied = dict(zip(missing, self._seeds[1].take(missing, moved=moved), strict=True))
        self.write(image, [(piece.offset, data) for piece, data in copied.items() if data is not None])
        return tuple(have is not None or copied[piece] is not None for piece, have in zip(pieces, found, strict=True))

    def stage(self, name: bytes) -> int:
        with storage_errors():
            self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._staged = self._staging / name.hex()
            if self._tried.exists() and self._tried.stat().st_size >= TRIES_MOST:
                raise StorageError("a delta that has ended the agent again and again, for want of memory perhaps")
            for path in self._staging.iterdir():
                if path != self._staged and path.suffix != _TRIED:
                    path.unlink()
            self._staged.touch(mode=0o600)
            return self._staged.stat().st_size

    def write(self, image: int, parts: Sequence[tuple[int, bytes]]) -> None:
        if image == STAGED:
            path, most, what = str(self._open), self._staged_most, "a delta that is larger than what it makes"
        else:
            path, most = self._targets[image], self._images[image].size_bytes
            what = "a chunk that reaches past the end of its image"
        if any(offset < 0 or offset + len(data) > most for offset, data in parts):
            raise StorageError(what)
        _write_into(path, parts)

    def make(self, image: int, codec: str | None) -> None:
        wanted = self._images[image]
        made = self._open
        try:
            if codec is not None:
                source, made = self._running / f"{wanted.name}.img", self._staging / "made"
                with storage_errors():
                    self._note_try()
                    apply_delta(Codec(codec), source, self._open, made, target_bytes=wanted.size_bytes)
                    made.chmod(0o600)
            if not image_holds(made, wanted):
                raise DigestError(f"what was made of {wanted.name} is not what was signed")
            with storage_errors():
                made.replace(self._targets[image])
        finally:
            with storage_errors():
                made.unlink(missing_ok=True)
                self._tried.unlink(missing_ok=True)
                self._open.unlink(missing_ok=True)
                self._staged = None

    def seal(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)
        self._seal()

    def _note_try(self) -> None:
        """Write down that a delta is about to be applied; whoever survives that takes it back."""
        descriptor = os.open(self._tried, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, b".")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @property
    def _tried(self) -> Path:
        """So many bytes long as this delta has been applied, and that was the end of the agent."""
        return self._open.with_suffix(_TRIED)

    @property
    def _open(self) -> Path:
        assert self._staged is not None, "the core writes into a staged file only after it has opened one"
        return self._staged


def image_holds(path: Path, image: Image) -> bool:
    """Tell whether a file is an image, to the last byte; one that cannot be read is not."""
    try:
        return path.stat().st_size == image.size_bytes and digest_of(path) == image.digest
    except OSError:
        return False


def digest_of(path: Path) -> bytes:
    """Return the SHA-256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.digest()


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


def _write_into(path: str, parts: Sequence[tuple[int, bytes]]) -> None:
    if not parts:
        return
    with storage_errors():
        descriptor = os.open(path, os.O_WRONLY)
        try:
            for offset, row in _rows(parts):
                if os.pwritev(descriptor, row, offset) != sum(map(len, row)):
                    raise StorageError("a chunk was written in part", reason=Reason.STORAGE_FULL)
        finally:
            os.close(descriptor)


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


def _was_written(path: Path) -> bool:
    """Tell a file that has been laid out and nothing more, which need not be read."""
    try:
        return path.stat().st_blocks > 0
    except OSError:
        return False
