"""A backup whose every byte has been compared with its manifest: nothing is changed before that."""

import hashlib
import zipfile
from collections.abc import Iterator
from typing import IO, Final, NamedTuple, cast

import zstandard

from firmware_store.errors import CorruptBackupError
from server.services.backup.archive import Reader
from server.services.backup.making import SIZE_BYTES, Tell
from server.services.backup.manifest import BLOB_INDEX, BLOBS, Blobs, Manifest, Table

BLOB_MOST_BYTES: Final = 1 << 24
"""Blobs are chunks, pages and envelopes: none has a hundredth of this."""

PIECE_BYTES: Final = 1 << 20
_ENTRY_BYTES: Final = 32 + SIZE_BYTES


class _Hashed:
    """A part that is hashed while it is read."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = _read(self._file, size, self._name)
        self.digest.update(data)
        return data


class Listed(NamedTuple):
    digest: bytes
    size: int


def verify(reader: Reader, manifest: Manifest, tell: Tell) -> list[Listed]:
    """Read all of it, and return the blobs that it lists. Blocks.

    Raises:
        CorruptBackupError: something is missing, short, or has other bytes than the manifest says.
    """
    for number, table in enumerate(manifest.tables):
        tell("verifying tables", number, len(manifest.tables))
        for _ in table_pieces(reader, table):
            pass
    tell("verifying tables", len(manifest.tables), len(manifest.tables))
    listed = _read_index(reader, manifest.blobs)
    if manifest.blobs.kept:
        for number, _ in enumerate(blob_pieces(reader, listed)):
            tell("verifying blobs", number + 1, len(listed))
    return listed


def table_pieces(reader: Reader, table: Table) -> Iterator[bytes]:
    """Yield a table's rows as text; never more than the manifest says that there are.

    Raises:
        CorruptBackupError: other bytes; what was yielded is not to be relied on, unless ``verify`` has returned.
    """
    left = table.size_bytes
    with reader.part(table.part) as file:
        hashed = _Hashed(file, table.part)
        try:
            source = cast("IO[bytes]", hashed)  # of which only ``read`` is called
            unpacked = zstandard.ZstdDecompressor().stream_reader(source, read_size=PIECE_BYTES, closefd=False)
            while data := unpacked.read(PIECE_BYTES):
                left -= len(data)
                if left < 0:
                    raise CorruptBackupError(f"{table.part} holds more than the manifest says.")
                yield data
        except zstandard.ZstdError as exc:
            raise CorruptBackupError(f"{table.part} cannot be decompressed: {exc}.") from exc
        while hashed.read(PIECE_BYTES):
            pass
    if left or hashed.digest.hexdigest() != table.sha256:
        raise CorruptBackupError(f"{table.part} is not what the manifest says.")


def blob_pieces(reader: Reader, listed: list[Listed]) -> Iterator[tuple[bytes, bytes]]:
    """Yield each blob with its digest, which was compared. Raises: CorruptBackupError."""
    with reader.part(BLOBS) as file:
        for digest, size in listed:
            data = _read(file, size, BLOBS)
            if hashlib.sha256(data).digest() != digest:
                raise CorruptBackupError(f"Blob {digest.hex()} is not in the backup as it should be.")
            yield digest, data
        if _read(file, 1, BLOBS):
            raise CorruptBackupError(f"{BLOBS} holds more than its index says.")


def _read_index(reader: Reader, blobs: Blobs) -> list[Listed]:
    with reader.part(BLOB_INDEX) as file:
        data = _read(file, blobs.count * _ENTRY_BYTES + 1, BLOB_INDEX)
    if len(data) != blobs.count * _ENTRY_BYTES or hashlib.sha256(data).hexdigest() != blobs.index_sha256:
        raise CorruptBackupError(f"{BLOB_INDEX} is not what the manifest says.")
    entries = [data[at : at + _ENTRY_BYTES] for at in range(0, len(data), _ENTRY_BYTES)]
    listed = [Listed(entry[:32], int.from_bytes(entry[32:], "big")) for entry in entries]
    if any(size > BLOB_MOST_BYTES for _, size in listed):
        raise CorruptBackupError(f"{BLOB_INDEX} lists a blob that is too large to be one.")
    return listed


def _read(file: IO[bytes], size: int, name: str) -> bytes:
    """Read so many bytes, or to the end; a ZIP file compares checksums by itself."""
    try:
        return file.read(size)
    except (OSError, EOFError, zipfile.BadZipFile) as exc:
        raise CorruptBackupError(f"The backup cannot be read: {name}: {exc}.") from exc
