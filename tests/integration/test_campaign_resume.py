"""A halted campaign that somebody resumes: a new run, with the old one's evidence kept and its blobs there first."""

from dataclasses import replace
from pathlib import Path

import pytest

from firmware_store.errors import ConflictError, ForbiddenError, IllegalTransitionError, InvalidInputError, RevokedError
from server.db.campaign_records import DecisionRecord
from server.db.database import Database
from server.db.devices import NewDevice
from server.domain.campaign import State
from server.domain.execution import State as Execution
from server.domain.identity import BundleId, CampaignId, DeviceId
from server.domain.plan import Plan, Policy, Wave
from server.protocol.orders import Action, Directive
from server.protocol.reasons import Reason
from server.services.drafts import Draft
from tests.records import EU, LAB, MAIN
from tests.service_world import World
from tests.trust_fleet import own_fleet

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
SLOW = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=1000, soak_s=60),))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    """60 devices in one region, all of them online with a factory image."""
    world = World(store, tmp_path)
    await world.populate(60, EU)
    return world


async def halted_half_way(world: World, policy: Policy = POLICY) -> CampaignId:
    """500 s into a ramp of 1000 s."""
    campaign = await world.start(await world.add_release(), SLOW, policy, EU)
    await world.live()
    for _ in range(10):
        await world.live(50)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    return campaign


async def supply(world: World, campaign: CampaignId) -> None:
    await world.publish()
    await world.live()


def standing(world: World) -> Directive:
    order = world.order(EU)
    assert order is not None
    return order


async def test_a_resumed_campaign_goes_on_from_its_level_in_a_new_run(world: World) -> None:
    campaign = await halted_half_way(world)
    assert standing(world).action is Action.HALT
    level = (await world.campaign(campaign)).regions[0].ramp.l1

    record = await world.campaigns.resume(campaign, caller="ann", reason="it was the power cut")
    await supply(world, campaign)

    assert (record.state, record.run, record.halted_at, record.ended_at) == (State.RUNNING, 2, None, None)
    order = standing(world)
    assert order.action is Action.OFFER
    assert order.halted == ()
    assert order.ramp is not None
    assert level <= order.ramp.l0 < 1.5 * level
    await world.live(60)
    assert (await world.campaign(campaign)).regions[0].ramp.level(world.now) > level


async def test_nothing_is_offered_before_the_blobs_are_back(world: World) -> None:
    campaign = await halted_half_way(world)

    await world.campaigns.resume(campaign, caller="ann", reason="it was the power cut")
    for _ in range(5):
        await world.live(30)
    assert standing(world).action is Action.HALT
    level = (await world.campaign(campaign)).regions[0].ramp.level(world.now)
    await supply(world, campaign)

    assert standing(world).action is Action.OFFER
    assert level <= (await world.campaign(campaign)).regions[0].ramp.l0 < 1.5 * level


async def test_those_who_died_in_the_first_run_halt_no_second(world: World) -> None:
    campaign = await world.start(await world.add_release(), Plan(waves=(replaced_wave(),)), POLICY, EU)
    await world.live()
    due = world.due(campaign, EU)
    await world.die(campaign, *due)
    await world.live(120)
    assert (await world.campaign(campaign)).state is State.HALTED

    await world.campaigns.resume(campaign, caller="ann", reason="a crane had cut their cable")
    await supply(world, campaign)
    for _ in range(12):
        await world.live(20)

    assert (await world.campaign(campaign)).state is State.RUNNING
    kinds = [(d.kind, d.run) for d in await world.campaigns.decisions(campaign, 100)]
    assert ("halt", 1) in kinds
    assert ("resume", 2) in kinds


def replaced_wave() -> Wave:
    return Wave(ratio=None, count=15, ramp_s=0, soak_s=10_000)


async def test_devices_that_the_halt_has_sent_back_are_in_no_wave_of_the_next_run(world: World) -> None:
    plan = Plan(waves=(Wave(ratio=None, count=6, ramp_s=0, soak_s=60), Wave(ratio=1.0, count=None, ramp_s=0)))
    campaign = await world.start(await world.add_release(), plan, POLICY, EU)
    await world.live()
    sent_back, broken, *_ = world.due(campaign, EU)
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL):
        await world.report(campaign, state, sent_back, broken)
    await world.report(campaign, Execution.ROLLED_BACK, broken, reason=Reason.HEALTH_CHECK_FAILED)
    world.now += 5
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    await world.campaigns.resume(campaign, caller="ann", reason="it was one bad board")
    await world.live(1)
    await world.report(campaign, Execution.ROLLED_BACK, sent_back, reason=Reason.HALTED)
    await supply(world, campaign)

    await world.live(60)  # the wave is for six: two more take the place of those sent back, slowly
    others = [device for device in world.due(campaign, EU) if device not in (sent_back, broken)]
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign, state, *others)
    await world.live(120)

    record = await world.campaign(campaign)
    assert (record.state, record.wave) == (State.RUNNING, 1)
    survey = await world.surveyor.survey(record, await world.campaigns.bundle_of(record), now=world.now)
    [view] = survey.counts.snapshot.regions
    assert (view.eligible, view.confirmed, view.failed) == (58, 6, 0)
    assert survey.counts.states[Execution.ROLLED_BACK] == 2


async def test_a_resume_after_a_halt_needs_a_reason(world: World) -> None:
    campaign = await halted_half_way(world)

    with pytest.raises(InvalidInputError, match="needs a reason"):
        await world.campaigns.resume(campaign, caller="ann", reason="not given")


async def test_a_resume_needs_the_approval_of_others_for_this_run(world: World) -> None:
    policy = POLICY.model_copy(update={"approvals": 2})
    release = await world.add_release()
    campaign = await approved_start(world, release.id, policy)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")

    async def resume(caller: str) -> State:
        return (await world.campaigns.resume(campaign, caller=caller, reason="no smoke")).state

    with pytest.raises(ConflictError, match="it has 0"):
        await resume("ann")
    with pytest.raises(ForbiddenError):
        await world.campaigns.approve(campaign, caller="ann", reason="I say so")
    await world.campaigns.approve(campaign, caller="bea", reason="looks fine")
    await world.campaigns.approve(campaign, caller="cem", reason="to me too")
    with pytest.raises(ConflictError, match="it has 1"):
        await resume("cem")

    assert await resume("ann") is State.RUNNING
    await world.campaigns.halt(campaign, caller="ann", reason="smoke again")
    with pytest.raises(ConflictError, match="it has 0"):
        await resume("ann")


async def approved_start(world: World, release: BundleId, policy: Policy) -> CampaignId:
    draft = await world.campaigns.draft(Draft("d", MAIN, (EU,), release, SLOW, policy, "r"), caller="ann")
    await world.campaigns.submit(draft.id, caller="ann", reason="please")
    for who in ("bea", "cem"):
        await world.campaigns.approve(draft.id, caller=who, reason="fine")
    await world.campaigns.start(draft.id, caller="ann", reason="go")
    return draft.id


async def test_another_campaign_on_its_devices_is_in_the_way_of_a_resume(world: World) -> None:
    campaign = await halted_half_way(world)
    other = await world.start(await world.add_release(2), SLOW, POLICY, EU)

    with pytest.raises(ConflictError, match=r"^spring .*is active"):
        await world.campaigns.resume(campaign, caller="ann", reason="no smoke")

    assert (await world.campaign(other)).state is State.RUNNING


async def test_a_release_that_was_revoked_since_is_not_resumed(store: Database, tmp_path: Path) -> None:
    world = World(store, tmp_path / "blobs", keys=own_fleet(tmp_path / "keys"))
    await world.inventory.add([NewDevice(DeviceId("eu-001"), EU, MAIN)])
    release = await world.add_release()
    campaign = await world.start(release, SLOW, POLICY, EU)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    await world.trust.accept_status(world.keys.status(digests=[release.manifest_digest]), actor="sam")

    with pytest.raises(RevokedError):
        await world.campaigns.resume(campaign, caller="ann", reason="no smoke")

    assert (await world.campaign(campaign)).state is State.HALTED


async def test_what_is_not_over_is_not_resumed(world: World) -> None:
    campaign = await world.start(await world.add_release(), SLOW, POLICY, EU)

    with pytest.raises(IllegalTransitionError):
        await world.campaigns.resume(campaign, caller="ann", reason="why not")


async def test_decisions_keep_the_run_they_were_made_in(world: World) -> None:
    campaign = await halted_half_way(world)
    await world.campaigns.resume(campaign, caller="ann", reason="no smoke")

    decisions = await world.campaigns.decisions(campaign, 100)

    runs: dict[str, int] = {d.kind: d.run for d in decisions}
    assert (runs["halt"], runs["resume"]) == (1, 2)
    assert replace(decisions[0], at=decisions[1].at) == DecisionRecord(
        decisions[1].at, "resume", "ann", "no smoke", {}, run=2
    )
