"""What a backup says of itself: enough to verify every byte of it before anything is changed."""

import hashlib
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from firmware_store.errors import CorruptBackupError
from server.services.backup.archive import MANIFEST, SEAL, Reader

FORMAT: Final = 1
MANIFEST_MOST_BYTES: Final = 64 << 20
BLOB_INDEX: Final = "blobs.index"
BLOBS: Final = "blobs.data"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,62}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Migrated(_Part):
    """A migration that the database had; ``checksum`` is that of its file."""

    version: int
    name: str
    checksum: Sha256


class Table(_Part):
    """A table: ``COPY`` text, compressed by zstd; ``size_bytes`` before that, ``sha256`` of the compressed bytes."""

    name: Name
    columns: list[Name]
    rows: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    sha256: Sha256

    @property
    def part(self) -> str:
        return f"table-{self.name}.zst"


class Blobs(_Part):
    """Blobs, in the order of their index: a digest and a size (8 bytes, big-endian) each.

    ``kept`` False: their bytes are not in the backup, which relies on the store that it was made beside. ``missing``:
    what the database refers to and the store did not have whole.
    """

    count: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    index_sha256: Sha256
    kept: bool
    missing: list[Sha256]


class Manifest(_Part):
    """``taken_at``: the database is as it was then. Tables are in an order in which they can be loaded."""

    format: Literal[1]
    taken_at: datetime
    migrations: list[Migrated]
    tables: list[Table]
    sequences: dict[str, int]
    blobs: Blobs

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)


def seal(manifest: Manifest) -> tuple[bytes, str]:
    """Return its bytes, and their SHA-256, which stands for every byte of the backup."""
    data = manifest.model_dump_json(indent=1).encode() + b"\n"
    return data, hashlib.sha256(data).hexdigest()


def read_manifest(reader: Reader, *, sha256: str | None = None) -> Manifest:
    """Return what a backup says of itself; ``sha256``: what was shown when it was made.

    Raises:
        CorruptBackupError: it has no manifest (it was never finished), none that can be read, or another one. By the
            digest that lies beside it accidents are found; whoever alters a backup on purpose writes that one, too.
    """
    with reader.part(MANIFEST) as file:
        data = file.read(MANIFEST_MOST_BYTES + 1)
    if len(data) > MANIFEST_MOST_BYTES:
        raise CorruptBackupError("The backup's manifest is too large to be one.")
    found = hashlib.sha256(data).hexdigest()
    with reader.part(SEAL) as file:
        if file.read(len(found) + 2) != f"{found}\n".encode():
            raise CorruptBackupError("The backup's manifest is not what it was when it was written.")
    if sha256 is not None and sha256.lower() != found:
        raise CorruptBackupError(f"This is another backup, or it was altered: its SHA-256 is {found}.")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as exc:
        why = exc.errors()[0]["msg"]
        raise CorruptBackupError(f"The backup's manifest is not one of this release: {why}.") from exc
