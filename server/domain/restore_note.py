"""What a restore leaves in the audit (pure): from which backup the chain goes on, signed by a session key.

Rows that were written after the backup are lost, and checkpoints of them no longer fit. A note says so for those that
were signed before it, and for no others. It names the last row of the backup, digest and all, so it holds in one place
of one chain only: whoever owns the database cannot make one, and moving one to where rows were cut off is of no use.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from firmware_store.codec import Encodable
from firmware_store.documents import Kind
from firmware_store.errors import CodecError, TrustError
from firmware_store.root import Root
from server.domain.audit import Head, Row
from server.domain.checkpoint import Checkpoint, open_by_any

RESTORE: Final = "database.restore"
"""What the row says that was done."""


@dataclass(frozen=True, slots=True)
class RestoreNote:
    """``kept``: the last row that the backup had. ``backup_at``, ``at``: Unix seconds; the restore was at ``at``."""

    fleet: bytes
    kept: Head
    backup_at: int
    at: int

    def explains(self, checkpoint: Checkpoint) -> bool:
        """Tell whether a checkpoint is of a row that was lost at this restore.

        One that was signed in the second of the restore may be of a row after it.
        """
        return checkpoint.at < self.at and checkpoint.head.seq > self.kept.seq

    @property
    def sentence(self) -> str:
        return (
            f"Row {self.kept.seq + 1}: restored from a backup of {datetime.fromtimestamp(self.backup_at, UTC):%F %T} "
            f"UTC; what was written after row {self.kept.seq} until then is lost"
        )


def restore_map(note: RestoreNote) -> dict[int, Encodable]:
    """Return what is signed."""
    return {0: 1, 1: note.fleet, 2: note.kept.seq, 3: note.kept.digest, 4: note.backup_at, 5: note.at}


def note_in(row: Row, roots: Iterable[Root]) -> RestoreNote | None:
    """Return the note in a row of a restore; None: there is none in it that holds, and holds there.

    Keys that were replaced since count: what they signed then, they signed.
    """
    try:
        note = open_restore_note(bytes.fromhex(json.loads(row.after or "{}")["note"]), roots)
    except (KeyError, TypeError, ValueError, CodecError, TrustError):
        return None
    return note if note.kept == Head(row.seq - 1, row.previous) else None


def open_restore_note(data: bytes, roots: Iterable[Root]) -> RestoreNote:
    """Return a note that a session key of one of these roots has signed.

    Raises:
        CodecError, TrustError: see ``open_by_any``; or it is no note of a restore.
    """
    value = open_by_any(Kind.RESTORE_NOTE, data, roots)
    match value:
        case {0: 1, 1: bytes(fleet), 2: int(seq), 3: bytes(digest), 4: int(backup_at), 5: int(at)} if len(value) == 6:
            return RestoreNote(fleet, Head(seq, digest), backup_at, at)
    raise CodecError("a note of a restore has a fleet, a number, a digest and two times")
