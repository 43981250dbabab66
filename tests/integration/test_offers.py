"""What the signer refuses whoever asks, what the orchestrator does about it, and the halted releases in every order."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from firmware_store.bundle import bundle_pieces
from firmware_store.errors import (
    ConflictError,
    DigestError,
    ExpiredError,
    RevokedError,
    RollbackError,
    SignatureError,
    SignerUnavailableError,
    TidegateError,
)
from firmware_store.root import RoleName
from firmware_store.suit import class_id, vendor_id
from server.db.bundles import BundleRecord
from server.db.database import Database
from server.domain.campaign import OFFERING, Cause, State
from server.domain.gate import Ramp
from server.domain.identity import CampaignId, Cohort, Region
from server.domain.plan import MaintenanceWindow, Plan, Policy, Wave
from server.domain.windows import Window
from server.protocol.messages import Counter
from server.protocol.orders import HALTED_MOST, Action, Directive, Envelope
from server.protocol.topics import CohortAudience
from server.services.directives import envelope_of
from server.services.transitions import completed
from tests.records import EU, LAB, MAIN, US
from tests.servers import make_bundle
from tests.service_world import World
from tests.trust_fleet import HARDWARE, VENDOR, own_fleet

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))
SLOW = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=1000, soak_s=60),))
CLASS = class_id(vendor_id(VENDOR), HARDWARE)


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path / "blobs", keys=own_fleet(tmp_path / "keys"))
    await world.populate(3, EU, US)
    return world


def offer(world: World, release: BundleRecord, **changes: Any) -> Directive:
    issued = int(world.now)
    directive = Directive(
        fleet=world.authority.root.fleet,
        audience=CohortAudience(EU, MAIN),
        counter=Counter(1, 5),
        issued=issued,
        expires=issued + 100,
        action=Action.OFFER,
        campaign=CampaignId(release.id),
        manifest_digest=release.manifest_digest,
        sequence_number=release.sequence_number,
        envelope=envelope_of(release),
        ramp=Ramp.flat(7),
    )
    return replace(directive, **changes)


async def assert_not_signed(
    world: World, directive: Directive, error: type[TidegateError], text: str | None = None
) -> None:
    with pytest.raises(error, match=text):
        await world.authority.sign_directive(directive, State.RUNNING)


# --- the signer's own checks ---


@pytest.mark.parametrize("state", [*State, None])
async def test_only_a_campaign_that_offers_may_offer(world: World, state: State | None) -> None:
    release = await world.add_release(5)

    if state in OFFERING:
        body = await world.authority.sign_directive(offer(world, release), state)
        assert world.authority.read_directive(body).action is Action.OFFER
    else:
        with pytest.raises(ConflictError):
            await world.authority.sign_directive(offer(world, release), state)


@pytest.mark.parametrize("action", sorted(set(Action) - {Action.OFFER}))
async def test_everything_that_holds_devices_back_is_signed_in_any_case(world: World, action: Action) -> None:
    release = await world.add_release(5)
    await world.trust.accept_status(world.keys.status(digests=[release.manifest_digest]), actor="sam")
    world.now += 400 * 86_400
    await world.blobs.delete(release.envelope_digest)

    body = await world.authority.sign_directive(offer(world, release, action=action, ramp=None), State.HALTED)

    assert world.authority.read_directive(body).action is action


async def test_an_offer_carries_the_maintenance_windows_of_its_campaign(world: World) -> None:
    policy = POLICY.model_copy(update={"windows": (MaintenanceWindow(opens="0 2 * * *", duration_s=3600),)})
    await world.start(await world.add_release(5), AT_ONCE, policy, EU)
    await world.orchestrator.tick()

    order = world.order(EU)
    assert order is not None
    assert order.windows == (Window("0 2 * * *", 3600),)


async def test_a_revoked_release_is_not_offered(world: World) -> None:
    release = await world.add_release(5)
    await world.authority.sign_directive(offer(world, release), State.RUNNING)
    await world.trust.accept_status(world.keys.status(digests=[release.manifest_digest]), actor="sam")

    await assert_not_signed(world, offer(world, release), RevokedError)


async def test_a_release_below_a_floor_is_not_offered(world: World) -> None:
    release = await world.add_release(5)
    await world.trust.accept_status(world.keys.status(floors={CLASS: 6}), actor="sam")

    await assert_not_signed(world, offer(world, release), RollbackError)


async def test_a_release_below_the_roots_floor_is_not_offered(world: World) -> None:
    release = await world.add_release(5)
    await world.trust.accept_root(world.keys.publish(world.keys.following(floors={CLASS: 6})), actor="sam")

    await assert_not_signed(world, offer(world, release), RollbackError)


async def test_a_release_that_has_lost_a_signature_is_not_offered(world: World) -> None:
    release = await world.add_release(5)
    status = world.keys.status(revoked_kids=frozenset({world.keys.kid(RoleName.RELEASE)}))
    await world.trust.accept_status(status, actor="sam")

    await assert_not_signed(world, offer(world, release), SignatureError)


async def test_a_release_is_not_offered_under_another_ones_name(world: World) -> None:
    """The database says that the envelope of one release is that of another: its owner may want to pass it off."""
    release, other = await world.add_release(5), await world.add_release(6)

    await assert_not_signed(world, offer(world, release, envelope=envelope_of(other)), DigestError)
    await assert_not_signed(world, offer(world, release, manifest_digest=other.manifest_digest), DigestError)
    await assert_not_signed(world, offer(world, release, sequence_number=99), DigestError)


async def test_a_release_whose_envelope_nobody_signed_is_not_offered(world: World) -> None:
    """The owner of database and blob store has put an envelope of their own there."""
    release, envelope = await world.add_release(5), b"an envelope of a thief"
    digest = hashlib.sha256(envelope).digest()
    await world.blobs.put(digest, envelope)

    with pytest.raises(TidegateError):
        await world.authority.sign_directive(
            offer(world, release, envelope=Envelope(digest, len(envelope))), State.RUNNING
        )


async def test_a_release_whose_envelope_is_lost_is_not_offered(world: World) -> None:
    release = await world.add_release(5)
    await world.blobs.delete(release.envelope_digest)

    await assert_not_signed(world, offer(world, release), SignerUnavailableError, "Upload the bundle again")


async def test_uploading_a_bundle_again_mends_what_was_lost_of_it(world: World, tmp_path: Path) -> None:
    file = make_bundle(tmp_path, world.keys.folder)
    release = await world.bundles.receive(bundle_pieces(file), caller="ann")
    await world.blobs.delete(release.envelope_digest)
    await assert_not_signed(world, offer(world, release), SignerUnavailableError)

    with pytest.raises(ConflictError, match="already here"):
        await world.bundles.receive(bundle_pieces(file), caller="ann")

    await world.authority.sign_directive(offer(world, release), State.RUNNING)


async def test_a_release_that_was_halted_for_the_same_audience_is_not_offered(world: World) -> None:
    release = await world.add_release(5)

    await assert_not_signed(world, offer(world, release, halted=(release.manifest_digest,)), RevokedError)


async def test_nothing_is_offered_once_the_root_has_expired(world: World) -> None:
    release = await world.add_release(5)
    world.now += 400 * 86_400

    await assert_not_signed(world, offer(world, release), ExpiredError, "root has expired")


async def test_nothing_is_offered_once_the_status_has_expired(world: World) -> None:
    release = await world.add_release(5)
    await world.trust.accept_status(world.keys.status(), actor="sam")
    world.now += 8 * 86_400

    await assert_not_signed(world, offer(world, release), ExpiredError, "status document has expired")


async def test_an_envelope_is_read_once_as_long_as_nothing_changes(world: World) -> None:
    release = await world.add_release(5)
    await world.authority.sign_directive(offer(world, release), State.RUNNING)
    await world.blobs.delete(release.envelope_digest)

    await world.authority.sign_directive(offer(world, release), State.RUNNING)
    await world.trust.accept_status(world.keys.status(), actor="sam")

    await assert_not_signed(world, offer(world, release), SignerUnavailableError)


# --- the orchestrator ---


async def run(world: World, number: int = 5, plan: Plan = AT_ONCE) -> tuple[CampaignId, BundleRecord]:
    release = await world.add_release(number)
    campaign = await world.start(release, plan, POLICY, EU, US)
    await world.live()
    return campaign, release


def action_in(world: World, region: Region, cohort: Cohort = MAIN) -> Action:
    order = world.order(region, cohort)
    assert order is not None
    return order.action


async def test_a_campaign_is_held_while_the_status_has_expired_and_goes_on_from_its_level(world: World) -> None:
    campaign, _ = await run(world, plan=SLOW)
    await world.trust.accept_status(world.keys.status(expires=int(world.now) + 50), actor="sam")
    await world.live(100)
    held = await world.campaign(campaign)
    assert (held.state, held.causes) == (State.PAUSED, frozenset({Cause.TRUST}))
    assert held.sentence.startswith("Held: the status document has expired")
    assert action_in(world, EU) is Action.HOLD

    await world.live(500)
    assert (await world.campaign(campaign)).revision == held.revision
    await world.trust.accept_status(world.keys.status(2, expires=int(world.now) + 5000), actor="sam")
    await world.live()

    going_on = await world.campaign(campaign)
    assert going_on.state is State.RUNNING
    assert action_in(world, EU) is Action.OFFER
    for before, after in zip(held.regions, going_on.regions, strict=True):
        assert before.ramp.l1 <= after.ramp.l0 < 1.5 * before.ramp.l1
        assert after.target == before.target


async def test_what_is_watched_is_held_as_well_while_the_status_has_expired(world: World) -> None:
    campaign, _ = await run(world)
    watching = completed(await world.campaign(campaign), now=datetime.fromtimestamp(world.now, UTC))
    assert await world.repository.save(watching) is not None
    await world.trust.accept_status(world.keys.status(expires=int(world.now) + 50), actor="sam")

    await world.live(100)

    held = await world.campaign(campaign)
    assert (held.state, held.causes, action_in(world, EU)) == (State.PAUSED, {Cause.TRUST}, Action.HOLD)


async def test_a_person_cannot_resume_what_trust_holds_and_their_own_pause_stays(world: World) -> None:
    campaign, _ = await run(world)
    await world.trust.accept_status(world.keys.status(expires=int(world.now) + 50), actor="sam")
    await world.live(100)
    await world.campaigns.pause(campaign, caller="ann", reason="me too")

    record = await world.campaigns.resume(campaign, caller="ann", reason="go")
    assert (record.state, record.causes) == (State.PAUSED, frozenset({Cause.TRUST}))
    await world.campaigns.pause(campaign, caller="ann", reason="me too")
    await world.trust.accept_status(world.keys.status(2, expires=int(world.now) + 5000), actor="sam")
    await world.live()

    assert (await world.campaign(campaign)).causes == {Cause.OPERATOR}
    assert action_in(world, EU) is Action.HOLD


async def test_a_draft_does_not_start_under_an_expired_status(world: World) -> None:
    release = await world.add_release(5)
    await world.trust.accept_status(world.keys.status(), actor="sam")
    world.now += 8 * 86_400

    with pytest.raises(ExpiredError):
        await world.start(release, AT_ONCE, POLICY, EU)


async def test_a_campaign_that_began_in_the_same_moment_as_its_revocation_is_halted_at_the_next_look(
    world: World, store: Database
) -> None:
    campaign, release = await run(world)
    await world.trust.accept_status(world.keys.status(digests=[release.manifest_digest]), actor="sam")
    async with store.transaction() as connection:
        await connection.execute("UPDATE campaign SET state = 'running', halted_at = NULL WHERE id = $1", campaign)

    await world.live()

    record = await world.campaign(campaign)
    assert (record.state, record.sentence) == (State.HALTED, "Halted: this release has been revoked.")
    assert (await world.campaigns.decisions(campaign, 1))[0].actor == "trust"
    assert action_in(world, EU) is Action.HALT


async def test_a_campaign_whose_envelope_is_lost_is_held_and_stops_no_other(world: World) -> None:
    lost, sound = await world.add_release(5), await world.add_release(6)
    without = await world.start(lost, AT_ONCE, POLICY, EU)
    with_it = await world.start(sound, AT_ONCE, POLICY, US)
    await world.blobs.delete(lost.envelope_digest)
    world.authority.adopt(world.authority.mandate)

    await world.live()

    assert (await world.campaign(without)).causes == {Cause.TRUST}
    assert (await world.campaign(with_it)).state is State.RUNNING
    assert action_in(world, US) is Action.OFFER


# --- halted releases in every order ---


async def halted(world: World, number: int, *, cohort: Cohort = MAIN) -> BundleRecord:
    release = await world.add_release(number)
    campaign = await world.start(release, AT_ONCE, POLICY, EU, cohort=cohort)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    return release


def listed(world: World, region: Region = EU, cohort: Cohort = MAIN) -> tuple[bytes, ...]:
    order = world.order(region, cohort)
    assert order is not None
    return order.halted


async def test_every_later_order_for_the_audience_names_what_was_halted(world: World) -> None:
    bad = await halted(world, 5)
    assert listed(world) == (bad.manifest_digest,)

    campaign, _ = await run(world, 6)
    assert (action_in(world, EU), listed(world)) == (Action.OFFER, (bad.manifest_digest,))
    await world.campaigns.pause(campaign, caller="ann", reason="hm")
    assert (action_in(world, EU), listed(world)) == (Action.HOLD, (bad.manifest_digest,))
    await world.campaigns.cancel(campaign, caller="ann", reason="no")
    assert (action_in(world, EU), listed(world)) == (Action.NONE, (bad.manifest_digest,))


async def test_a_halt_is_not_forgotten_when_the_campaign_is_cancelled(world: World) -> None:
    bad = await halted(world, 5)
    (record,) = await world.campaigns.newest(1)
    await world.campaigns.cancel(record.id, caller="ann", reason="tidy up")

    await run(world, 6)

    assert listed(world) == (bad.manifest_digest,)


async def test_another_audience_is_not_told(world: World) -> None:
    await halted(world, 5, cohort=Cohort("lab"))

    await run(world, 6)

    assert (listed(world), listed(world, US)) == ((), ())


async def test_a_release_that_is_offered_again_is_off_the_list_and_on_it_after_the_next_halt(world: World) -> None:
    bad, worse = await halted(world, 5), await halted(world, 6)
    again = await world.start(bad, AT_ONCE, POLICY, EU)
    await world.live()
    assert (action_in(world, EU), listed(world)) == (Action.OFFER, (worse.manifest_digest,))

    await world.campaigns.halt(again, caller="ann", reason="smoke again")

    assert listed(world) == tuple(sorted([bad.manifest_digest, worse.manifest_digest]))


async def test_a_halt_of_half_a_year_ago_is_no_longer_named(world: World, store: Database) -> None:
    await halted(world, 5)
    async with store.transaction() as connection:
        await connection.execute(
            "UPDATE campaign SET halted_at = halted_at - $1::interval", timedelta(days=180, hours=1)
        )

    await run(world, 6)

    assert listed(world) == ()


async def test_of_many_halts_the_newest_are_named(world: World) -> None:
    releases = []
    for number in range(5, 5 + HALTED_MOST + 2):
        world.now += 1
        releases.append(await halted(world, number))

    await run(world, 50)

    assert listed(world) == tuple(sorted(release.manifest_digest for release in releases[2:]))
