"""Group commit of what devices say: one transaction for a batch of hellos and reports.

The state machine decides in Python, on the states read in the same transaction. What protects against a concurrent
writer is the sequence number: a row only ever moves to a higher one, and ``silent`` (the other writer, see
``server.db.executions``) leaves the number alone and is left by any report.
"""

import json
from collections.abc import ItemsView, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from server.db import outbox
from server.db.database import Connection, Database
from server.domain.events import Event, EventType, named
from server.domain.execution import State, may_follow
from server.domain.identity import CAMPAIGN, CampaignId, DeviceId, Region, show
from server.protocol.messages import Hello, Report
from server.protocol.reasons import Family, Reason


@dataclass(slots=True)
class DeviceReport:
    """A report and whose it is. ``region`` is the server's own record of where the device is.

    Nobody changes it; it is not frozen because to build a frozen one takes four times as long, for every message.
    """

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


_NOTHING_YET: Final = _Row(State.WAITING, 0, -1, None)
_STATES: Final = {state.value: state for state in State}
_FAILING: Final = frozenset({State.FAILED, State.REJECTED, State.ROLLED_BACK})
_AS_ORDERED: Final = frozenset({Family.POLICY, Family.OPERATOR})
"""What a device does not take, or takes back, for these reasons is as somebody wants it."""


READ: Final = """
    SELECT e.device_id, e.state, e.attempt, e.sequence, e.rebooting_at
      FROM campaign AS c
      LEFT JOIN execution AS e ON e.campaign_id = c.id AND e.device_id = ANY($2::text[])
     WHERE c.id = $1
"""
"""No row at all: there is no such campaign."""

ADVANCE: Final = """
    UPDATE execution AS e
       SET state = r.state, attempt = r.attempt, sequence = r.sequence, reason = r.reason, detail = r.detail,
           slot = r.slot, done_bytes = r.done_bytes, total_bytes = r.total_bytes,
           rebooting_at = coalesce(e.rebooting_at, r.rebooting_at), updated_at = $12
      FROM unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::integer[], $8::text[],
                  $9::text[], $10::bigint[], $11::bigint[], $13::timestamptz[])
        AS r (device_id, region, state, attempt, sequence, reason, detail, slot, done_bytes, total_bytes, rebooting_at)
     WHERE e.campaign_id = $1 AND e.device_id = r.device_id AND e.sequence < r.sequence
"""

WRITE: Final = """
    INSERT INTO execution (campaign_id, device_id, region, state, attempt, sequence, reason, detail, slot,
                           done_bytes, total_bytes, started_at, rebooting_at, updated_at)
    SELECT $1, device_id, region, state, attempt, sequence, reason, detail, slot, done_bytes, total_bytes, $12,
           rebooting_at, $12
      FROM unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::integer[], $8::text[],
                  $9::text[], $10::bigint[], $11::bigint[], $13::timestamptz[])
        AS r (device_id, region, state, attempt, sequence, reason, detail, slot, done_bytes, total_bytes, rebooting_at)
    ON CONFLICT (campaign_id, device_id) DO UPDATE
       SET state = excluded.state, attempt = excluded.attempt, sequence = excluded.sequence,
           reason = excluded.reason, detail = excluded.detail, slot = excluded.slot,
           done_bytes = excluded.done_bytes, total_bytes = excluded.total_bytes,
           rebooting_at = coalesce(execution.rebooting_at, excluded.rebooting_at), updated_at = excluded.updated_at
     WHERE execution.sequence < excluded.sequence
"""

WRITE_EVENTS: Final = """
    INSERT INTO execution_event (campaign_id, device_id, attempt, sequence, state, reason, at)
    SELECT $1, device_id, attempt, sequence, state, reason, $7
      FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::text[], $6::integer[])
        AS r (device_id, attempt, sequence, state, reason)
"""

NOTE_HELLOS: Final = """
    UPDATE device
       SET vendor = r.vendor, hardware = r.hardware, agent_version = r.agent_version, booted_slot = r.booted,
           running_version = r.version, running_digest = r.digest, running_sequence = r.sequence_number,
           labels = r.labels::jsonb, session_nonce = r.nonce, wake_interval_s = r.wake_interval_s, last_seen = $10,
           moved = false
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bigint[],
                  $9::bytea[], $11::text[], $12::integer[])
        AS r (id, vendor, hardware, agent_version, booted, version, digest, sequence_number, nonce, labels,
              wake_interval_s)
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
            stored = [await _store(connection, *group, now) for group in _by_campaign(reports)]
        return Stored(
            changed=sum(one.changed for one in stored),
            ignored=sum(one.ignored for one in stored),
            unknown_campaign=sum(one.unknown_campaign for one in stored),
            campaigns=frozenset().union(*(one.campaigns for one in stored)),
        )


def _by_campaign(reports: Sequence[DeviceReport]) -> ItemsView[CampaignId, list[DeviceReport]]:
    """A statement for each campaign: mostly there is one, and its id as one value is cheaper than with each report."""
    groups: dict[CampaignId, list[DeviceReport]] = {}
    for item in reports:
        groups.setdefault(item.report.campaign, []).append(item)
    return groups.items()


async def _store(
    connection: Connection, campaign: CampaignId, reports: Sequence[DeviceReport], now: datetime
) -> Stored:
    known = await _read(connection, campaign, reports)
    if known is None:
        return Stored(0, 0, len(reports), frozenset())
    rows = dict(known)
    changed = _advance(rows, reports, now)
    if not changed:
        return Stored(0, len(reports), 0, frozenset())
    last = {item.device: item for item in changed}.values()
    begun = [item for item in last if item.device in known]
    fresh = [item for item in last if item.device not in known]
    await _write(connection, ADVANCE, campaign, begun, rows=rows, now=now)
    await _write(connection, WRITE, campaign, fresh, rows=rows, now=now)
    await _write_events(connection, campaign, changed, now)
    await outbox.put(connection, *_failed(campaign, list(last), now))
    return Stored(len(changed), len(reports) - len(changed), 0, frozenset({campaign}))


def _failed(campaign: CampaignId, last: Sequence[DeviceReport], now: datetime) -> list[Event]:
    """Return what is to be told of those that will not run the release; to do as one is told is no failure."""
    failed = [
        item for item in last if item.report.state in _FAILING and Reason(item.report.reason).family not in _AS_ORDERED
    ]
    if not failed:
        return []
    devices = [
        {
            "device": item.device,
            "region": item.region,
            "state": item.report.state,
            "reason": Reason(item.report.reason).name.lower(),
            "detail": item.report.detail,
        }
        for item in failed
    ]
    return [Event(EventType.EXECUTIONS_FAILED, show(CAMPAIGN, campaign), now, named(devices), campaign)]


async def _read(
    connection: Connection, campaign: CampaignId, reports: Sequence[DeviceReport]
) -> dict[DeviceId, _Row] | None:
    """The rows that exist; None if the campaign does not."""
    found = await connection.fetch(READ, campaign, list({item.device for item in reports}))
    if not found:
        return None
    return {
        device: _Row(_STATES[state], attempt, sequence, rebooting_at)
        for device, state, attempt, sequence, rebooting_at in found
        if device is not None
    }


def _advance(rows: dict[DeviceId, _Row], reports: Sequence[DeviceReport], now: datetime) -> list[DeviceReport]:
    """Run the state machine over the batch in order; ``rows`` moves along. Returns what changed something."""
    changed = []
    for item in reports:
        report = item.report
        row = rows.get(item.device, _NOTHING_YET)
        if report.sequence <= row.sequence or report.attempt < row.attempt:
            continue
        if not may_follow(row.state, report.state, same_attempt=report.attempt == max(row.attempt, 1)):
            continue
        rebooting_at = row.rebooting_at or (now if report.state is State.REBOOTING else None)
        rows[item.device] = _Row(report.state, report.attempt, report.sequence, rebooting_at)
        changed.append(item)
    return changed


async def _write(
    connection: Connection,
    statement: str,
    campaign: CampaignId,
    items: Sequence[DeviceReport],
    *,
    rows: Mapping[DeviceId, _Row],
    now: datetime,
) -> None:
    if not items:
        return
    reports = [item.report for item in items]
    await connection.execute(
        statement,
        campaign,
        [item.device for item in items],
        [item.region for item in items],
        [r.state for r in reports],
        [r.attempt for r in reports],
        [r.sequence for r in reports],
        [r.reason for r in reports],
        [r.detail for r in reports],
        [r.slot for r in reports],
        [r.done_bytes for r in reports],
        [r.total_bytes for r in reports],
        now,
        [rows[item.device].rebooting_at for item in items],
    )


async def _write_events(
    connection: Connection, campaign: CampaignId, changed: Sequence[DeviceReport], now: datetime
) -> None:
    reports = [item.report for item in changed]
    await connection.execute(
        WRITE_EVENTS,
        campaign,
        [item.device for item in changed],
        [r.attempt for r in reports],
        [r.sequence for r in reports],
        [r.state for r in reports],
        [r.reason for r in reports],
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
        [item.hello.wake_interval_s for item in latest],
    )
