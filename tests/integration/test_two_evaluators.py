"""Two orchestrators that decide at once, with no lease between them: what compare-and-set alone sees to."""

import asyncio
from collections import defaultdict
from pathlib import Path

import pytest

from server.db.database import Database
from server.db.devices import NewDevice
from server.domain.campaign import State
from server.domain.execution import State as Execution
from server.domain.identity import CampaignId, DeviceId
from server.domain.plan import Plan, Policy, Wave
from tests.records import EU, LAB, MAIN
from tests.service_world import World

POLICY = Policy(halt=LAB, trial_s=10, watch_s=300)
PLAN = Plan(waves=tuple(Wave(ratio=ratio, count=None, ramp_s=20, soak_s=20) for ratio in (0.2, 0.6, 1.0)))
STEPS_MOST = 200


@pytest.fixture
async def worlds(store: Database, tmp_path: Path) -> tuple[World, World]:
    """Both hear the same devices, and publish to the same broker."""
    first, second = World(store, tmp_path), World(store, tmp_path)
    names = [DeviceId(f"eu-{number:03}") for number in range(60)]
    await first.inventory.add([NewDevice(name, EU, MAIN) for name in names])
    await first.connect(*names)
    async for record in second.devices.each():
        second.fleet.add(record)
    await second.connect(*names)
    second.shelf.retained, second.shelf.published = first.shelf.retained, first.shelf.published
    return first, second


async def tick_both(worlds: tuple[World, World], seconds: int) -> None:
    """Evaluate every few seconds: who comes late was blind."""
    for _ in range(0, seconds, 4):
        now = worlds[0].now + 4
        for world in worlds:
            world.now = now
            world.beat(*world.fleet.members(MAIN, EU))
        await asyncio.gather(*(world.orchestrator.tick() for world in worlds))


async def update_due(world: World, campaign: CampaignId) -> None:
    started = await world.executions.progress(campaign)
    due = [device for device in world.due(campaign, EU) if device.id not in started]
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign, state, *due)


async def test_two_nodes_that_decide_at_once_make_each_decision_once(worlds: tuple[World, World]) -> None:
    first, second = worlds
    campaign = await first.start(await first.add_release(), PLAN, POLICY, EU)
    for _ in range(STEPS_MOST):
        if (await first.campaign(campaign)).state is State.FINISHED:
            break
        await tick_both(worlds, 20)
        await update_due(first, campaign)

    kinds = [decision.kind for decision in await first.campaigns.decisions(campaign, 1000)][::-1]
    assert kinds == ["start", "open_wave", "open_wave", "open_wave", "complete", "finish"]
    assert all(world.metric("tidegate_failed_evaluations_total") == 0 for world in (first, second))


async def test_two_nodes_give_each_counter_to_one_order_and_the_newest_stays_retained(
    worlds: tuple[World, World],
) -> None:
    """Whichever of them the broker hears last: what is retained is compared with what is stored."""
    first, _ = worlds
    campaign = await first.start(await first.add_release(), PLAN, POLICY, EU)
    for _ in range(30):
        await tick_both(worlds, 20)
        await update_due(first, campaign)
    for world in worlds:
        await world.directives.repair(world.retained_directives(), now=world.now)

    bodies = defaultdict(set)
    for topic, body in first.shelf.published:
        if topic.endswith("/directive"):
            bodies[first.authority.read_directive(body).counter].add(body)
    assert all(len(said) == 1 for said in bodies.values())
    (held,) = await first.directive_repository.all()
    assert first.retained_directives() == {held.audience: held.body}
    assert held.counter == max(bodies)
