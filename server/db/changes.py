"""Changing devices inside a transaction: where they belong, what people say of them, and whether they are held."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from server.db.database import Connection
from server.domain.campaign import ACTIVE
from server.domain.change import LABELS_MOST, Change
from server.domain.execution import State
from server.domain.identity import Cohort, DeviceId, Region
from server.domain.scope import EVERYTHING, Scope

UNDER_WAY: Final = tuple(state.value for state in (State.DOWNLOADING, State.INSTALLING, State.REBOOTING, State.TRIAL))
"""A device in one of these states of an active campaign is not moved: it would leave its own trial."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Where a device was and is."""

    device: DeviceId
    left: Region
    region: Region
    cohort: Cohort


@dataclass(frozen=True, slots=True)
class Batch:
    """What has become of one: ``sites`` are labels (as people give it, as it is now) by device."""

    moved: Sequence[Moved] = ()
    sites: Mapping[DeviceId, tuple[str | None, str | None]] = field(default_factory=dict)
    held: Sequence[DeviceId] = ()
    released: Sequence[DeviceId] = ()
    refused: Sequence[tuple[str, str]] = ()
    is_last: bool = False


LOCK_DEVICES: Final = "SELECT id, region, cohort FROM device WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE"

BUSY: Final = """
    SELECT DISTINCT e.device_id, c.name
      FROM campaign AS c JOIN execution AS e ON e.campaign_id = c.id
     WHERE c.state = ANY($2) AND e.device_id = ANY($1) AND e.state = ANY($3)
"""

MOVE: Final = """
    UPDATE device SET region = coalesce($2, region), cohort = coalesce($3, cohort), member_since = $4, moved = true
     WHERE id = ANY($1) AND (region <> coalesce($2, region) OR cohort <> coalesce($3, cohort))
    RETURNING id, region, cohort
"""

LABEL: Final = """
    UPDATE device SET operator_labels = (operator_labels || $2::text::jsonb) - $3::text[]
     WHERE id = ANY($1)
       AND (SELECT count(*) FROM jsonb_object_keys((operator_labels || $2::text::jsonb) - $3::text[])) <= $4
    RETURNING id, operator_labels ->> 'site' AS given, all_labels ->> 'site' AS site
"""

HOLD: Final = "UPDATE device SET held = true, held_until = $2, held_reason = $3 WHERE id = ANY($1) RETURNING id"

RELEASE: Final = """
    UPDATE device SET held = false, held_until = NULL, held_reason = '', released_at = $2
     WHERE id = ANY($1) RETURNING id
"""

GONE: Final = "there is no such device any more"


async def change_devices(
    connection: Connection, names: Sequence[str], change: Change, *, now: datetime, scope: Scope = EVERYTHING
) -> Batch:
    """Change these devices inside the caller's transaction; whoever is refused is not changed at all."""
    rows = await connection.fetch(LOCK_DEVICES, list(names))
    left = {row["id"]: row["region"] for row in rows if scope.has(row["region"], row["cohort"])}
    refused = {name: GONE for name in names if name not in left}
    if change.is_move:
        states = [state.value for state in ACTIVE]
        for row in await connection.fetch(BUSY, list(left), states, list(UNDER_WAY)):
            refused[row["device_id"]] = f"it is under way in the campaign {row['name']}"
    ids = [name for name in left if name not in refused]
    sites: dict[DeviceId, tuple[str | None, str | None]] = {}
    if change.labels:
        given = {name: text for name, text in change.labels.items() if text is not None}
        taken = [name for name, text in change.labels.items() if text is None]
        rows = await connection.fetch(LABEL, ids, json.dumps(given), taken, LABELS_MOST)
        sites = {row["id"]: (row["given"], row["site"]) for row in rows}
        refused |= {name: f"people gave it {LABELS_MOST} labels already" for name in ids if name not in sites}
        ids = [name for name in ids if name not in refused]
    moved: list[Moved] = []
    if change.is_move:
        rows = await connection.fetch(MOVE, ids, change.region, change.cohort, now)
        moved = [Moved(row["id"], Region(left[row["id"]]), row["region"], row["cohort"]) for row in rows]
    held: list[DeviceId] = []
    released: list[DeviceId] = []
    if change.hold is not None:
        seconds = change.hold.for_seconds
        until = None if seconds is None else now + timedelta(seconds=seconds)
        held = [row["id"] for row in await connection.fetch(HOLD, ids, until, change.hold.reason)]
    if change.release:
        released = [row["id"] for row in await connection.fetch(RELEASE, ids, now)]
    return Batch(moved, sites, held, released, sorted(refused.items()))
