"""How far devices are: ``/v1/executions`` of all campaigns, and those of one."""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from server.api.lists import FilterQuery, Page, begin_page, end_page
from server.api.routing import Call, Example, route
from server.db.executions import ExecutionRecord
from server.db.fleet_executions import FleetExecution, Place
from server.domain.execution import State
from server.domain.filter import EXECUTIONS, FLEET_EXECUTIONS
from server.domain.identity import CampaignId, DeviceId
from server.protocol.reasons import Reason
from server.services import identifiers
from server.services.tokens import Right


def _known_reason(name: str) -> str:
    if name not in REASONS:
        raise ValueError("reason is one of docs/reasons.md, such as no_way_back.")
    return name


REASONS: Final = tuple(reason.name.lower() for reason in Reason)
ReasonName = Annotated[str, Field(json_schema_extra={"enum": list(REASONS)}), AfterValidator(_known_reason)]


class ExecutionView(BaseModel):
    """One device's way through the campaign."""

    device: str
    region: str
    state: State
    attempt: int
    reason: str
    detail: str
    slot: str
    started_at: datetime
    updated_at: datetime


class ExecutionList(Page):
    executions: list[ExecutionView]


class FleetExecutionView(ExecutionView):
    """One device's way through one campaign; ``cohort`` is the campaign's."""

    campaign: str
    campaign_name: str
    cohort: str


class FleetExecutionList(Page):
    executions: list[FleetExecutionView]


class ExecutionQuery(FilterQuery):
    """Which executions are listed."""

    state: State | None = Field(None, description="those in this state")
    reason: ReasonName | None = Field(None, description="those with this reason, see docs/reasons.md")

    @property
    def why(self) -> Reason | None:
        return None if self.reason is None else Reason[self.reason.upper()]


@route("GET", "/v1/campaigns/{campaign}/executions", right=Right.READ, query=ExecutionQuery)
async def list_executions(call: Call[None, ExecutionQuery]) -> ExecutionList:
    """List how far each device is, by their ids."""
    query = call.query
    campaign = CampaignId(identifiers.parse(identifiers.CAMPAIGN, call.request.match_info["campaign"]))
    found = await call.context.campaigns.get(campaign)
    records = await call.context.executions.page(
        found.id,
        after=begin_page(call, "executions", str) or "",
        limit=query.limit,
        state=query.state,
        reason=query.why,
        only=query.only(EXECUTIONS),
    )
    following = end_page(call, "executions", records, lambda record: record.device_id)
    return ExecutionList(executions=[ExecutionView(**_members(record)) for record in records], next=following)


@route(
    "GET",
    "/v1/executions",
    right=Right.READ,
    query=ExecutionQuery,
    example=Example(query={"filter": "device = gw-17", "limit": 20}),
)
async def list_fleet_executions(call: Call[None, ExecutionQuery]) -> FleetExecutionList:
    """List how far devices are in all campaigns, the newest campaign first, its devices by their ids."""
    query = call.query
    records = await call.context.fleet_executions.page(
        after=begin_page(call, "fleet executions", _read_place),
        limit=query.limit,
        state=query.state,
        reason=query.why,
        only=query.only(FLEET_EXECUTIONS),
    )
    following = end_page(call, "fleet executions", records, lambda record: " ".join(map(str, record.place)))
    return FleetExecutionList(executions=[_view(record) for record in records], next=following)


def _read_place(text: str) -> Place:
    campaign, _, device = text.partition(" ")
    return Place(CampaignId(UUID(campaign)), DeviceId(device))


def _view(record: FleetExecution) -> FleetExecutionView:
    return FleetExecutionView(
        **_members(record.execution),
        campaign=identifiers.show(identifiers.CAMPAIGN, record.campaign),
        campaign_name=record.name,
        cohort=record.cohort,
    )


def _members(record: ExecutionRecord) -> dict[str, Any]:
    return {
        "device": record.device_id,
        "region": record.region,
        "state": record.state,
        "attempt": record.attempt,
        "reason": Reason(record.reason).name.lower(),
        "detail": record.detail,
        "slot": record.slot,
        "started_at": record.started_at,
        "updated_at": record.updated_at,
    }
