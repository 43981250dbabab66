"""Executions as the orchestrator and people read them; devices' own words come in through ``server.db.telemetry``."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from firmware_store.errors import NotFoundError
from server.db import outbox
from server.db.database import Connection, Database
from server.db.filters import where_executions
from server.domain.events import Event, EventType, named
from server.domain.execution import State
from server.domain.filter import Expression
from server.domain.identity import CAMPAIGN, CampaignId, DeviceId, Region, show
from server.domain.scope import EVERYTHING, Scope
from server.protocol.reasons import EXPLICIT_FAILURES, Reason


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """One device's way through one campaign; ``reason`` is a ``server.protocol.reasons`` number."""

    device_id: DeviceId
    region: Region
    state: State
    attempt: int
    sequence: int
    reason: int
    detail: str
    slot: str
    started_at: datetime
    rebooting_at: datetime | None
    judged_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a device is: ``reason`` is a ``server.protocol.reasons`` number, ``rebooted_at`` Unix seconds."""

    state: State
    reason: int
    rebooted_at: float | None
    is_judged: bool = False
    """In the campaign's present run."""
    is_earlier: bool = False
    """It ended in an earlier run: it is not tried again, and is no evidence in this one."""

    @property
    def is_explicit_failure(self) -> bool:
        """The device itself has said that the release failed: families signature, boot and health."""
        return self.state in _FAILING and self.reason in EXPLICIT_FAILURES


@dataclass(frozen=True, slots=True)
class Returns:
    """Where the devices that ran a release are after it was rolled back; ``last``: when the last of them returned.

    ``waiting`` have not answered yet: they run it still, are on trial with it, or are booting it.
    """

    returned: int
    no_way_back: int
    waiting: int
    last: datetime | None


_FAILING: Final = frozenset({State.FAILED, State.REJECTED, State.ROLLED_BACK})
_STATES: Final = {state.value: state for state in State}

COHORT: Final = "SELECT cohort FROM campaign WHERE id = $1"

COLUMNS: Final = """device_id, region, state, attempt, sequence, reason, detail, slot, started_at, rebooting_at,
    judged_at, updated_at"""

# What ended in an earlier run: it is not tried again, and is no evidence in this one. The report of an end may come
# after the next run has begun, so what counts is when the update rebooted.
_EARLIER: Final = """(c.run > 1 AND e.state IN ('rolled_back', 'failed', 'rejected', 'silent')
            AND CASE WHEN e.state = 'failed' THEN e.updated_at
                     ELSE coalesce(e.rebooting_at, e.started_at) END < c.run_at)"""

PROGRESS: Final = f"""
    SELECT e.device_id, e.state, e.reason, extract(epoch FROM e.rebooting_at)::float8,
           e.judged_at IS NOT NULL AND (c.run = 1 OR e.rebooting_at >= c.run_at), {_EARLIER}
      FROM execution AS e JOIN campaign AS c ON c.id = e.campaign_id
     WHERE e.campaign_id = $1
"""

ONE: Final = f"""
    SELECT {", ".join(f"e.{name.strip()}" for name in COLUMNS.split(","))}, {_EARLIER} AS is_earlier
      FROM execution AS e JOIN campaign AS c ON c.id = e.campaign_id
     WHERE e.campaign_id = $1 AND e.device_id = $2
"""

# A device that sleeps has $3 of its wake intervals more.
UNJUDGED: Final = f"""
    SELECT {COLUMNS} FROM execution AS e
     WHERE campaign_id = $1 AND rebooting_at IS NOT NULL AND judged_at IS NULL AND rebooting_at <= $2
       AND NOT EXISTS (SELECT FROM device
                        WHERE id = e.device_id AND e.rebooting_at > $2 - $3 * make_interval(secs => wake_interval_s))
"""

JUDGE: Final = """
    UPDATE execution AS e
       SET judged_at = $4,
           state = CASE WHEN r.silent AND e.state IN ('rebooting', 'trial') THEN 'silent' ELSE e.state END,
           updated_at = CASE WHEN r.silent AND e.state IN ('rebooting', 'trial') THEN $4 ELSE e.updated_at END
      FROM unnest($2::text[], $3::boolean[], $5::bigint[]) AS r (device_id, silent, sequence)
     WHERE e.campaign_id = $1 AND e.device_id = r.device_id AND e.judged_at IS NULL AND e.sequence = r.sequence
    RETURNING e.device_id, e.region, r.silent AND e.state = 'silent' AS is_silent
"""

MARK_SILENT: Final = """
    UPDATE execution AS e SET state = 'silent', updated_at = $3, judged_at = coalesce(e.judged_at, $3)
      FROM unnest($2::text[], $4::bigint[]) AS r (device_id, sequence)
     WHERE e.campaign_id = $1 AND e.device_id = r.device_id AND e.sequence = r.sequence
       AND e.state IN ('rebooting', 'trial')
    RETURNING e.device_id, e.region
"""

TRIALS: Final = f"""
    SELECT {COLUMNS} FROM execution
     WHERE campaign_id = $1 AND updated_at <= $2
       AND (state = 'trial' OR (state = 'rebooting' AND judged_at IS NOT NULL))
"""

PAGE: Final = f"""
    SELECT {COLUMNS} FROM execution
     WHERE campaign_id = $1 AND device_id > $2 AND ($3::text IS NULL OR state = $3)
       AND ($5::integer IS NULL OR reason = $5) AND ($6::text[] IS NULL OR region = ANY($6))
     ORDER BY device_id LIMIT $4
"""

# A device that has confirmed a later campaign's release since has nothing to return from.
RETURNS: Final = f"""
    SELECT count(*) FILTER (WHERE e.state = 'rolled_back' AND e.reason = {Reason.ROLLED_BACK.value}) AS returned,
           count(*) FILTER (WHERE e.state = 'confirmed' AND e.reason = {Reason.NO_WAY_BACK.value}) AS no_way_back,
           count(*) FILTER (WHERE e.state IN ('rebooting', 'trial')
                               OR (e.state = 'confirmed' AND e.reason <> {Reason.NO_WAY_BACK.value})) AS waiting,
           max(e.updated_at) FILTER (WHERE e.state = 'rolled_back' AND e.reason = {Reason.ROLLED_BACK.value}) AS last
      FROM execution AS e JOIN campaign AS c ON c.id = e.campaign_id
     WHERE e.campaign_id = $1 AND e.state IN ('confirmed', 'rebooting', 'trial', 'rolled_back')
       AND ($2::text[] IS NULL OR e.region = ANY($2))
       AND NOT EXISTS (SELECT FROM campaign AS other JOIN execution AS later ON later.campaign_id = other.id
                        WHERE other.cohort = c.cohort AND other.started_at > c.started_at
                          AND later.device_id = e.device_id AND later.state = 'confirmed'
                          AND later.updated_at > e.updated_at)
"""


class ExecutionRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def returns(self, campaign: CampaignId, *, scope: Scope = EVERYTHING) -> Returns:
        """Return how far a campaign's rollback is within ``scope``. Raises: NotFoundError: no such campaign there."""
        async with self._database.transaction() as connection:
            await _check_cohort(connection, campaign, scope)
            row = await connection.fetchrow(RETURNS, campaign, scope.region_names)
        assert row is not None
        return Returns(**dict(row))

    async def progress(self, campaign: CampaignId) -> dict[DeviceId, Progress]:
        """Return how far every device is that has begun."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(PROGRESS, campaign)
        return {
            device: Progress(_STATES[state], reason, at, judged, earlier)
            for device, state, reason, at, judged, earlier in rows
        }

    async def one(self, campaign: CampaignId, device: DeviceId) -> tuple[ExecutionRecord, bool] | None:
        """Return how far the device is, and whether that ended in an earlier run; None where it has not begun."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(ONE, campaign, device)
        if row is None:
            return None
        members = dict(row)
        is_earlier = members.pop("is_earlier")
        return record_of(members), is_earlier

    async def unjudged(self, campaign: CampaignId, *, rebooted_by: datetime, wakes: int) -> list[ExecutionRecord]:
        """Return the executions that reported ``rebooting`` by then and have no verdict on their silence yet.

        Of devices that sleep, those that did so many of their wake intervals before.
        """
        async with self._database.transaction() as connection:
            return [record_of(row) for row in await connection.fetch(UNJUDGED, campaign, rebooted_by, wakes)]

    async def judge(
        self, campaign: CampaignId, verdicts: Sequence[tuple[ExecutionRecord, bool]], *, now: datetime
    ) -> None:
        """Store who is silent (True); one that has reported since it was read is left for the next look."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                JUDGE,
                campaign,
                [record.device_id for record, _ in verdicts],
                [silent for _, silent in verdicts],
                now,
                [record.sequence for record, _ in verdicts],
            )
            await outbox.put(connection, *_silent(campaign, [row for row in rows if row["is_silent"]], now))

    async def trials(self, campaign: CampaignId, *, since_before: datetime) -> list[ExecutionRecord]:
        """Return the trials that nothing has been reported of since then.

        With them, the devices that were heard from after their reboot, or reboot once more, and never said more.
        """
        async with self._database.transaction() as connection:
            return [record_of(row) for row in await connection.fetch(TRIALS, campaign, since_before)]

    async def mark_silent(self, campaign: CampaignId, trials: Sequence[ExecutionRecord], *, now: datetime) -> None:
        """Conclude that these trials died; one that has reported since it was read is left alone."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                MARK_SILENT, campaign, [r.device_id for r in trials], now, [r.sequence for r in trials]
            )
            await outbox.put(connection, *_silent(campaign, rows, now))

    async def page(
        self,
        campaign: CampaignId,
        *,
        after: str,
        limit: int,
        state: State | None = None,
        reason: Reason | None = None,
        only: Expression | None = None,
        scope: Scope = EVERYTHING,
    ) -> list[ExecutionRecord]:
        """Return up to ``limit`` executions that a filter lets through and whose device ids come after ``after``.

        Raises:
            NotFoundError: there is no such campaign within ``scope``.
        """
        of_state = None if state is None else state.value
        statement, values = PAGE, list[Any]()
        if only is not None:
            where, values = where_executions(only, 7)
            statement = PAGE.replace("ORDER BY", f"AND {where} ORDER BY")
        async with self._database.transaction() as connection:
            await _check_cohort(connection, campaign, scope)
            rows = await connection.fetch(
                statement, campaign, after, of_state, limit, reason, scope.region_names, *values
            )
        return [record_of(row) for row in rows]


async def _check_cohort(connection: Connection, campaign: CampaignId, scope: Scope) -> None:
    if scope.cohorts is not None and await connection.fetchval(COHORT, campaign) not in scope.cohorts:
        raise NotFoundError("There is no such campaign.")


def _silent(campaign: CampaignId, rows: Sequence[Any], now: datetime) -> list[Event]:
    if not rows:
        return []
    devices = [{"device": row["device_id"], "region": row["region"]} for row in rows]
    return [Event(EventType.EXECUTIONS_SILENT, show(CAMPAIGN, campaign), now, named(devices), campaign)]


def record_of(row: Any) -> ExecutionRecord:
    """Return what a row of ``COLUMNS`` holds."""
    return ExecutionRecord(**{**dict(row), "state": State(row["state"])})
