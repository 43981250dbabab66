"""What a database that came back from a backup must not take for true any more.

Devices, and the broker, have gone on since the backup was made. So the counters of directives go on well above what
anybody can have seen, what stood then is not published again as it is, and what the broker holds is not known.
"""

from datetime import datetime
from typing import Final

from server.db import audit
from server.db.audit import Entry
from server.db.database import Connection, Database
from server.domain.restore_note import RESTORE
from server.protocol.messages import Counter

AHEAD_MS: Final = 86_400_000
"""So far ahead of the clock, in milliseconds, counters begin again: the server before may have had a fast one."""

# A directive of then is said again, or something else is, under a counter of today; as it is, it goes to nobody.
HOLD_BACK: Final = "UPDATE directive SET published_counter = counter"

NOTE: Final = """
    INSERT INTO restore_point (restored_at, backup_at, counter_epoch, counter_floor)
    SELECT $1, $2, (SELECT coalesce(max(epoch), 0) FROM directive),
           greatest($3::bigint, (SELECT coalesce(max(counter), 0) + 1 FROM directive),
                    (SELECT coalesce(max(counter_floor), 0) FROM restore_point))
"""

FLOOR: Final = "SELECT counter_epoch, counter_floor FROM restore_point ORDER BY restored_at DESC LIMIT 1"

WANT_BLOBS_AGAIN: Final = """
    UPDATE published_blob SET state = CASE WHEN state IN ('wanted', 'published') THEN 'wanted' ELSE 'withdrawing' END,
                              at = $1
"""


EVENTS_LEFT_OUT: Final = 100_000
"""Numbers of events: those that followed the backup are known to whoever listens, who is told to begin again."""

LEAVE_OUT_EVENTS: Final = "UPDATE outbox_head SET seq = seq + $1"

END_OPERATIONS: Final = """
    UPDATE operation SET state = 'failed', ended_at = $1,
                         errors = errors || jsonb_build_array(jsonb_build_array('', $2::text))
     WHERE state = 'running'
"""
CLEAR_OPERATIONS: Final = "DELETE FROM operation_device"


async def note_restore(connection: Connection, *, now: datetime, backup_at: datetime, note: bytes) -> None:
    """Note that this database is as it was at ``backup_at``, inside the transaction that fills it.

    ``note``: what was signed about that, for the audit's row after the backup's last (``server.domain.restore_note``).
    """
    await connection.execute(HOLD_BACK)
    await connection.execute(NOTE, now, backup_at, int(now.timestamp() * 1000) + AHEAD_MS)
    await connection.execute(WANT_BLOBS_AGAIN, now)
    await connection.execute(END_OPERATIONS, now, "the database was restored from a backup; see what is left to do")
    await connection.execute(CLEAR_OPERATIONS)
    await connection.execute(LEAVE_OUT_EVENTS, EVENTS_LEFT_OUT)
    after = {"backup_at": backup_at.isoformat(), "note": note.hex()}
    await audit.write(connection, Entry(RESTORE, "", now, after=after))


class RestoreRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def counter_floor(self) -> Counter | None:
        """Return the counter below which what stands is older than the last restore; None: there was none."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(FLOOR)
        return None if row is None else Counter(row["counter_epoch"], row["counter_floor"])
