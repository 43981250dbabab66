"""Rehearsals beside a running server: taken from its fleet, one at a time, and over when nobody listens any more."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from firmware_store.errors import ConflictError, InvalidInputError, NotFoundError
from server.db.database import Database
from server.domain.identity import Cohort, DeviceId
from server.domain.plan import Plan, Policy, Wave
from server.services.rehearsals import Rehearsals, play_apart
from server.services.replay.rehearsal import Job
from tests.records import EU, MAIN, US
from tests.service_world import World

PLAN = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=60, soak_s=60),))
NAMED = Wave(ratio=None, count=None, devices=(DeviceId("eu-001"),))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(6, EU)
    return world


def rehearsals(world: World, **parts: Any) -> Rehearsals:
    return Rehearsals(fleet=world.fleet, campaigns=world.campaigns, heartbeat_s=60, clock=lambda: world.now, **parts)


async def test_a_picture_has_whom_the_campaign_is_for_and_what_is_known_of_them(world: World) -> None:
    held, away, asleep = [device for device in world.fleet if device.region == EU][:3]
    await world.quarantine.hold(held.id, for_s=None, reason="a test", caller="bob")
    await world.connect(asleep.id, wake_interval_s=3600)
    asleep.gone = away.gone = True
    world.now += 300
    campaign = await world.start(await world.add_release(), Plan(waves=(NAMED, *PLAN.waves)), Policy(), EU)

    prepared = await rehearsals(world).of_campaign(campaign)

    picture = prepared.job.picture
    of = dict(zip(picture.ids, zip(picture.dark_s, picture.wake_s, strict=True), strict=True))
    assert held.id not in of
    assert of[away.id][0] >= 300
    assert of[asleep.id] == (0.0, 3600)
    assert (prepared.devices, prepared.numbers) == (5, (2,))
    assert prepared.job.plan == PLAN


async def test_what_cannot_be_rehearsed_is_refused(world: World) -> None:
    asked = rehearsals(world)

    with pytest.raises(NotFoundError):
        await asked.of_draft(Cohort("nobody"), [EU], PLAN, Policy())
    with pytest.raises(NotFoundError):
        await asked.of_draft(MAIN, [US], None, Policy())
    with pytest.raises(InvalidInputError, match="all waves name devices"):
        await asked.of_draft(MAIN, [EU], Plan(waves=(NAMED,)), Policy())


async def test_one_is_played_at_a_time_in_a_process_that_ends_with_it(world: World) -> None:
    asked = rehearsals(world)
    prepared = await asked.of_draft(MAIN, [EU], None, Policy())

    def children() -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process().children()
            if any("replay.rehearsal" in word for word in child.cmdline())
        ]

    async with aclosing(asked.run(prepared)) as lines:
        assert (await anext(lines))["complete"] is False
        assert len(children()) == 1
        with pytest.raises(ConflictError):
            await anext(asked.run(prepared))

    assert children() == []
    short = await asked.of_draft(MAIN, [EU], PLAN, Policy())
    report = [line async for line in asked.run(short)][-1]
    assert (report["complete"], report["devices"], len(report["effects"])) == (True, 6, 4)


async def test_a_process_that_cannot_do_it_says_why(world: World) -> None:
    prepared = await rehearsals(world).of_draft(MAIN, [EU], PLAN, Policy())
    job = prepared.job
    wrong = Job(job.picture, Plan(waves=(NAMED,)), job.policy, job.heartbeat_s, job.begins)

    with pytest.raises(Exception, match="The rehearsal broke off: A replay knows no devices by name"):
        async with asyncio.timeout(60):
            [line async for line in play_apart(wrong)]
