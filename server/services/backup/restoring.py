"""Bringing a backup back: verified first, then the blobs, then the database in one transaction.

What has happened since the backup is not in it, and most of it nobody knows any more. So whatever was active comes back
standing still, for a person to look at; directives go on with counters above all that devices can have seen; and
nothing that stood then is said again as it is.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import structlog

from firmware_store.blobs import BlobStore
from firmware_store.documents import Kind
from firmware_store.errors import CorruptBackupError, SchemaError
from firmware_store.roles import RoleName
from server.db.audit import read_head
from server.db.campaign_records import DecisionRecord
from server.db.campaigns import lock_standing, save
from server.db.load import Loading, loading
from server.db.migrate import Migration, read_migrations
from server.db.restored import note_restore
from server.db.snapshot_tables import TableShape
from server.db.trust import read_roots
from server.domain.restore_note import RestoreNote, restore_map
from server.services.backup.archive import Reader, reading
from server.services.backup.making import AT_ONCE, Tell, tell_nobody
from server.services.backup.manifest import Manifest, Migrated, read_manifest
from server.services.backup.verified import Listed, blob_pieces, table_pieces, verify
from server.services.recall import Grounds, walk
from server.services.transitions import restored

log = structlog.get_logger(__name__)

ACTOR: Final = "restore"

_T = TypeVar("_T")


class Restored(NamedTuple):
    """What has come back; ``campaigns``: those that were active, and stand still now. ``missing``: blobs."""

    manifest: Manifest
    campaigns: tuple[str, ...]
    missing: tuple[str, ...]


async def restore_backup(
    path: Path,
    url: str,
    store: BlobStore,
    grounds: Grounds,
    *,
    replace: bool = False,
    sha256: str | None = None,
    tell: Tell = tell_nobody,
) -> Restored:
    """Fill a database and a blob store from a backup; ``grounds``: whose session key signs for it in the audit.

    Raises:
        CorruptBackupError: the backup is not whole, or was altered.
        SchemaError: it was made by a newer release, or by other migrations.
        ConflictError: the database is not empty, or somebody works with it.
        ConfigurationError: there is no backup; or the keys are not those of the fleet that it is of.
        SignerUnavailableError: the session key does not sign.
        StoreUnavailableError: no answer. The database is as it was in each case; blobs may have come that nothing
            refers to.
    """
    with reading(path) as reader:
        manifest = await asyncio.to_thread(read_manifest, reader, sha256=sha256)
        before, after = _split(manifest.migrations)
        listed = await asyncio.to_thread(verify, reader, manifest, tell)
        async with loading(url) as target:
            # Refused as early as can be; it is all undone if anything goes wrong from here on.
            await target.clear(replace=replace)
            missing = [*manifest.blobs.missing, *await _bring_blobs(reader, manifest, listed, store, tell)]
            await target.migrate(before)
            await _fill(target, reader, manifest, tell)
            await target.migrate(after)
            names = await _settle(target, grounds, manifest.taken_at)
    log.info("restored", taken_at=manifest.taken_at.isoformat(), rows=manifest.rows, paused=len(names))
    return Restored(manifest, names, tuple(missing))


def _split(stored: Sequence[Migrated]) -> tuple[list[Migration], list[Migration]]:
    """Return our migrations that the backup's database had, and those that came later.

    Raises:
        SchemaError: it had others.
    """
    known = read_migrations()
    if len(stored) > len(known):
        raise SchemaError(
            f"The backup is of a newer release: it has {len(stored)} migrations, and this one knows {len(known)}."
        )
    for migration, one in zip(known, stored, strict=False):
        if (migration.version, migration.name, migration.checksum.hex()) != (one.version, one.name, one.checksum):
            raise SchemaError(f"The backup's schema is not one of this release's: {one.version:04}_{one.name}.")
    return list(known[: len(stored)]), list(known[len(stored) :])


async def _bring_blobs(
    reader: Reader, manifest: Manifest, listed: list[Listed], store: BlobStore, tell: Tell
) -> list[str]:
    """Put the blobs into the store, or where they were not kept, return those that it has not got."""
    missing: list[str] = []
    if not manifest.blobs.kept:
        for start in range(0, len(listed), AT_ONCE):
            tell("looking for blobs", start, len(listed))
            batch = listed[start : start + AT_ONCE]
            sizes = await asyncio.gather(*(store.size(digest) for digest, _ in batch))
            missing += [digest.hex() for (digest, size), has in zip(batch, sizes, strict=True) if has != size]
        tell("looking for blobs", len(listed), len(listed))
        return missing
    pieces = blob_pieces(reader, listed)
    done = 0
    while batch_of := await asyncio.to_thread(_some, pieces, AT_ONCE):
        await asyncio.gather(*(store.put(digest, data) for digest, data in batch_of))
        done += len(batch_of)
        tell("blobs", done, len(listed))
    return missing


async def _fill(target: Loading, reader: Reader, manifest: Manifest, tell: Tell) -> None:
    shapes = [TableShape(table.name, tuple(table.columns)) for table in manifest.tables]
    done = 0

    def rows_of(number: int) -> AsyncIterator[bytes]:
        async def rows() -> AsyncIterator[bytes]:
            nonlocal done
            tell("tables", done, len(shapes))
            done += 1
            pieces = table_pieces(reader, manifest.tables[number])
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece

        return rows()

    counts = await target.fill(shapes, {shape.name: rows_of(number) for number, shape in enumerate(shapes)})
    if counts != {table.name: table.rows for table in manifest.tables}:
        raise CorruptBackupError("The backup has other numbers of rows than its manifest says.")
    await target.advance(manifest.sequences)
    tell("tables", len(shapes), len(shapes))


async def _settle(target: Loading, grounds: Grounds, backup_at: datetime) -> tuple[str, ...]:
    """Let nothing go on by itself that may have been stopped since; return the names of what was active."""
    now = datetime.now(UTC)
    note = await _sign_note(target, grounds, now=now, backup_at=backup_at)
    await note_restore(target.connection, now=now, backup_at=backup_at, note=note)
    names = []
    for campaign in await lock_standing(target.connection):
        held = restored(campaign, now=now, backup_at=backup_at)
        why = DecisionRecord(now, ACTOR, ACTOR, held.sentence, {"backup_at": backup_at.isoformat()})
        await save(target.connection, held, why)
        names.append(campaign.name)
    await target.renew_lease()
    return tuple(names)


async def _sign_note(target: Loading, grounds: Grounds, *, now: datetime, backup_at: datetime) -> bytes:
    """Return what the audit's next row says of the rows before it, signed as checkpoints are."""
    trust, _, _ = walk(grounds.pinned, await read_roots(target.connection))
    kept = await read_head(target.connection)
    note = RestoreNote(trust.root.fleet, kept, backup_at=int(backup_at.timestamp()), at=int(now.timestamp()))
    pen = grounds.keyring.pen(Kind.RESTORE_NOTE, RoleName.SESSION, trust.root)
    return await asyncio.to_thread(pen.seal, restore_map(note))


def _some(pieces: Iterator[_T], most: int) -> list[_T]:
    return list(islice(pieces, most))
