"""A root or a status takes effect in one transaction: what it takes back is halted, stored and told, or nothing is."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_store.errors import TrustError
from firmware_store.root import RoleName
from firmware_store.suit import class_id, vendor_id
from server.db.bundles import BundleRecord
from server.db.database import Database
from server.db.trust import TrustRepository
from server.domain.campaign import Cause, State
from server.domain.identity import CampaignId, Cohort
from server.domain.plan import Plan, Policy, Wave
from server.protocol.orders import Action, StatusRef
from server.services.drafts import Draft
from server.services.wire import Retained
from tests.records import EU, LAB, MAIN, US
from tests.service_world import World
from tests.trust_fleet import HARDWARE, VENDOR, own_fleet

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))
CLASS = class_id(vendor_id(VENDOR), HARDWARE)


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    """A few devices in two regions."""
    world = World(store, tmp_path / "blobs", keys=own_fleet(tmp_path / "keys"))
    await world.populate(3, EU, US)
    return world


async def run(world: World, release: BundleRecord) -> CampaignId:
    """Start a campaign, and let it offer in both regions."""
    campaign = await world.start(release, AT_ONCE, POLICY, EU, US)
    await world.orchestrator.tick()
    assert {world.order(region).action for region in (EU, US)} == {Action.OFFER}  # type: ignore[union-attr]
    return campaign


async def running(world: World) -> tuple[CampaignId, BundleRecord]:
    release = await world.add_release(5)
    return await run(world, release), release


async def revoke(world: World, *digests: bytes, version: int = 1, **members: Any) -> bytes:
    document = world.keys.status(version, digests=digests, **members)
    await world.trust.accept_status(document, actor="sam")
    return document


def topics_since(world: World, count: int) -> list[str]:
    return [topic for topic, _ in world.shelf.published[count:]]


# --- what a status does ---


async def test_a_status_that_revokes_a_release_halts_its_campaign(world: World) -> None:
    campaign, release = await running(world)

    accepted = await world.trust.accept_status(world.keys.status(digests=[release.manifest_digest]), actor="sam")

    record = await world.campaign(campaign)
    (decision, *_) = await world.campaigns.decisions(campaign, 1)
    assert [one.id for one in accepted.halted] == [campaign]
    assert (record.state, record.halted_at) == (State.HALTED, record.ended_at)
    assert record.sentence == "Halted, since with status 1: this release has been revoked."
    assert (decision.actor, decision.kind, decision.sentence) == ("trust", "halt", record.sentence)


async def test_the_halt_is_published_at_once_after_the_status_it_names(world: World) -> None:
    _, release = await running(world)
    before = len(world.shelf.published)

    status = await revoke(world, release.manifest_digest)

    orders = [world.order(region) for region in (EU, US)]
    assert topics_since(world, before)[0] == world.topics.trust_status
    assert len(topics_since(world, before)) == 3
    assert world.shelf.retained[world.topics.trust_status] == status
    for order in orders:
        assert order is not None
        assert order.action is Action.HALT
        assert order.status == StatusRef(1, hashlib.sha256(status).digest())
        assert order.halted == (release.manifest_digest,)


@pytest.mark.parametrize("state", [State.PAUSED, State.WATCHING])
async def test_a_campaign_that_is_paused_or_watched_is_halted_too(world: World, state: State) -> None:
    campaign, release = await running(world)
    record = await world.campaign(campaign)
    causes = frozenset({Cause.OPERATOR}) if state is State.PAUSED else frozenset[Cause]()
    await world.repository.save(replace(record, state=state, causes=causes))

    await revoke(world, release.manifest_digest)

    assert (await world.campaign(campaign)).state is State.HALTED


async def test_campaigns_of_other_releases_go_on_as_they_were(world: World) -> None:
    campaign, _ = await running(world)
    before = [world.order(region) for region in (EU, US)]

    accepted = await world.trust.accept_status(world.keys.status(digests=[b"x" * 32]), actor="sam")

    assert accepted.is_new
    assert accepted.halted == ()
    assert (await world.campaign(campaign)).state is State.RUNNING
    assert [world.order(region) for region in (EU, US)] == before


async def test_a_draft_of_a_revoked_release_is_left_and_does_not_start(world: World) -> None:
    release = await world.add_release(5)
    draft = await world.campaigns.draft(Draft("d", MAIN, (EU,), release.id, AT_ONCE, POLICY, "r"), caller="ann")
    await revoke(world, release.manifest_digest)

    with pytest.raises(TrustError, match="revoked"):
        await world.campaigns.start(draft.id, caller="ann", reason="now")

    assert (await world.campaign(draft.id)).state is State.DRAFT
    assert world.order(EU) is None


async def test_a_floor_above_a_release_halts_it(world: World) -> None:
    campaign, _ = await running(world)

    await revoke(world, floors={CLASS: 6})

    assert (await world.campaign(campaign)).sentence == (
        "Halted, since with status 1: release 5 is below the floor, which is 6."
    )


async def test_a_floor_at_a_release_does_not(world: World) -> None:
    campaign, _ = await running(world)

    await revoke(world, floors={CLASS: 5})

    assert (await world.campaign(campaign)).state is State.RUNNING


async def test_a_revoked_release_key_halts_what_it_had_to_sign(world: World) -> None:
    campaign, _ = await running(world)

    await revoke(world, revoked_kids=frozenset({world.keys.kid(RoleName.RELEASE)}))

    assert (await world.campaign(campaign)).sentence.endswith("a release signed by 1 of our keys where 2 are needed.")


async def test_a_root_that_kills_a_release_key_halts_what_it_had_signed(world: World) -> None:
    campaign, _ = await running(world)

    accepted = await world.trust.accept_root(world.keys.publish(world.keys.without_release_key()), actor="sam")

    record = await world.campaign(campaign)
    order = world.order(EU)
    assert [one.id for one in accepted.halted] == [campaign]
    assert record.sentence.startswith("Halted, since with root 2: a release signed by 1 of our keys")
    assert order is not None
    assert order.action is Action.HALT


async def test_a_root_with_a_floor_above_a_release_halts_it(world: World) -> None:
    campaign, _ = await running(world)

    await world.trust.accept_root(world.keys.publish(world.keys.following(floors={CLASS: 9})), actor="sam")

    assert (await world.campaign(campaign)).state is State.HALTED


async def test_another_cohorts_campaign_on_the_release_is_halted_as_well(world: World) -> None:
    campaign, release = await running(world)
    lab = await world.start(release, AT_ONCE, POLICY, EU, cohort=Cohort("lab"))

    await revoke(world, release.manifest_digest)

    assert {(await world.campaign(one)).state for one in (campaign, lab)} == {State.HALTED}


# --- all of it, or nothing ---


async def test_when_the_second_halt_cannot_be_signed_nothing_has_happened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a signer that is away, for which there is another rule: a mistake in the middle of the transaction."""
    campaign, release = await running(world)
    before = await world.campaign(campaign)
    orders = await world.directive_repository.all()

    def fail_at_the_second(mandate: Any) -> Any:
        async def sign(directive: Any, state: Any) -> bytes:
            if directive.audience.region == US:
                raise RuntimeError("in the middle")
            return await world.authority._sign(mandate, directive, state)

        return sign

    monkeypatch.setattr(world.authority, "signing_under", fail_at_the_second)
    with pytest.raises(RuntimeError):
        await revoke(world, release.manifest_digest)

    assert await world.campaign(campaign) == before
    assert await world.directive_repository.all() == orders
    assert await TrustRepository(world.store).status() is None
    assert world.authority.trust.status is None
    assert world.topics.trust_status not in world.shelf.retained


async def test_what_the_broker_did_not_take_is_there_when_it_takes_again(world: World) -> None:
    campaign, release = await running(world)
    world.shelf.refuses = True
    status = await revoke(world, release.manifest_digest)
    assert (await world.campaign(campaign)).state is State.HALTED
    world.shelf.refuses = False

    await world.orchestrator.tick()

    order = world.order(US)
    assert order is not None
    assert order.action is Action.HALT
    assert world.shelf.retained[world.topics.trust_status] == status


async def test_the_same_document_again_changes_nothing(world: World) -> None:
    root, status = world.keys.publish(world.keys.following()), world.keys.status()
    await world.trust.accept_root(root, actor="sam")
    await world.trust.accept_status(status, actor="sam")
    before = len(world.shelf.published)

    again = [
        await world.trust.accept_root(root, actor="pam"),
        await world.trust.accept_status(status, actor="pam"),
    ]

    assert [one.is_new for one in again] == [False, False]
    assert world.shelf.published[before:] == []


async def test_a_commit_whose_answer_was_lost_is_found_to_have_happened(world: World) -> None:
    """The transaction took effect and the connection broke: whoever publishes again is told that it holds."""
    _, release = await running(world)
    status = world.keys.status(digests=[release.manifest_digest])
    trust, mandate = world.authority.trust, world.authority.mandate
    await world.trust.accept_status(status, actor="sam")
    world.authority.adopt(mandate)
    assert world.authority.trust is trust

    accepted = await world.trust.accept_status(status, actor="sam")

    assert accepted.is_new
    assert world.authority.trust.status is not None
    assert world.shelf.retained[world.topics.trust_status] == status


async def test_welcomes_tell_both_versions(world: World) -> None:
    await world.trust.accept_root(world.keys.publish(world.keys.following()), actor="sam")
    await revoke(world, version=7)

    assert (world.authority.root.version, world.authority.status_version) == (2, 7)


async def test_every_document_leaves_a_row_whatever_became_of_it(world: World) -> None:
    await revoke(world, version=2)
    with pytest.raises(TrustError):
        await revoke(world, version=1)

    said = [(event.actor, event.document, event.accepted, event.sentence) for event in await world.trust.events(9)]
    assert said == [
        ("sam", "status", False, "status 1, where status 2 is known already"),
        ("sam", "status", True, "status 2 was accepted"),
    ]


# --- a status under another root ---


async def test_a_status_forbids_on_under_a_root_that_no_longer_knows_its_key(world: World) -> None:
    _, release = await running(world)
    await revoke(world, release.manifest_digest)
    old = world.keys.kid(RoleName.STATUS)

    await world.trust.accept_root(
        world.keys.publish(world.keys.rotated(old, world.keys.new_key(RoleName.STATUS), stolen=True)), actor="sam"
    )

    assert world.authority.trust.status is not None
    assert world.authority.trust.current is None
    assert world.authority.status_version == 0
    with pytest.raises(TrustError, match="revoked"):
        await world.directives.check_release(release, now=world.now)
    with pytest.raises(TrustError, match="earlier root"):
        world.authority.trust.check_time(int(world.now))


async def test_a_new_epoch_of_the_status_role_counts_from_one_again(world: World) -> None:
    await revoke(world, version=1 << 40)  # whoever stole the key has burnt the numbers
    stolen = world.keys.kid(RoleName.STATUS)
    await world.trust.accept_root(
        world.keys.publish(world.keys.rotated(stolen, world.keys.new_key(RoleName.STATUS), stolen=True)), actor="sam"
    )

    await revoke(world, version=1)

    assert world.authority.status_version == 1
    world.authority.trust.check_time(int(world.now))


# --- what the broker retains ---


def retained(world: World) -> Retained:
    roots = {
        version: world.shelf.retained[topic]
        for version in range(1, 9)
        if (topic := world.topics.trust_root(version)) in world.shelf.retained
    }
    return Retained(dict(world.retained_directives()), roots, world.shelf.retained.get(world.topics.trust_status))


async def test_roots_and_status_are_retained_but_the_one_that_everything_begins_with(world: World) -> None:
    roots = [world.keys.publish(world.keys.following()) for _ in range(2)]
    for root in roots:
        await world.trust.accept_root(root, actor="sam")
    status = await revoke(world)

    held = retained(world)
    assert held.roots == {2: roots[0], 3: roots[1]}
    assert held.status == status


@pytest.mark.parametrize("damage", ["lost", "replaced"])
async def test_a_document_that_is_not_retained_as_it_should_be_is_published_again(world: World, damage: str) -> None:
    await world.trust.accept_root(world.keys.publish(world.keys.following()), actor="sam")
    await revoke(world)
    before = retained(world)
    for topic in (world.topics.trust_root(2), world.topics.trust_status):
        if damage == "lost":
            del world.shelf.retained[topic]
        else:
            world.shelf.retained[topic] = b"not ours"

    await world.trust.repair(retained(world))

    assert retained(world) == before


async def test_a_restored_server_learns_from_its_broker_what_it_has_forgotten(world: World) -> None:
    """The database is a copy from before two roots and a status; the broker has them."""
    campaign, release = await running(world)
    for version in (2, 3):
        world.shelf.retained[world.topics.trust_root(version)] = world.keys.publish(world.keys.following())
    world.shelf.retained[world.topics.trust_status] = world.keys.status(3, digests=[release.manifest_digest])

    await world.trust.repair(retained(world))

    assert (world.authority.root.version, world.authority.status_version) == (3, 3)
    assert (await world.campaign(campaign)).state is State.HALTED
    assert {event.actor for event in await world.trust.events(9)} == {"broker"}


async def test_what_the_broker_makes_up_is_not_believed_and_leaves_no_row_each_minute(world: World) -> None:
    root = world.keys.following()
    foreign = Retained(
        roots={2: world.keys.seal_root(root, world.keys.of(RoleName.RELEASE)), 9: b"nine", 3: b""},
        status=world.keys.status(9, signers=world.keys.of(RoleName.DIRECTIVE)),
    )

    for _ in range(2):
        await world.trust.repair(foreign)

    assert (world.authority.root.version, world.authority.status_version) == (1, 0)
    assert await world.trust.events(9) == []
