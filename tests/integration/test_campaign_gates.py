"""Gates that want more than numbers: whose word they wait for, and what becomes of the campaign meanwhile."""

from pathlib import Path

import pytest

from firmware_store.errors import ConflictError, IllegalTransitionError
from server.db.database import Database
from server.domain.campaign import Event, State
from server.domain.consent import Awaited
from server.domain.execution import State as Execution
from server.domain.identity import CampaignId
from server.domain.plan import Gate, Plan, Policy, Wave
from tests.records import EU, LAB
from tests.service_world import World

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
REST = Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60)


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(60, EU)
    return world


async def start(world: World, gate: Gate) -> CampaignId:
    """A canary of three devices behind this gate, then everybody."""
    canary = Wave(ratio=None, count=3, ramp_s=0, soak_s=60, gate=gate)
    return await world.start(await world.add_release(), Plan(waves=(canary, REST)), POLICY, EU)


async def update_canary(world: World, campaign: CampaignId) -> None:
    await world.live()
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign, state, *world.due(campaign, EU))


async def test_a_manual_gate_waits_for_a_person_and_keeps_what_was_said(world: World) -> None:
    campaign = await start(world, Gate(manual=True))
    await update_canary(world, campaign)
    with pytest.raises(IllegalTransitionError) as early:
        await world.campaigns.advance(campaign, wave=1, caller="bob", reason="too early")
    await world.live(90)

    waiting = await world.campaign(campaign)
    assert (waiting.state, waiting.wave, waiting.awaits) == (State.RUNNING, 0, Awaited.ADVANCE)
    assert waiting.sentence.startswith("Wave 1 waits for a person")
    assert early.value.allowed == (Event.PAUSE, Event.COMPLETE, Event.HALT, Event.CANCEL)
    with pytest.raises(ConflictError, match="Wave 1 is open, not 2"):
        await world.campaigns.advance(campaign, wave=2, caller="bob", reason="an old screen")

    advanced = await world.campaigns.advance(campaign, wave=1, caller="bob", reason="looks good")
    await world.live(10)

    assert (advanced.awaits, advanced.sentence) == (Awaited.NOBODY, "")
    assert (await world.campaign(campaign)).wave == 1
    said = [(one.kind, one.actor) for one in await world.campaigns.decisions(campaign, 3)]
    assert said == [("open_wave", "orchestrator"), ("advance", "bob"), ("wait", "orchestrator")]


async def test_a_word_given_before_a_halt_is_asked_for_again_in_the_next_run(world: World) -> None:
    campaign = await start(world, Gate(manual=True))
    await update_canary(world, campaign)
    await world.live(90)
    await world.campaigns.advance(campaign, wave=1, caller="bob", reason="looks good")
    await world.campaigns.halt(campaign, caller="bob", reason="no, it does not")

    await world.campaigns.resume(campaign, caller="bob", reason="it does")

    again = await world.campaign(campaign)
    assert (again.state, again.advanced, again.awaits) == (State.RUNNING, None, Awaited.NOBODY)
