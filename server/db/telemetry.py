"""Group commit of what devices say: one transaction for a batch of hellos and reports.

The state machine decides in Python, on the states read in the same transaction. What protects against a concurrent
writer is the sequence number: a row only ever moves to a higher one, and ``silent`` (the other writer, see
``server.db.executions``) leaves the number alone and is left by any report.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from server.db.database import Connection, Database
from server.domain.execution import State, may_follow
from server.domain.identity import CampaignId, DeviceId, Region
from server.protocol.messages import Hello, Report


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """A report and whose it is. ``region`` is the server's own record of where the device is."""

    device: DeviceId
    region: Region
    report: Report


@dataclass(frozen=True, slots=True)
class DeviceHello:
    """A hello and whose it is."""

    device: DeviceId
    hello: Hello


class Stored(NamedTuple):
    """What became of a batch: how many reports changed something, and which campaigns they belong to."""

    changed: int
    ignored: int
    unknown_campaign: int
    campaigns: frozenset[CampaignId]


class _Row(NamedTuple):
    state: State
    attempt: int
    sequence: int
    rebooting_at: datetime | None


READ: Final = """
    SELECT i.campaign_id, i.device_id, e.state, e.attempt, e.sequence, e.rebooting_at
      FROM (SELECT DISTINCT campaign_id, device_id
              FROM unnest($1::uuid[], $2::text[]) AS r (campaign_id, device_id)) AS i
      JOIN campaign AS c ON c.id = i.campaign_id
      LEFT JOIN execution AS e ON e.campaign_id = i.campaign_id AND e.device_id = i.device_id
"""

WRITE: Final = """
    INSERT INTO execution (campaign_id, device_id, region, state, attempt, sequence, reason, detail, slot,
                           done_bytes, total_bytes, started_at, rebooting_at, updated_at)
    SELECT campaign_id, device_id, region, state, attempt, sequence, reason, detail, slot,
           done_bytes, total_bytes, $13, rebooting_at, $13
      FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::integer[],
                  $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::timestamptz[])
        AS r (campaign_id, device_id, region, state, attempt, sequence, reason, detail, slot,
              done_bytes, total_bytes, rebooting_at)
    ON CONFLICT (campaign_id, device_id) DO UPDATE
       SET state = excluded.state, attempt = excluded.attempt, sequence = excluded.sequence,
           reason = excluded.reason, detail = excluded.detail, slot = excluded.slot,
           done_bytes = excluded.done_bytes, total_bytes = excluded.total_bytes,
           rebooting_at = coalesce(execution.rebooting_at, excluded.rebooting_at), updated_at = excluded.updated_at
     WHERE execution.sequence < excluded.sequence
"""

WRITE_EVENTS: Final = """
    INSERT INTO execution_event (campaign_id, device_id, attempt, sequence, state, reason, at)
    SELECT campaign_id, device_id, attempt, sequence, state, reason, $7
      FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::bigint[], $5::text[], $6::integer[])
        AS r (campaign_id, device_id, attempt, sequence, state, reason)
"""

NOTE_HELLOS: Final = """
    UPDATE device
       SET vendor = r.vendor, hardware = r.hardware, agent_version = r.agent_version, booted_slot = r.booted,
           running_version = r.version, running_digest = r.digest, running_sequence = r.sequence_number,
           labels = r.labels::jsonb, session_nonce = r.nonce, last_seen = $10
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bigint[],
                  $9::bytea[], $11::text[])
        AS r (id, vendor, hardware, agent_version, booted, version, digest, sequence_number, nonce, labels)
     WHERE device.id = r.id
"""


class TelemetryRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store(self, *, hellos: Sequence[DeviceHello], reports: Sequence[DeviceReport], now: datetime) -> Stored:
        """Store a batch; a repeated, late or reordered report, and one the state machine forbids, changes nothing.

        Raises:
            StoreUnavailableError: nothing is known of the batch; store it again.
        """
        async with self._database.transaction() as connection:
            if hellos:
                await _note_hellos(connection, hellos, now)
            if not reports:
                return Stored(0, 0, 0, frozenset())
            rows = await _read(connection, reports)
            changed = _advance(rows, reports, now)
            if changed:
                await _write(connection, changed, rows, now)
        unknown = sum((r.report.campaign, r.device) not in rows for r in reports)
        return Stored(
            changed=len(changed),
            ignored=len(reports) - len(changed) - unknown,
            unknown_campaign=unknown,
            campaigns=frozenset(r.report.campaign for r in changed),
        )


_Key = tuple[CampaignId, DeviceId]


async def _read(connection: Connection, reports: Sequence[DeviceReport]) -> dict[_Key, _Row]:
    found = await connection.fetch(READ, [r.report.campaign for r in reports], [r.device for r in reports])
    return {
        (row["campaign_id"], row["device_id"]): (
            _Row(State.WAITING, 0, -1, None)
            if row["state"] is None
            else _Row(State(row["state"]), row["attempt"], row["sequence"], row["rebooting_at"])
        )
        for row in found
    }


def _advance(rows: dict[_Key, _Row], reports: Sequence[DeviceReport], now: datetime) -> list[DeviceReport]:
    """Run the state machine over the batch in order; ``rows`` moves along. Returns what changed something."""
    changed = []
    for item in reports:
        report = item.report
        key = (report.campaign, item.device)
        row = rows.get(key)
        if row is None or report.sequence <= row.sequence or report.attempt < row.attempt:
            continue
        if not may_follow(row.state, report.state, same_attempt=report.attempt == max(row.attempt, 1)):
            continue
        rebooting_at = row.rebooting_at or (now if report.state is State.REBOOTING else None)
        rows[key] = _Row(report.state, report.attempt, report.sequence, rebooting_at)
        changed.append(item)
    return changed


async def _write(
    connection: Connection, changed: Sequence[DeviceReport], rows: Mapping[_Key, _Row], now: datetime
) -> None:
    last = {(item.report.campaign, item.device): item for item in changed}
    final = list(last.values())
    reports = [item.report for item in final]
    await connection.execute(
        WRITE,
        [r.campaign for r in reports],
        [item.device for item in final],
        [item.region for item in final],
        [r.state.value for r in reports],
        [r.attempt for r in reports],
        [r.sequence for r in reports],
        [r.reason.value for r in reports],
        [r.detail for r in reports],
        [r.slot for r in reports],
        [r.done_bytes for r in reports],
        [r.total_bytes for r in reports],
        [rows[key].rebooting_at for key in last],
        now,
    )
    await connection.execute(
        WRITE_EVENTS,
        [item.report.campaign for item in changed],
        [item.device for item in changed],
        [item.report.attempt for item in changed],
        [item.report.sequence for item in changed],
        [item.report.state.value for item in changed],
        [item.report.reason.value for item in changed],
        now,
    )


async def _note_hellos(connection: Connection, hellos: Sequence[DeviceHello], now: datetime) -> None:
    latest = list({item.device: item for item in hellos}.values())
    booted = [next((s for s in item.hello.slots if s.name == item.hello.booted), None) for item in latest]
    await connection.execute(
        NOTE_HELLOS,
        [item.device for item in latest],
        [item.hello.vendor for item in latest],
        [item.hello.hardware for item in latest],
        [item.hello.agent_version for item in latest],
        [item.hello.booted for item in latest],
        [slot.version if slot else None for slot in booted],
        [slot.manifest_digest if slot else None for slot in booted],
        [slot.sequence_number if slot else None for slot in booted],
        [item.hello.nonce for item in latest],
        now,
        [json.dumps(dict(item.hello.labels)) for item in latest],
    )
