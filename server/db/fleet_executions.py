"""Executions of all campaigns as one list: the newest campaign first, its devices by their ids.

Each campaign is asked for its own few: the key of an execution begins with its campaign, so one device's way through
all of them is one look into the index for each campaign, however many devices there are.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from server.db.database import Database
from server.db.executions import COLUMNS, ExecutionRecord, record_of
from server.db.filters import where_fleet_executions
from server.domain.execution import State
from server.domain.filter import Conjunction, Expression
from server.domain.identity import CampaignId, Cohort, DeviceId
from server.domain.scope import EVERYTHING, Scope
from server.protocol.reasons import Reason


class Place(NamedTuple):
    """Where an execution is in the list."""

    campaign: CampaignId
    device: DeviceId


@dataclass(frozen=True, slots=True)
class FleetExecution:
    """An execution, and the campaign that it is of."""

    campaign: CampaignId
    name: str
    cohort: Cohort
    execution: ExecutionRecord

    @property
    def place(self) -> Place:
        return Place(self.campaign, self.execution.device_id)


PAGE: Final = f"""
    SELECT c.id AS campaign, c.name, c.cohort, found.*
      FROM campaign AS c CROSS JOIN LATERAL (
           SELECT {COLUMNS} FROM execution
            WHERE campaign_id = c.id AND (c.id IS DISTINCT FROM $1::uuid OR device_id > $2)
              AND ($3::text IS NULL OR state = $3) AND ($4::integer IS NULL OR reason = $4)
              AND ($5::text[] IS NULL OR region = ANY($5))
            ORDER BY device_id LIMIT $7) AS found
     WHERE ($1::uuid IS NULL OR c.id <= $1) AND ($6::text[] IS NULL OR c.cohort = ANY($6))
     ORDER BY c.id DESC, found.device_id LIMIT $7
"""


class FleetExecutionRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        *,
        limit: int,
        after: Place | None = None,
        state: State | None = None,
        reason: Reason | None = None,
        only: Expression | None = None,
        scope: Scope = EVERYTHING,
    ) -> list[FleetExecution]:
        """Return up to ``limit`` executions within ``scope`` that a filter lets through, from ``after`` on."""
        where, values = where_fleet_executions(only or Conjunction(()), 8)
        statement = PAGE.replace("ORDER BY device_id", f"AND {where} ORDER BY device_id")
        asked = (
            None if after is None else after.campaign,
            "" if after is None else after.device,
            None if state is None else state.value,
            reason,
            scope.region_names,
            scope.cohort_names,
            limit,
        )
        async with self._database.transaction() as connection:
            return [_record(row) for row in await connection.fetch(statement, *asked, *values)]


def _record(row: Any) -> FleetExecution:
    values = dict(row)
    campaign, name, cohort = (values.pop(member) for member in ("campaign", "name", "cohort"))
    return FleetExecution(campaign, name, cohort, record_of(values))
