"""Pieces of the running image that a release has too: where they belong, or, cut by content, wherever they lie."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from device_sim.agent.durable_file import blocks_of, opened
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.agent.slots import Piece
from firmware_store.cutting import cut
from firmware_store.suit_values import ChunkProfile

_READ_BYTES: Final = 1 << 18


class Seeds:
    """A file to take pieces from. It must not change meanwhile; whatever is taken has its digest all the same."""

    def __init__(self, path: str | Path, *, files: Filesystem = SYSTEM_FILES) -> None:
        self._path = str(path)
        self._files = files
        self._offsets: dict[bytes, int] | None = None

    def take(self, pieces: Sequence[Piece], *, moved: bool = False) -> list[bytes | None]:
        """Return each piece's bytes where the file has them, else None. With ``moved`` they may lie anywhere.

        For those the file is cut as the release was, once: it is read to its end, and takes 150 bytes of memory for
        each 20 KiB of it.
        """
        try:
            with opened(self._files, self._path, os.O_RDONLY) as descriptor:
                return self._take_from(descriptor, pieces, moved=moved)
        except OSError:
            return [None] * len(pieces)  # no such component there, or an unreadable one: nothing to reuse

    def _take_from(self, descriptor: int, pieces: Sequence[Piece], *, moved: bool) -> list[bytes | None]:
        found = [self._piece_in(descriptor, piece) for piece in pieces]
        if moved and None in found:
            offsets = self._cut(descriptor)
            found = [
                self._piece_in(descriptor, piece._replace(offset=offsets[piece.digest]))
                if data is None and piece.digest in offsets
                else data
                for piece, data in zip(pieces, found, strict=True)
            ]
        return found

    def _cut(self, descriptor: int) -> dict[bytes, int]:
        if self._offsets is None:
            self._offsets, offset = {}, 0
            for chunk in cut(self._blocks(descriptor), ChunkProfile.CDC):
                self._offsets[hashlib.sha256(chunk).digest()] = offset
                offset += len(chunk)
        return self._offsets

    def _blocks(self, descriptor: int) -> Iterator[bytes]:
        """Yield a file's bytes, up to where it can be read."""
        try:
            yield from blocks_of(self._files, descriptor, block_bytes=_READ_BYTES)
        except OSError:
            return

    def _piece_in(self, descriptor: int, piece: Piece) -> bytes | None:
        try:
            data = self._files.pread(descriptor, piece.size_bytes, piece.offset)
        except OSError:
            return None
        return data if len(data) == piece.size_bytes and _digest_of(data) == piece.digest else None


def _digest_of(data: bytes) -> bytes:
    """Nothing but zeros is what a file holds that was laid out and not written yet: that is not hashed each time."""
    return _digest_of_zeros(len(data)) if data == bytes(len(data)) else hashlib.sha256(data).digest()


@lru_cache(maxsize=64)
def _digest_of_zeros(size_bytes: int) -> bytes:
    return hashlib.sha256(bytes(size_bytes)).digest()
