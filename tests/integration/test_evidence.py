"""The halt rule's evidence: it outlives the process, and a person's word counts once it was given."""

from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from server.db.database import Database
from server.db.halts import HaltRepository
from server.domain.campaign import Cause, State
from server.domain.execution import State as Execution
from server.domain.halt.roster import Status
from server.domain.identity import CampaignId
from server.domain.plan import Plan, Policy, Wave
from server.services.device import Device
from server.services.evidence import Evidence
from server.services.snapshot import Surveyor
from tests.records import EU, LAB
from tests.service_world import World

SLOW = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=2000),))
POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=2000)


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    """120 devices in one region, all of them online with a factory image."""
    world = World(store, tmp_path)
    await world.populate(120, EU)
    return world


async def start(world: World, policy: Policy = POLICY) -> CampaignId:
    campaign = await world.start(await world.add_release(), SLOW, policy, EU)
    await world.live(200)
    return campaign


async def start_small(world: World) -> tuple[CampaignId, Device]:
    """Start with ten devices, of which one may begin; return it."""
    await world.populate(10, EU)
    at_once = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0),))
    campaign = await world.start(await world.add_release(), at_once, POLICY, EU)
    await world.live(5)
    (first,) = world.due(campaign, EU)
    return campaign, first


def restart(world: World) -> None:
    """A new process, as far as the rule is concerned."""
    halts = HaltRepository(world.store)
    world.surveyor = Surveyor(executions=world.executions, halts=halts, fleet=world.fleet)
    world.evidence = Evidence(halts)
    world.orchestrator._surveyor, world.orchestrator._evidence = world.surveyor, world.evidence


async def test_a_restart_goes_on_with_the_same_test(world: World) -> None:
    campaign = await start(world)
    await world.die(campaign, *world.due(campaign, EU)[:3])
    await world.live(130)
    before = world.evidence._cases[campaign].rule
    assert before.wealth.total() > 1

    restart(world)
    await world.live(1)

    after = world.evidence._cases[campaign].rule
    assert after is not before
    assert after.wealth.total() == pytest.approx(before.wealth.total())
    assert after.started == before.started > 0
    assert (after.roster.status == before.roster.status).all()
    assert np.count_nonzero(after.roster.status == Status.SILENT) == 3


async def test_whom_a_restart_finds_on_trial_is_judged_as_if_there_had_been_none(world: World) -> None:
    campaign = await start(world)
    dead = world.due(campaign, EU)[:3]
    await world.die(campaign, *dead)
    await world.live(1)
    assert np.count_nonzero(world.evidence._cases[campaign].rule.roster.status == Status.REBOOTED) == 3

    restart(world)
    await world.live(130)

    rule, verdict = world.evidence._cases[campaign].rule, world.evidence.verdict(campaign)
    assert np.count_nonzero(rule.roster.status == Status.SILENT) == 3
    assert verdict is not None
    assert verdict.excess_silent.sum() == pytest.approx(3, abs=0.5)


async def test_the_second_silent_device_of_a_small_fleet_halts_it_over_a_restart(
    store: Database, tmp_path: Path
) -> None:
    world = World(store, tmp_path)
    campaign, first = await start_small(world)
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign, state, first)
    await world.live(130)
    dead = [device for device in world.due(campaign, EU) if device is not first][:2]
    assert len(dead) == 2
    await world.die(campaign, *dead)
    await world.live(1)

    restart(world)
    await world.live(160)

    assert (await world.campaign(campaign)).state is State.HALTED


async def test_who_was_silent_before_a_resume_is_so_after_it(world: World) -> None:
    campaign = await start(world)
    await world.die(campaign, *world.due(campaign, EU)[:3])
    await world.live(130)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    await world.live(5)

    await world.campaigns.resume(campaign, caller="ann", reason="no fire")
    await world.live(30)

    rule, verdict = world.evidence._cases[campaign].rule, world.evidence.verdict(campaign)
    assert np.count_nonzero(rule.roster.status == Status.SILENT) == 3
    assert verdict is not None
    assert verdict.in_flight >= 3


async def test_a_gap_is_bad_weather_and_ends_by_itself(world: World) -> None:
    campaign = await start(world)
    world.now += 60
    restart(world)

    await world.live(1)
    paused = await world.campaign(campaign)
    await world.live(30)

    assert (paused.state, paused.causes) == (State.PAUSED, {Cause.WEATHER})
    assert paused.sentence.startswith("Paused: the server could not hear its devices for a while")
    assert (await world.campaign(campaign)).state is State.RUNNING
    kinds = [decision.kind for decision in await world.campaigns.decisions(campaign, 2)]
    assert kinds == ["unpause", "pause"]


async def test_a_state_that_cannot_be_read_begins_a_new_test_in_the_dark(world: World) -> None:
    campaign = await start(world)
    async with world.store.transaction() as connection:
        await connection.execute("UPDATE halt_state SET body = 'nonsense'")
    restart(world)

    with capture_logs() as logs:
        await world.live(1)

    assert "halt_state_unreadable" in [entry["event"] for entry in logs]
    assert (await world.campaign(campaign)).causes == {Cause.WEATHER}


async def test_a_hold_is_ended_by_a_person_and_not_by_time(world: World) -> None:
    """Braking without end: any evidence brakes, and there is no time for it."""
    braked = LAB.model_copy(update={"brake_at": 1.01, "brake_budget_s": 1})
    campaign = await start(world, POLICY.model_copy(update={"halt": braked}))
    await world.die(campaign, *world.due(campaign, EU)[:2])
    await world.live(160)
    held = await world.campaign(campaign)
    assert (held.state, held.causes) == (State.PAUSED, {Cause.EVIDENCE})
    assert held.sentence.startswith("On hold: ")

    await world.campaigns.resume(campaign, caller="ann", reason="two vans in a tunnel")
    await world.live(5)
    assert (await world.campaign(campaign)).state is State.RUNNING

    restart(world)
    await world.live(5)

    assert (await world.campaign(campaign)).state is State.RUNNING


async def test_another_silent_device_of_a_small_fleet_holds_it_again(store: Database, tmp_path: Path) -> None:
    """As many as a person has accepted are news where those have come back."""
    world = World(store, tmp_path)
    campaign, first = await start_small(world)
    await world.die(campaign, first)
    await world.live(130)
    assert (await world.campaign(campaign)).causes == {Cause.EVIDENCE}
    await world.campaigns.resume(campaign, caller="ann", reason="a van in a tunnel")
    await world.live(5)
    first.gone = False
    await world.report(campaign, Execution.TRIAL, first)
    await world.report(campaign, Execution.CONFIRMED, first)
    await world.live(60)
    assert (await world.campaign(campaign)).state is State.RUNNING

    second = next(device for device in world.due(campaign, EU) if device is not first)
    await world.die(campaign, second)
    await world.live(160)

    assert (await world.campaign(campaign)).causes == {Cause.EVIDENCE}
