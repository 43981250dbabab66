"""Approvals by others, before the start and afterwards; emergencies; snapshot membership and the holdout."""

import asyncio
from pathlib import Path

import pytest

from firmware_store.errors import ConflictError, ForbiddenError, IllegalTransitionError, InvalidInputError
from server.db.campaign_records import CampaignRecord
from server.db.database import Database
from server.db.devices import NewDevice
from server.domain.campaign import Event, Membership, State
from server.domain.execution import State as Execution
from server.domain.gate import FULL
from server.domain.identity import DeviceId
from server.domain.plan import Plan, Policy, Wave
from server.services.approvals import missing
from server.services.drafts import Draft
from tests.records import EU, LAB, MAIN
from tests.service_world import World

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000, approvals=2)
TWICE = Plan(waves=(Wave(ratio=0.5, count=None, ramp_s=0, soak_s=5000), Wave(ratio=1.0, count=None, ramp_s=0)))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(60, EU)
    return world


async def draft(world: World, policy: Policy = POLICY, **members: object) -> CampaignRecord:
    release = await world.add_release()
    made = Draft("spring", MAIN, (EU,), release.id, TWICE, policy, "a test", **members)  # type: ignore[arg-type]
    return await world.campaigns.draft(made, caller="ann")


async def approve(world: World, campaign: CampaignRecord, who: str) -> CampaignRecord:
    return await world.campaigns.approve(campaign.id, caller=who, reason="fine")


async def start(world: World, campaign: CampaignRecord, **how: bool) -> CampaignRecord:
    return await world.campaigns.start(campaign.id, caller="ann", reason="go", **how)


async def run(world: World, campaign: CampaignRecord) -> None:
    await world.publish()
    await world.live()


async def test_it_starts_when_two_others_have_approved_it(world: World) -> None:
    campaign = await draft(world)
    with pytest.raises(IllegalTransitionError) as caught:
        await start(world, campaign)
    assert caught.value.allowed == (Event.SUBMIT, Event.CANCEL)

    submitted = await world.campaigns.submit(campaign.id, caller="ann", reason="please")
    assert (submitted.state, missing(submitted)) == (State.AWAITING_APPROVAL, 2)
    assert (await approve(world, campaign, "bea")).state is State.AWAITING_APPROVAL
    with pytest.raises(IllegalTransitionError):
        await start(world, campaign)
    approved = await approve(world, campaign, "cem")

    assert (approved.state, missing(approved)) == (State.SCHEDULED, 0)
    assert (await start(world, campaign)).state is State.RUNNING
    stored = await world.campaign(campaign.id)
    assert [(entry.run, entry.who, entry.reason) for entry in stored.approvals] == [
        (1, "bea", "fine"),
        (1, "cem", "fine"),
    ]


async def test_nobody_approves_their_own_nor_twice(world: World) -> None:
    campaign = await draft(world)
    await world.campaigns.submit(campaign.id, caller="ann", reason="please")

    with pytest.raises(ForbiddenError):
        await approve(world, campaign, "ann")
    await approve(world, campaign, "bea")
    with pytest.raises(ConflictError, match="bea has approved"):
        await approve(world, campaign, "bea")

    assert (await world.campaign(campaign.id)).state is State.AWAITING_APPROVAL


async def test_of_approvals_that_come_together_none_is_lost(world: World) -> None:
    campaign = await draft(world)
    await world.campaigns.submit(campaign.id, caller="ann", reason="please")

    await asyncio.gather(*(approve(world, campaign, who) for who in ("bea", "cem")))

    stored = await world.campaign(campaign.id)
    assert {entry.who for entry in stored.approvals} == {"bea", "cem"}
    assert stored.state is State.SCHEDULED


async def test_what_needs_no_approval_needs_none(world: World) -> None:
    campaign = await draft(world, POLICY.model_copy(update={"approvals": 0}))

    assert (await world.campaigns.submit(campaign.id, caller="ann", reason="please")).state is State.SCHEDULED
    assert (await start(world, campaign)).state is State.RUNNING
    with pytest.raises(IllegalTransitionError):
        await approve(world, campaign, "bea")


@pytest.mark.parametrize(("asked", "needed"), [(0, 1), (1, 1), (2, 2)])
async def test_nobody_passes_by_the_servers_approvals_by_asking_for_none(world: World, asked: int, needed: int) -> None:
    world.campaigns._least_approvals = 1

    campaign = await draft(world, POLICY.model_copy(update={"approvals": asked}))

    assert campaign.policy.approvals == (await world.campaign(campaign.id)).policy.approvals == needed


async def test_an_emergency_starts_at_once_and_is_approved_afterwards(world: World) -> None:
    campaign = await draft(world)

    with pytest.raises(InvalidInputError, match="needs a reason"):
        await world.campaigns.start(campaign.id, caller="ann", reason="not given", emergency=True)
    started = await start(world, campaign, emergency=True)

    assert (started.state, started.emergency, missing(started)) == (State.RUNNING, "go", 2)
    await approve(world, campaign, "bea")
    approved = await approve(world, campaign, "cem")
    assert (approved.state, missing(approved)) == (State.RUNNING, 0)
    with pytest.raises(IllegalTransitionError):
        await approve(world, campaign, "dan")


async def test_an_emergency_does_not_soak(world: World) -> None:
    campaign = await draft(world)
    await start(world, campaign, emergency=True)
    await run(world, campaign)
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign.id, state, *world.due(campaign.id, EU))

    await world.live()

    assert (await world.campaign(campaign.id)).wave == 1


async def test_an_emergency_is_halted_as_any_other(world: World) -> None:
    campaign = await draft(world)
    await start(world, campaign, emergency=True)
    await run(world, campaign)
    due = world.due(campaign.id, EU)

    await world.die(campaign.id, *due[:15])
    await world.live(120)

    assert (await world.campaign(campaign.id)).state is State.HALTED


async def test_a_snapshot_is_of_the_devices_that_were_there(world: World) -> None:
    campaign = await draft(world, POLICY.model_copy(update={"approvals": 0}), membership=Membership.SNAPSHOT)
    started = await start(world, campaign)
    await world.inventory.add([NewDevice(DeviceId("eu-late"), EU, MAIN)])
    late = world.fleet.get(DeviceId("eu-late"))
    assert late is not None
    late.member_since = world.now + 5
    await world.connect(late.id)
    await run(world, campaign)

    order = world.order(EU)
    assert order is not None
    assert order.members_before == started.members_before
    record = await world.campaign(campaign.id)
    survey = await world.surveyor.survey(record, await world.campaigns.bundle_of(record), now=world.now)
    assert sum(view.eligible for view in survey.counts.snapshot.regions) == 60


async def test_the_holdout_is_never_due(world: World) -> None:
    campaign = await draft(world, POLICY.model_copy(update={"approvals": 0, "holdout": 0.3}))
    await start(world, campaign, emergency=True)  # no wave has to soak
    await run(world, campaign)

    for _ in range(300):
        for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
            progress = await world.executions.progress(campaign.id)
            done = {device for device, one in progress.items() if one.state is Execution.CONFIRMED}
            fresh = [d for d in world.due(campaign.id, EU) if d.id not in done]
            await world.report(campaign.id, state, *fresh)
        await world.live(60)
        record = await world.campaign(campaign.id)
        assert record.regions[0].ramp.level(world.now) <= 0.7 * FULL + 1
        if record.state is State.FINISHED:
            break

    assert record.state is State.FINISHED
    assert "confirmed the release" in record.sentence
