"""What the API shows of campaigns: their views, and how each is made from what is stored and counted."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import BaseModel

from server.api import delta_views
from server.api.lists import Page
from server.api.routing import Call
from server.db.campaign_records import CampaignRecord
from server.domain.campaign import Cause, Membership, State
from server.domain.consent import Answer, Awaited, Word
from server.domain.gate import FULL
from server.domain.plan import MaintenanceWindow, Plan, Policy
from server.domain.snapshot import regions_of
from server.protocol.sources import Transport
from server.services import identifiers
from server.services.approvals import missing
from server.services.dry_runs import DryRun, plan_hash, reached
from server.services.rollbacks import Progress
from server.services.room import Publication
from server.services.sites import count_waiting

TRANSPORTS: Final[Mapping[Transport, Literal["mqtt", "http"]]] = MappingProxyType(
    {Transport.MQTT: "mqtt", Transport.HTTP: "http"}
)


class RegionState(BaseModel):
    """One region now. ``level`` is a ratio 0..1; counts are of eligible devices.

    While ``weather`` is ``bad`` (devices that only watch are dark) its level stands still, and nobody there is judged.
    """

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
    weather: Literal["good", "bad"]


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
    ``wave``: the open one, from 1. ``awaits``: whose word it waits for, all else being met: ``advance``,
    ``webhook`` or nobody's; or ``devices``, where the numbers are not met and ``sentence`` says which.
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
    awaits: Awaited
    wave: int | None


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


class WebhookAnswer(BaseModel):
    """The last answer of a wave's webhook: ``go``, ``wait``, ``stop``, or ``nothing`` where it could not be asked."""

    wave: int
    word: Word
    reason: str
    at: datetime


class PublicationView(BaseModel):
    """What its devices need, and how much of it is at the broker.

    ``transport``: ``mqtt``, ``http`` where it does not fit the broker's budget, null before that is decided.
    """

    transport: Literal["mqtt", "http"] | None
    blobs: int
    bytes: int
    published_blobs: int
    published_bytes: int
    sentence: str


class CampaignDetail(CampaignView):
    """With its ``states``: executions by state, over all regions.

    ``plan_hash``: SHA-256 of what it carries out, which a start may name.
    ``reboots_waiting``: devices that have written the release and wait for a place of their site.
    """

    plan_hash: str
    answer: WebhookAnswer | None
    approvals: list[Approval]
    rollback: Rollback | None
    plan: Plan
    policy: Policy
    policy_from: str
    waves: list[WaveState]
    regions: list[RegionState]
    states: dict[str, int]
    reboots_waiting: int
    publication: PublicationView
    deltas: list[delta_views.DeltaView]


class PlannedWave(BaseModel):
    """``devices``: how many it and those before it let in, in the regions that it raises, of those there are now."""

    number: int
    regions: list[str]
    target: str
    devices: int
    ramp_s: int
    soak_s: int
    manual: bool


class PlannedRegion(BaseModel):
    """``devices``: of the cohort, now."""

    region: str
    devices: int


class CampaignPlan(BaseModel):
    """What a campaign would do. ``plan_hash``: name it when you create or start the campaign, and it is this one."""

    plan_hash: str
    regions: list[PlannedRegion]
    waves: list[PlannedWave]
    plan: Plan
    policy: Policy
    warnings: list[str]


class CampaignList(Page):
    """``next`` is the cursor of the following page, null on the last."""

    campaigns: list[CampaignView]


class DecisionView(BaseModel):
    """Why a campaign changed, with the numbers it was decided on."""

    at: datetime
    kind: str
    actor: str
    sentence: str
    evidence: dict[str, Any]
    run: int


class DecisionList(Page):
    decisions: list[DecisionView]


class OpeningView(BaseModel):
    """When windows open next by one clock of a region: ``zone``'s where the request names one, else the devices' own.

    ``utc_offset_minutes`` is that of now; null for devices that have told none since the server runs: they are taken to
    be on UTC. ``is_open``: a device could start now.
    """

    region: str
    zone: str | None
    utc_offset_minutes: int | None
    devices: int
    is_open: bool
    opens_at: list[datetime]


class WindowList(BaseModel):
    """``needed_seconds``: for so long a window has to stay open for a device to start or activate."""

    windows: list[MaintenanceWindow]
    needed_seconds: float
    openings: list[OpeningView]


def view_of(record: CampaignRecord) -> CampaignView:
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
        awaits=record.awaits,
        wave=None if record.wave is None else record.wave + 1,
    )


def plan_of(found: DryRun) -> CampaignPlan:
    campaign = found.campaign
    names = [entry.region for entry in campaign.regions]
    return CampaignPlan(
        plan_hash=plan_hash(campaign),
        regions=[PlannedRegion(region=region, devices=number) for region, number in found.devices.items()],
        waves=[
            PlannedWave(
                number=index + 1,
                regions=sorted(regions_of(wave, names)),
                target=wave.target,
                devices=reached(wave, campaign, found.devices),
                ramp_s=wave.ramp_s,
                soak_s=wave.soak_s,
                manual=wave.gate.manual,
            )
            for index, wave in enumerate(campaign.plan.waves)
        ],
        plan=campaign.plan,
        policy=campaign.policy,
        warnings=list(found.warnings),
    )


async def detail_of(call: Call[Any], record: CampaignRecord) -> CampaignDetail:
    now = time.time()
    bundle = await call.context.campaigns.bundle_of(record)
    glance = await call.context.surveyor.glance(record, bundle, now=now)
    bad = call.context.evidence.bad_weather(record.id)
    targets = {entry.region: entry.target / FULL for entry in record.regions}
    ramps = {entry.region: entry.ramp for entry in record.regions}
    regions = [
        RegionState(
            region=view.region,
            level=ramps[view.region].level(now) / FULL,
            target=targets[view.region],
            eligible=view.eligible,
            eligible_online=view.eligible_online,
            reached=view.reached,
            waiting=view.waiting,
            in_flight=view.in_flight,
            confirmed=view.confirmed,
            failed=view.failed,
            judged=view.judged,
            silent=view.silent,
            controls=view.controls,
            control_silent=view.control_silent,
            weather="bad" if view.region in bad else "good",
        )
        for view in glance.regions
    ]
    return CampaignDetail(
        **view_of(record).model_dump(),
        plan_hash=plan_hash(record),
        answer=None if record.answer is None else _answer(record.answer),
        approvals=[Approval.model_validate(entry, from_attributes=True) for entry in record.approvals],
        rollback=_rollback(await call.context.rollbacks.progress(record)),
        plan=record.plan,
        policy=record.policy,
        policy_from=record.policy_from,
        waves=_waves(record, regions),
        regions=regions,
        states={state.value: number for state, number in glance.states.items()},
        reboots_waiting=count_waiting(glance.rebooters),
        publication=_publication(await call.context.room.publication(record)),
        deltas=[delta_views.view_of(delta) for delta in await call.context.deltas.of_campaign(record.id)],
    )


def _answer(answer: Answer) -> WebhookAnswer:
    at = datetime.fromtimestamp(answer.at, UTC)
    return WebhookAnswer(wave=answer.wave + 1, word=answer.word, reason=answer.reason, at=at)


def _publication(found: Publication) -> PublicationView:
    needed, published = found.progress
    return PublicationView(
        transport=None if found.transport is None else TRANSPORTS[found.transport],
        blobs=needed.blobs,
        bytes=needed.size_bytes,
        published_blobs=published.blobs,
        published_bytes=published.size_bytes,
        sentence=found.sentence,
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
                target=wave.target,
                reached=sum(entry.reached for entry in of_wave) if begun else 0,
                confirmed=sum(entry.confirmed for entry in of_wave) if begun else 0,
                failed=sum(entry.failed for entry in of_wave) if begun else 0,
                silent=sum(entry.silent for entry in of_wave) if begun else 0,
            )
        )
    return states
