"""Whatever comes together with a revocation, it ends in the halt: offers, starts, and other documents."""

import asyncio
from pathlib import Path

import pytest

from firmware_store.errors import TidegateError
from firmware_store.root import RoleName
from server.db.bundles import BundleRecord
from server.db.database import Database
from server.domain.campaign import State
from server.domain.identity import CampaignId
from server.domain.plan import Plan, Policy, Wave
from server.protocol.orders import Action
from server.services.drafts import Draft
from tests.records import EU, LAB, MAIN, US
from tests.service_world import World
from tests.trust_fleet import own_fleet

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
RISING = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=10_000, soak_s=60),))
ROUNDS = 5


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path / "blobs", keys=own_fleet(tmp_path / "keys"))
    await world.populate(3, EU, US)
    return world


async def offered(world: World, number: int) -> tuple[CampaignId, BundleRecord]:
    release = await world.add_release(number)
    campaign = await world.start(release, RISING, POLICY, EU, US)
    await world.live()
    return campaign, release


def actions(world: World) -> set[Action]:
    return {order.action for region in (EU, US) if (order := world.order(region)) is not None}


async def test_a_renewal_at_the_same_moment_never_follows_the_halt(world: World) -> None:
    for number in range(1, ROUNDS + 1):
        campaign, release = await offered(world, number)
        revoked = world.keys.status(number, digests=[release.manifest_digest])
        record = await world.campaign(campaign)

        async def renew(record=record, release=release) -> None:  # type: ignore[no-untyped-def]
            world.now += 70  # every ramp needs its next stretch
            await world.directives.renew(record, release, now=world.now)

        await asyncio.gather(
            renew(), renew(), world.trust.accept_status(revoked, actor="sam"), renew(), renew(), return_exceptions=True
        )
        await world.live()

        assert (await world.campaign(campaign)).state is State.HALTED
        assert actions(world) == {Action.HALT}


async def test_a_start_at_the_same_moment_comes_to_nothing(world: World) -> None:
    for number in range(1, ROUNDS + 1):
        release = await world.add_release(number)
        draft = await world.campaigns.draft(Draft("d", MAIN, (EU,), release.id, RISING, POLICY, "r"), caller="ann")
        revoked = world.keys.status(number, digests=[release.manifest_digest])

        await asyncio.gather(
            world.campaigns.start(draft.id, caller="ann", reason="go"),
            world.trust.accept_status(revoked, actor="sam"),
            return_exceptions=True,
        )
        for _ in range(3):
            await world.live(1)

        assert (await world.campaign(draft.id)).state in {State.DRAFT, State.HALTED}
        assert Action.OFFER not in actions(world)


async def test_a_pause_and_a_revocation_together_end_in_the_halt(world: World) -> None:
    for number in range(1, ROUNDS + 1):
        campaign, release = await offered(world, number)
        revoked = world.keys.status(number, digests=[release.manifest_digest])

        await asyncio.gather(
            world.campaigns.pause(campaign, caller="ann", reason="hm"),
            world.trust.accept_status(revoked, actor="sam"),
            world.orchestrator.tick(),
            return_exceptions=True,
        )
        await world.live()

        assert (await world.campaign(campaign)).state is State.HALTED
        assert actions(world) == {Action.HALT}


async def test_a_root_and_a_status_together_both_hold(world: World) -> None:
    campaign, release = await offered(world, 1)
    new = world.keys.new_key(RoleName.DIRECTIVE, into=world.keys.folder)
    root = world.keys.publish(world.keys.rotated(world.keys.kid(RoleName.DIRECTIVE), new, stolen=True))
    revoked = world.keys.status(1, digests=[release.manifest_digest])

    await asyncio.gather(
        world.trust.accept_root(root, actor="sam"),
        world.trust.accept_status(revoked, actor="sam"),
        world.orchestrator.tick(),
    )

    assert (world.authority.root.version, world.authority.status_version) == (2, 1)
    assert (await world.campaign(campaign)).state is State.HALTED
    assert actions(world) == {Action.HALT}
    assert {record.counter.epoch for record in await world.directive_repository.all()} == {2}


async def test_of_many_statuses_at_once_the_newest_holds(world: World) -> None:
    documents = [world.keys.status(version, digests=[bytes([version]) * 32]) for version in range(1, 9)]

    outcomes = await asyncio.gather(
        *(world.trust.accept_status(document, actor="sam") for document in reversed(documents)), return_exceptions=True
    )

    assert world.authority.status_version == 8
    assert sum(isinstance(outcome, TidegateError) for outcome in outcomes) == 7
    assert world.shelf.retained[world.topics.trust_status] == documents[-1]
