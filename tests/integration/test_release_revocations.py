"""Each halt proposes to take its release back, and nobody forgets: over restarts too, until it is settled."""

from pathlib import Path
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from firmware_store.errors import ConflictError, NotFoundError
from server.db.bundles import BundleRecord
from server.db.database import Database
from server.db.revocations import RevocationId, RevocationRecord, RevocationRepository, Stage
from server.domain.identity import CampaignId
from server.domain.plan import Plan, Policy, Wave
from server.services.revocations import Revocations
from tests.records import EU, US
from tests.service_world import World
from tests.trust_fleet import own_fleet

AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))
DAY_S = 86_400


@pytest.fixture
def world(store: Database, tmp_path: Path) -> World:
    return World(store, tmp_path / "blobs", keys=own_fleet(tmp_path / "keys"))


async def halt(world: World, release: BundleRecord) -> CampaignId:
    campaign = await world.start(release, AT_ONCE, Policy(), EU, US)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    return campaign


async def proposals(world: World, stage: Stage | None = None) -> list[RevocationRecord]:
    return await world.revocations.newest(10, stage=stage)


async def reminders(revocations: Revocations) -> list[str]:
    with capture_logs() as logs:
        await revocations.remind()
    return [entry["release"] for entry in logs if entry["event"] == "revocation_proposed"]


async def test_a_halt_proposes_to_take_its_release_back(world: World) -> None:
    release = await world.add_release(5)
    campaign = await halt(world, release)

    (proposal,) = await proposals(world)
    assert (proposal.manifest_digest, proposal.campaign) == (release.manifest_digest, campaign)
    assert (proposal.stage, proposal.sentence) == (Stage.PROPOSED, "Halted by ann: smoke")


async def test_what_trust_has_halted_needs_no_proposal(world: World) -> None:
    release = await world.add_release(5)
    await world.start(release, AT_ONCE, Policy(), EU)
    await world.trust.accept_status(world.keys.status(digests=[release.manifest_digest]), actor="sam")

    assert await proposals(world) == []


async def test_a_release_that_is_halted_twice_is_proposed_once(world: World) -> None:
    release = await world.add_release(5)
    first = await halt(world, release)
    await halt(world, release)

    (proposal,) = await proposals(world)
    assert proposal.campaign == first


async def test_one_reminder_a_day_over_restarts_too(world: World, store: Database) -> None:
    release = await world.add_release(5)
    await halt(world, release)
    said = []
    for hours in (1, 23.5, 1, 23.5):
        world.now += hours * 3600
        restarted = Revocations(RevocationRepository(store), clock=lambda: world.now)
        said.append(await reminders(restarted))

    assert said == [[], [release.manifest_digest.hex()], [], [release.manifest_digest.hex()]]


async def test_a_status_that_takes_it_back_settles_it(world: World) -> None:
    release, other = await world.add_release(5), await world.add_release(6)
    await halt(world, release)
    await halt(world, other)

    await world.trust.accept_status(world.keys.status(digests=[release.manifest_digest]), actor="sam")

    (settled,) = await proposals(world, Stage.PUBLISHED)
    assert (settled.manifest_digest, settled.decided_by) == (release.manifest_digest, "sam")
    world.now += 2 * DAY_S
    assert await reminders(world.revocations) == [other.manifest_digest.hex()]


async def test_whoever_declines_ends_the_reminders_and_says_why(world: World) -> None:
    await halt(world, await world.add_release(5))
    (proposal,) = await proposals(world)

    declined = await world.revocations.decline(proposal.id, caller="bob", reason="it was the weather")

    assert (declined.stage, declined.decided_by, declined.reason) == (Stage.DECLINED, "bob", "it was the weather")
    world.now += 2 * DAY_S
    assert await reminders(world.revocations) == []
    with pytest.raises(ConflictError, match="declined already, by bob"):
        await world.revocations.decline(proposal.id, caller="eve", reason="again")


async def test_a_release_that_was_declined_is_proposed_again_by_the_next_halt(world: World) -> None:
    release = await world.add_release(5)
    await halt(world, release)
    (proposal,) = await proposals(world)
    await world.revocations.decline(proposal.id, caller="bob", reason="it was the weather")
    world.now += 1

    await halt(world, release)

    assert [one.stage for one in await proposals(world)] == [Stage.PROPOSED, Stage.DECLINED]


async def test_nobody_declines_what_was_never_proposed(world: World) -> None:
    with pytest.raises(NotFoundError):
        await world.revocations.decline(RevocationId(uuid4()), caller="bob", reason="what?")
