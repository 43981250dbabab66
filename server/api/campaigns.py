"""``/v1/campaigns``: create, look at, and the few orders a person gives."""

import time
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field

from firmware_store.errors import InvalidInputError
from server.api.routing import Call, Model, route
from server.db.campaigns import CampaignRecord
from server.domain.campaign import Cause, Membership, State
from server.domain.decide import regions_of
from server.domain.execution import State as ExecutionState
from server.domain.gate import FULL
from server.domain.identity import BundleId, CampaignId, cohort, region
from server.domain.plan import Plan, Policy
from server.protocol.reasons import Reason
from server.services import identifiers
from server.services.approvals import missing
from server.services.campaigns import NO_REASON, Draft
from server.services.rollbacks import Progress
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
    reason: Text = NO_REASON
    membership: Membership = Membership.DYNAMIC


class Order(Model):
    """Why somebody acts."""

    reason: Text = NO_REASON


class TakeOver(Order):
    """``supersede``: whatever else is active on these devices ends with this."""

    supersede: bool = False


class Start(TakeOver):
    """``emergency``: without approval, through freezes, without soak; it needs a reason."""

    emergency: bool = False


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
    """A campaign. ``emergency`` is the reason for which it was started as one, empty where it was not.

    ``approvals_missing``: how many people must still approve, before the start, before a resume, or after the fact.
    """

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
    run: int
    membership: Membership
    emergency: str
    approvals_missing: int


class Approval(BaseModel):
    """One person's word for one run of a campaign."""

    run: int
    who: str
    at: datetime
    reason: str


class Rollback(BaseModel):
    """How far a rollback is. ``seconds``: from its beginning to the last device's return. ``hint``: what to do next."""

    since: datetime
    returned: int
    no_way_back: int
    waiting: int
    seconds: float | None
    hint: str


class CampaignDetail(CampaignView):
    """With its ``states``: executions by state, over all regions."""

    approvals: list[Approval]
    rollback: Rollback | None
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
    run: int


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
        membership=body.membership,
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
                run=record.run,
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
    why = call.query_text("reason")
    if why is not None and why.upper() not in Reason.__members__:
        raise InvalidInputError("reason is one of docs/reasons.md, such as no_way_back.", pointer="?reason")
    records = await call.context.executions.page(
        campaign.id,
        after=call.query_text("cursor") or "",
        limit=limit,
        state=None if wanted is None else ExecutionState(wanted),
        reason=None if why is None else Reason[why.upper()],
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


@route("POST", "/v1/campaigns/{campaign}/submit", right=Right.OPERATE, body=Order)
async def submit_campaign(call: Call[Order]) -> CampaignView:
    return await _give(call, call.context.campaigns.submit)


@route("POST", "/v1/campaigns/{campaign}/approve", right=Right.APPROVE, body=Order)
async def approve_campaign(call: Call[Order]) -> CampaignView:
    return await _give(call, call.context.campaigns.approve)


@route("POST", "/v1/campaigns/{campaign}/start", right=Right.OPERATE, body=Start)
async def start_campaign(call: Call[Start]) -> CampaignView:
    start = partial(call.context.campaigns.start, supersede=call.body.supersede, emergency=call.body.emergency)
    return await _give(call, start)


@route("POST", "/v1/campaigns/{campaign}/pause", right=Right.OPERATE, body=Order)
async def pause_campaign(call: Call[Order]) -> CampaignView:
    return await _give(call, call.context.campaigns.pause)


@route("POST", "/v1/campaigns/{campaign}/resume", right=Right.OPERATE, body=TakeOver)
async def resume_campaign(call: Call[TakeOver]) -> CampaignView:
    return await _give(call, partial(call.context.campaigns.resume, supersede=call.body.supersede))


@route("POST", "/v1/campaigns/{campaign}/rollback", right=Right.OPERATE, body=TakeOver)
async def roll_campaign_back(call: Call[TakeOver]) -> CampaignView:
    return await _give(call, partial(call.context.campaigns.rollback, supersede=call.body.supersede))


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
        run=record.run,
        membership=record.membership,
        emergency=record.emergency,
        approvals_missing=missing(record),
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
        approvals=[Approval.model_validate(entry, from_attributes=True) for entry in record.approvals],
        rollback=_rollback(await call.context.rollbacks.progress(record)),
        plan=record.plan,
        policy=record.policy,
        waves=_waves(record, regions),
        regions=regions,
        states={state.value: number for state, number in survey.states.items()},
    )


def _rollback(progress: Progress | None) -> Rollback | None:
    if progress is None:
        return None
    returns = progress.returns
    return Rollback(
        since=progress.since,
        returned=returns.returned,
        no_way_back=returns.no_way_back,
        waiting=returns.waiting,
        seconds=None if progress.lasted is None else progress.lasted.total_seconds(),
        hint=progress.hint,
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
