"""``/v1/campaigns``: create, look at, and the orders that people give."""

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Protocol

from pydantic import Field

from firmware_store.errors import InvalidInputError
from server.api.campaign_views import (
    CampaignDetail,
    CampaignList,
    CampaignView,
    DecisionList,
    DecisionView,
    ExecutionList,
    ExecutionView,
    OpeningView,
    WindowList,
    detail_of,
    view_of,
)
from server.api.routing import Call, Model, route
from server.db.campaigns import CampaignRecord
from server.domain.campaign import Membership
from server.domain.execution import State as ExecutionState
from server.domain.filter import CAMPAIGNS, EXECUTIONS
from server.domain.identity import BundleId, CampaignId, cohort, region
from server.domain.plan import WAVES_MOST, Plan, Policy
from server.domain.windows import needed_s
from server.protocol.reasons import Reason
from server.services import identifiers
from server.services.campaigns import NO_REASON
from server.services.drafts import Draft
from server.services.openings import preview, told_by
from server.services.tokens import Right

ZONE_CHARACTERS_MOST = 64

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


class Advance(Order):
    """``wave``: the one that is to be let through, from 1; 409 if another is open by now."""

    wave: Annotated[int, Field(ge=1, le=WAVES_MOST)]


class TakeOver(Order):
    """``supersede``: whatever else is active on these devices ends with this."""

    supersede: bool = False


class Start(TakeOver):
    """``emergency``: without approval, through freezes, without soak; it needs a reason."""

    emergency: bool = False


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
    return view_of(await call.context.campaigns.draft(draft, caller=call.caller.name))


@route("GET", "/v1/campaigns", right=Right.READ)
async def list_campaigns(call: Call[None]) -> CampaignList:
    limit, only = call.query_int("limit", 100, most=1000), call.query_filter(CAMPAIGNS)
    records = await call.context.campaigns.newest(limit, only)
    return CampaignList(campaigns=[view_of(record) for record in records])


@route("GET", "/v1/campaigns/{campaign}", right=Right.READ)
async def get_campaign(call: Call[None]) -> CampaignDetail:
    return await detail_of(call, await call.context.campaigns.get(_id(call)))


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
        only=call.query_filter(EXECUTIONS),
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


@route("GET", "/v1/campaigns/{campaign}/windows", right=Right.READ)
async def preview_windows(call: Call[None]) -> WindowList:
    """``?zone=eu=Europe/Berlin``, once for each region whose devices all go by one wall clock."""
    campaign = await call.context.campaigns.get(_id(call))
    zones = {}
    for given in call.request.query.getall("zone", []):
        where, _, zone = given.partition("=")
        if not where or not zone or len(zone) > ZONE_CHARACTERS_MOST:
            raise InvalidInputError("A zone is given as REGION=ZONE, such as eu=Europe/Berlin.", pointer="?zone")
        zones[region(where)] = zone
    count = call.query_int("count", 3, most=10)
    told = told_by(call.context.fleet, campaign)
    found = await asyncio.to_thread(preview, campaign, told, zones, now=time.time(), count=count)
    return WindowList(
        windows=list(campaign.policy.windows),
        needed_seconds=needed_s(campaign.policy.trial_s),
        openings=[
            OpeningView(
                region=opening.region,
                zone=opening.zone,
                utc_offset_minutes=opening.utc_offset_minutes,
                devices=opening.devices,
                is_open=opening.is_open,
                opens_at=[datetime.fromtimestamp(at, UTC) for at in opening.opens_at],
            )
            for opening in found
        ],
    )


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


@route("POST", "/v1/campaigns/{campaign}/advance", right=Right.OPERATE, body=Advance)
async def advance_campaign(call: Call[Advance]) -> CampaignView:
    return await _give(call, partial(call.context.campaigns.advance, wave=call.body.wave))


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
    return view_of(await order(_id(call), caller=call.caller.name, reason=call.body.reason))


def _id(call: Call[Any]) -> CampaignId:
    return CampaignId(identifiers.parse(identifiers.CAMPAIGN, call.request.match_info["campaign"]))
