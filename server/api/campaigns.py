"""``/v1/campaigns``: create, look at, and the few orders a person gives."""

import time
from datetime import datetime
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field

from firmware_store.errors import InvalidInputError
from server.api.routing import Call, Model, route
from server.db.campaigns import CampaignRecord
from server.domain.campaign import Cause, State
from server.domain.decide import regions_of
from server.domain.execution import State as ExecutionState
from server.domain.gate import FULL
from server.domain.identity import BundleId, CampaignId, cohort, region
from server.domain.plan import Plan, Policy
from server.protocol.reasons import Reason
from server.services import identifiers
from server.services.campaigns import Draft
from server.services.tokens import Right

Text = Annotated[str, Field(min_length=1, max_length=500)]


class CampaignCreate(Model):
    """A draft. Without a plan the default one is made: a canary, region by region, then the rest."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    bundle: str
    cohort: str
    regions: tuple[str, ...] = Field(min_length=1, max_length=256)
    plan: Plan | None = None
    policy: Policy = Policy()
    reason: Text = "not given"


class Order(Model):
    """Why somebody acts."""

    reason: Text = "not given"


class RegionState(BaseModel):
    """One region now. ``level`` is a ratio 0..1; counts are of eligible devices."""

    region: str
    level: float
    target: float
    eligible: int
    eligible_online: int
    reached: int
    waiting: int
    in_flight: int
    confirmed: int
    failed: int
    judged: int
    silent: int
    controls: int
    control_silent: int


class WaveState(BaseModel):
    """One wave of the plan: ``planned``, ``open`` or ``passed``, and its regions' counts together."""

    number: int
    state: str
    regions: list[str]
    target: str
    reached: int
    confirmed: int
    failed: int
    silent: int


class CampaignView(BaseModel):
    """A campaign; ``states`` counts executions by state over all regions."""

    id: str
    name: str
    cohort: str
    bundle: str
    state: State
    causes: list[Cause]
    sentence: str
    reason: str
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    revision: int


class CampaignDetail(CampaignView):
    plan: Plan
    policy: Policy
    waves: list[WaveState]
    regions: list[RegionState]
    states: dict[str, int]


class CampaignList(BaseModel):
    campaigns: list[CampaignView]


class DecisionView(BaseModel):
    """Why a campaign changed, with the numbers it was decided on."""

    at: datetime
    kind: str
    actor: str
    sentence: str
    evidence: dict[str, Any]


class DecisionList(BaseModel):
    decisions: list[DecisionView]


class ExecutionView(BaseModel):
    """One device's way through the campaign."""

    device: str
    region: str
    state: ExecutionState
    attempt: int
    reason: str
    detail: str
    slot: str
    started_at: datetime
    updated_at: datetime


class ExecutionList(BaseModel):
    executions: list[ExecutionView]
    next: str | None


@route("POST", "/v1/campaigns", right=Right.OPERATE, body=CampaignCreate, status=201)
async def create_campaign(call: Call[CampaignCreate]) -> CampaignView:
    body = call.body
    draft = Draft(
        name=body.name,
        cohort=cohort(body.cohort),
        regions=tuple(region(name) for name in body.regions),
        bundle=BundleId(identifiers.parse(identifiers.BUNDLE, body.bundle)),
        plan=body.plan,
        policy=body.policy,
        reason=body.reason,
    )
    return _view(await call.context.campaigns.draft(draft, caller=call.caller.name))


@route("GET", "/v1/campaigns", right=Right.READ)
async def list_campaigns(call: Call[None]) -> CampaignList:
    records = await call.context.campaigns.newest(call.query_int("limit", 100, most=1000))
    return CampaignList(campaigns=[_view(record) for record in records])


@route("GET", "/v1/campaigns/{campaign}", right=Right.READ)
async def get_campaign(call: Call[None]) -> CampaignDetail:
    return await _detail(call, await call.context.campaigns.get(_id(call)))


@route("GET", "/v1/campaigns/{campaign}/decisions", right=Right.READ)
async def list_decisions(call: Call[None]) -> DecisionList:
    campaign = await call.context.campaigns.get(_id(call))
    records = await call.context.campaigns.decisions(campaign.id, call.query_int("limit", 100, most=1000))
    return DecisionList(
        decisions=[
            DecisionView(
                at=record.at,
                kind=record.kind,
                actor=record.actor,
                sentence=record.sentence,
                evidence=dict(record.evidence),
            )
            for record in records
        ]
    )


@route("GET", "/v1/campaigns/{campaign}/executions", right=Right.READ)
async def list_executions(call: Call[None]) -> ExecutionList:
    campaign = await call.context.campaigns.get(_id(call))
    limit = call.query_int("limit", 100, most=1000)
    wanted = call.query_text("state")
    if wanted is not None and wanted not in set(ExecutionState):
        raise InvalidInputError(f"state is one of {', '.join(ExecutionState)}.", pointer="?state")
    records = await call.context.executions.page(
        campaign.id,
        after=call.query_text("cursor") or "",
        limit=limit,
        state=None if wanted is None else ExecutionState(wanted),
    )
    views = [
        ExecutionView(
            device=record.device_id,
            region=record.region,
            state=record.state,
            attempt=record.attempt,
            reason=Reason(record.reason).name.lower(),
            detail=record.detail,
            slot=record.slot,
            started_at=record.started_at,
            updated_at=record.updated_at,
        )
        for record in records
    ]
    return ExecutionList(executions=views, next=views[-1].device if len(views) == limit else None)


@route("POST", "/v1/campaigns/{campaign}/start", right=Right.OPERATE, body=Order)
async def start_campaign(call: Call[Order]) -> CampaignView:
    return await _give(call, call.context.campaigns.start)


@route("POST", "/v1/campaigns/{campaign}/pause", right=Right.OPERATE, body=Order)
async def pause_campaign(call: Call[Order]) -> CampaignView:
    return await _give(call, call.context.campaigns.pause)


@route("POST", "/v1/campaigns/{campaign}/resume", right=Right.OPERATE, body=Order)
async def resume_campaign(call: Call[Order]) -> CampaignView:
    return await _give(call, call.context.campaigns.resume)


@route("POST", "/v1/campaigns/{campaign}/halt", right=Right.OPERATE, body=Order)
async def halt_campaign(call: Call[Order]) -> CampaignView:
    return await _give(call, call.context.campaigns.halt)


@route("POST", "/v1/campaigns/{campaign}/cancel", right=Right.OPERATE, body=Order)
async def cancel_campaign(call: Call[Order]) -> CampaignView:
    return await _give(call, call.context.campaigns.cancel)


class _GiveOrder(Protocol):
    """What a person can do with a campaign."""

    async def __call__(self, campaign: CampaignId, *, caller: str, reason: str) -> CampaignRecord: ...


async def _give(call: Call[Order], order: _GiveOrder) -> CampaignView:
    return _view(await order(_id(call), caller=call.caller.name, reason=call.body.reason))


def _id(call: Call[Any]) -> CampaignId:
    return CampaignId(identifiers.parse(identifiers.CAMPAIGN, call.request.match_info["campaign"]))


def _view(record: CampaignRecord) -> CampaignView:
    return CampaignView(
        id=identifiers.show(identifiers.CAMPAIGN, record.id),
        name=record.name,
        cohort=record.cohort,
        bundle=identifiers.show(identifiers.BUNDLE, record.bundle_id),
        state=record.state,
        causes=sorted(record.causes),
        sentence=record.sentence,
        reason=record.reason,
        created_by=record.created_by,
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        revision=record.revision,
    )


async def _detail(call: Call[Any], record: CampaignRecord) -> CampaignDetail:
    now = time.time()
    bundle = await call.context.campaigns.bundle_of(record)
    survey = await call.context.surveyor.survey(record, bundle, now=now)
    targets = {entry.region: entry.target / FULL for entry in record.regions}
    regions = [
        RegionState(
            region=view.region,
            level=view.ramp.level(now) / FULL,
            target=targets[view.region],
            eligible=view.eligible,
            eligible_online=view.eligible_online,
            reached=view.reached,
            waiting=view.waiting,
            in_flight=view.in_flight,
            confirmed=view.confirmed,
            failed=view.failed,
            judged=view.table.judged,
            silent=view.table.silent,
            controls=view.table.controls,
            control_silent=view.table.control_silent,
        )
        for view in survey.snapshot.regions
    ]
    return CampaignDetail(
        **_view(record).model_dump(),
        plan=record.plan,
        policy=record.policy,
        waves=_waves(record, regions),
        regions=regions,
        states={state.value: number for state, number in survey.states.items()},
    )


def _waves(record: CampaignRecord, regions: list[RegionState]) -> list[WaveState]:
    states = []
    for index, wave in enumerate(record.plan.waves):
        names = set(regions_of(wave, [entry.region for entry in record.regions]))
        of_wave = [entry for entry in regions if entry.region in names]
        begun = record.wave is not None and index <= record.wave
        over = begun and (index != record.wave or record.state in {State.WATCHING, State.FINISHED})
        states.append(
            WaveState(
                number=index + 1,
                state="passed" if over else "open" if begun else "planned",
                regions=sorted(names),
                target=f"{wave.ratio:.1%}" if wave.ratio is not None else f"{wave.count} devices",
                reached=sum(entry.reached for entry in of_wave) if begun else 0,
                confirmed=sum(entry.confirmed for entry in of_wave) if begun else 0,
                failed=sum(entry.failed for entry in of_wave) if begun else 0,
                silent=sum(entry.silent for entry in of_wave) if begun else 0,
            )
        )
    return states
