"""What people see of a campaign: counted anew where that is quick, and otherwise what was counted last."""

import asyncio
from pathlib import Path

import pytest

from server.db.database import Database
from server.domain.plan import Policy
from server.domain.scope import EVERYTHING
from server.domain.snapshot import RegionView
from server.services.glances import QUICK_S, REST_RATIO, Glance, Glances
from tests.records import EU, EVERYBODY, LAB
from tests.service_world import World


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(3, EU)
    return world


def eligible(views: list[RegionView]) -> int:
    return sum(view.eligible for view in views)


async def test_a_small_fleet_is_counted_each_time(world: World) -> None:
    release = await world.add_release()
    campaign = await world.campaign(await world.start(release, EVERYBODY, Policy(halt=LAB), EU))
    before = await world.surveyor.glance(campaign, release, now=world.now)
    next(iter(world.fleet)).held = True

    after = await world.surveyor.glance(campaign, release, now=world.now)

    assert (eligible(list(before.regions)), eligible(list(after.regions))) == (3, 2)


async def test_what_took_long_is_shown_again_while_the_next_one_is_made(world: World) -> None:
    release = await world.add_release()
    campaign = await world.campaign(await world.start(release, EVERYBODY, Policy(halt=LAB), EU))
    glances, made, begun = Glances(), asyncio.Event(), 0
    first, second = Glance([], {}, []), Glance([], {}, [])
    glances.keep(first, campaign, EVERYTHING, took_s=2 * QUICK_S)

    async def survey() -> None:
        nonlocal begun
        begun += 1
        await made.wait()
        glances.keep(second, campaign, EVERYTHING, took_s=2 * QUICK_S)

    async def look() -> Glance:
        return await glances.get(campaign, EVERYTHING, survey)

    assert await look() is first
    assert begun == 0
    async with asyncio.timeout(60 * REST_RATIO * QUICK_S):
        while not begun:
            assert await look() is first
            await asyncio.sleep(QUICK_S)
    assert await look() is first
    made.set()
    async with asyncio.timeout(10):
        while await look() is first:
            await asyncio.sleep(0)

    assert begun == 1
