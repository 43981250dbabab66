"""``/v1/campaigns``: create, look at, and the orders that people give."""

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Protocol
from uuid import UUID

from aiohttp import web
from pydantic import Field

from server.api.campaign_views import (
    CampaignDetail,
    CampaignList,
    CampaignPlan,
    CampaignView,
    DecisionList,
    DecisionView,
    OpeningView,
    WindowList,
    detail_of,
    plan_of,
    view_of,
)
from server.api.conditions import campaign_tag
from server.api.lists import FilterQuery, PageQuery, begin_page, end_page
from server.api.operations import DryRunQuery
from server.api.parameters import PATH, AnyPolicy, CampaignName, CohortName, Digits, Reason, RegionNames
from server.api.policies import resolved
from server.api.routing import Call, Example, Model, route
from server.db.campaign_records import CampaignRecord
from server.domain.campaign import NO_REASON, Membership
from server.domain.filter import CAMPAIGNS
from server.domain.identity import BundleId, CampaignId, region
from server.domain.plan import WAVES_MOST, Plan, Policy
from server.domain.windows import needed_s
from server.services import identifiers
from server.services.drafts import Draft
from server.services.dry_runs import check_plan
from server.services.openings import preview, told_by
from server.services.tokens import Right

Zone = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}=[A-Za-z0-9+_/-]{1,64}$")]


PlanHash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class CampaignCreate(Model):
    """A draft. Without a plan the default one is made: a canary, region by region, then the rest.

    ``policy``: one, or the name of one. ``plan_hash``: what a dry run has answered; 409 if the plan would be another
    one by now.
    """

    name: CampaignName
    bundle: str = Field(pattern=PATH["bundle"].pattern)
    cohort: CohortName
    regions: RegionNames
    plan: Plan | None = None
    policy: AnyPolicy = Policy()
    reason: Reason = NO_REASON
    membership: Membership = Membership.DYNAMIC
    plan_hash: PlanHash | None = None


class WindowQuery(Model):
    """By which clocks the windows of regions are shown."""

    zone: tuple[Zone, ...] = Field(
        (),
        max_length=256,
        description="REGION=ZONE, such as eu=Europe/Berlin, for each region whose devices all go by one wall clock",
    )
    count: Annotated[int, Field(ge=1, le=10, description="so many openings of each"), Digits] = 3


class Order(Model):
    """Why somebody acts."""

    reason: Reason = NO_REASON


class Advance(Order):
    """``wave``: the one that is to be let through, from 1; 409 if another is open by now."""

    wave: Annotated[int, Field(ge=1, le=WAVES_MOST)]


class TakeOver(Order):
    """``supersede``: whatever else is active on these devices ends with this."""

    supersede: bool = False


class Start(TakeOver):
    """``emergency``: without approval, through freezes, without soak; it needs a reason.

    ``plan_hash``: that of the plan which was shown; 409 if this campaign's is another one.
    """

    emergency: bool = False
    plan_hash: PlanHash | None = None


@route(
    "POST",
    "/v1/campaigns",
    right=Right.OPERATE,
    body=CampaignCreate,
    query=DryRunQuery,
    gives=CampaignView,
    status=201,
    also={200: CampaignPlan},
    problems=(404, 409),
    example=Example(
        body={"name": "spring", "bundle": PATH["bundle"].example, "cohort": "main", "regions": ["eu", "us"]}
    ),
)
async def create_campaign(call: Call[CampaignCreate, DryRunQuery]) -> CampaignView | web.Response:
    """Draw up a campaign, or show what it would do; nothing happens to any device."""
    body = call.body
    policy, policy_from = await resolved(call, body.policy)
    draft = Draft(
        name=body.name,
        cohort=body.cohort,
        regions=body.regions,
        bundle=BundleId(identifiers.parse(identifiers.BUNDLE, body.bundle)),
        plan=body.plan,
        policy=policy,
        policy_from=policy_from,
        reason=body.reason,
        membership=body.membership,
    )
    if call.query.dry_run:
        shown = plan_of(await call.context.campaigns.dry_run(draft, caller=call.caller.name))
        return web.Response(body=shown.model_dump_json().encode(), content_type="application/json")
    record = await call.context.campaigns.draft(draft, caller=call.caller.name, shown=body.plan_hash)
    call.tag(campaign_tag(record))
    return view_of(record)


@route("GET", "/v1/campaigns", right=Right.READ, query=FilterQuery)
async def list_campaigns(call: Call[None, FilterQuery]) -> CampaignList:
    """List campaigns, the newest first."""
    query = call.query
    before = begin_page(call, "campaigns", lambda after: CampaignId(UUID(after)))
    records = await call.context.campaigns.newest(query.limit, query.only(CAMPAIGNS), before=before)
    following = end_page(call, "campaigns", records, lambda record: record.id)
    return CampaignList(campaigns=[view_of(record) for record in records], next=following)


@route("GET", "/v1/campaigns/{campaign}", right=Right.READ)
async def get_campaign(call: Call[None]) -> CampaignDetail:
    """Get a campaign with its plan, its waves and its regions as they are now."""
    record = await call.context.campaigns.get(_id(call))
    call.tag(campaign_tag(record))
    return await detail_of(call, record)


@route("GET", "/v1/campaigns/{campaign}/decisions", right=Right.READ, query=PageQuery)
async def list_decisions(call: Call[None, PageQuery]) -> DecisionList:
    """List why a campaign changed, the newest first, with the numbers that each decision was made on."""
    campaign = await call.context.campaigns.get(_id(call))
    before = begin_page(call, "decisions", int)
    records = await call.context.campaigns.decisions(campaign.id, call.query.limit, before=before)
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
        ],
        next=end_page(call, "decisions", records, lambda record: record.number),
    )


@route(
    "GET",
    "/v1/campaigns/{campaign}/windows",
    right=Right.READ,
    query=WindowQuery,
    example=Example(query={"zone": ["eu=Europe/Berlin"], "count": 2}),
)
async def preview_windows(call: Call[None, WindowQuery]) -> WindowList:
    """Show when the windows of a campaign open next."""
    campaign = await call.context.campaigns.get(_id(call))
    zones = {}
    for given in call.query.zone:
        where, _, zone = given.partition("=")
        zones[region(where)] = zone
    told = told_by(call.context.fleet, campaign)
    found = await asyncio.to_thread(preview, campaign, told, zones, now=time.time(), count=call.query.count)
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


@route(
    "POST",
    "/v1/campaigns/{campaign}/submit",
    right=Right.OPERATE,
    body=Order,
    problems=(409,),
    example=Example(body={"reason": "ready for review"}),
)
async def submit_campaign(call: Call[Order]) -> CampaignView:
    """Ask for approvals, where it needs any; without, it is ready to start."""
    return await _give(call, call.context.campaigns.submit)


@route(
    "POST",
    "/v1/campaigns/{campaign}/approve",
    right=Right.APPROVE,
    body=Order,
    problems=(409,),
    example=Example(body={"reason": "read and agreed"}),
)
async def approve_campaign(call: Call[Order]) -> CampaignView:
    """Approve its start, its next run, or an emergency after the fact."""
    return await _give(call, call.context.campaigns.approve)


@route(
    "POST",
    "/v1/campaigns/{campaign}/start",
    right=Right.OPERATE,
    body=Start,
    problems=(409,),
    example=Example(body={"reason": "the night shift is in"}),
)
async def start_campaign(call: Call[Start]) -> CampaignView:
    """Start it."""
    start = partial(
        call.context.campaigns.start,
        supersede=call.body.supersede,
        emergency=call.body.emergency,
        seen=partial(check_plan, shown=call.body.plan_hash),
    )
    return await _give(call, start)


@route(
    "POST",
    "/v1/campaigns/{campaign}/advance",
    right=Right.OPERATE,
    matched=True,
    body=Advance,
    problems=(409,),
    example=Example(body={"wave": 1, "reason": "looks good"}),
)
async def advance_campaign(call: Call[Advance]) -> CampaignView:
    """Let the open wave through a gate that waits for a person."""
    return await _give(call, partial(call.context.campaigns.advance, wave=call.body.wave, seen=call.match.campaign))


@route(
    "POST",
    "/v1/campaigns/{campaign}/pause",
    right=Right.OPERATE,
    body=Order,
    problems=(409,),
    example=Example(body={"reason": "a storm is coming"}),
)
async def pause_campaign(call: Call[Order]) -> CampaignView:
    """Hold it: nobody starts, nobody activates."""
    return await _give(call, call.context.campaigns.pause)


@route(
    "POST",
    "/v1/campaigns/{campaign}/resume",
    right=Right.OPERATE,
    matched=True,
    body=TakeOver,
    problems=(409,),
    example=Example(body={"reason": "the storm is over"}),
)
async def resume_campaign(call: Call[TakeOver]) -> CampaignView:
    """Let a paused campaign run on, or begin the next run of a halted one."""
    resume = partial(call.context.campaigns.resume, supersede=call.body.supersede, seen=call.match.campaign)
    return await _give(call, resume)


@route(
    "POST",
    "/v1/campaigns/{campaign}/rollback",
    right=Right.OPERATE,
    matched=True,
    body=TakeOver,
    problems=(409,),
    example=Example(body={"reason": "radios lose their signal"}),
)
async def roll_campaign_back(call: Call[TakeOver]) -> CampaignView:
    """Send its devices back to the release that they ran before."""
    rollback = partial(call.context.campaigns.rollback, supersede=call.body.supersede, seen=call.match.campaign)
    return await _give(call, rollback)


@route(
    "POST",
    "/v1/campaigns/{campaign}/halt",
    right=Right.OPERATE,
    body=Order,
    problems=(409,),
    example=Example(body={"reason": "smoke on the bench"}),
)
async def halt_campaign(call: Call[Order]) -> CampaignView:
    """Halt it: downloads stop, trials revert."""
    return await _give(call, call.context.campaigns.halt)


@route(
    "POST",
    "/v1/campaigns/{campaign}/cancel",
    right=Right.OPERATE,
    body=Order,
    problems=(409,),
    example=Example(body={"reason": "superseded by a fix"}),
)
async def cancel_campaign(call: Call[Order]) -> CampaignView:
    """End it; a trial finishes by its own checks."""
    return await _give(call, call.context.campaigns.cancel)


class _GiveOrder(Protocol):
    """What a person can do with a campaign."""

    async def __call__(self, campaign: CampaignId, *, caller: str, reason: str) -> CampaignRecord: ...


async def _give(call: Call[Order], order: _GiveOrder) -> CampaignView:
    record = await order(_id(call), caller=call.caller.name, reason=call.body.reason)
    call.tag(campaign_tag(record))
    return view_of(record)


def _id(call: Call[Any, Any]) -> CampaignId:
    return CampaignId(identifiers.parse(identifiers.CAMPAIGN, call.request.match_info["campaign"]))
