"""What the publisher puts at the broker and takes off it, as campaigns come and go; the broker is a dictionary here."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib import resources
from pathlib import Path
from uuid import uuid4

import pytest

from firmware_store.errors import OverBudgetError
from server.db.bundles import BundleRecord
from server.db.database import Database
from server.domain.campaign import State
from server.domain.identity import CampaignId, Region
from server.domain.plan import Gate, Plan, Policy, Wave
from server.protocol.orders import Action
from server.protocol.sources import Transport
from server.services.blob_wire import TOMBSTONE
from server.services.drafts import Draft
from server.services.publisher import PLAN_S, RETRY_S, WITHDRAWN_KEPT
from server.services.tickets import LEAST_VALID_S
from tests.records import EU, LAB, MAIN, US, add_bundle
from tests.service_world import GRACE_S, World

PLAN = Plan(waves=(Wave(ratio=1.0, count=None, gate=Gate(manual=True)),))
POLICY = Policy(halt=LAB)
URL = "https://updates.example.com"
KIB = 1024


@pytest.fixture
def world(store: Database, tmp_path: Path) -> World:
    return World(store, tmp_path)


async def add(world: World, *blobs: bytes) -> BundleRecord:
    """A bundle of these blobs, which nobody has to verify here."""
    for blob in blobs:
        await world.blobs.put(sha256(blob).digest(), blob)
    sizes = {sha256(blob).digest(): len(blob) for blob in blobs}
    return await add_bundle(world.store, manifest_digest=sha256(uuid4().bytes).digest(), blobs=sizes)


async def run(world: World, bundle: BundleRecord, region: Region = EU) -> CampaignId:
    """Start a campaign as the database sees it; what else starting takes is not of interest here."""
    campaign = await world.campaigns.draft(Draft("spring", MAIN, (region,), bundle.id, PLAN, POLICY, "a"), caller="ann")
    now = datetime.fromtimestamp(world.now, UTC)
    await world.repository.save(replace(campaign, state=State.RUNNING, started_at=now, run_at=now))
    return campaign.id


async def end(world: World, campaign: CampaignId, state: State = State.CANCELLED) -> None:
    halted_at = datetime.fromtimestamp(world.now, UTC) if state is State.HALTED else None
    record = await world.campaign(campaign)
    await world.repository.save(replace(record, state=state, halted_at=halted_at))


def at_broker(world: World) -> set[bytes]:
    return {blob for topic, blob in world.shelf.retained.items() if world.topics.is_blob(topic)}


def sent(world: World, blob: bytes) -> list[bytes]:
    """What was ever published on the topic of a blob."""
    topic = world.topics.blob(sha256(blob).digest())
    return [payload for where, payload in world.shelf.published if where == topic]


async def is_ready(world: World, campaign: CampaignId) -> bool:
    return (await world.campaign(campaign)).blobs_ready


# --- what campaigns need is there, and nothing else for long ---


async def test_blobs_of_a_campaign_are_published_once_and_then_its_levels_may_rise(world: World) -> None:
    bundle = await add(world, b"one", b"two")
    first = await run(world, bundle)
    await world.publish()
    second = await run(world, bundle, US)
    await world.publish()

    assert at_broker(world) == {b"one", b"two"}
    assert sent(world, b"one") == [b"one"]
    assert await is_ready(world, first)
    assert await is_ready(world, second)


async def test_what_no_campaign_needs_stays_for_a_grace_and_is_overwritten_before_it_is_cleared(world: World) -> None:
    campaign = await run(world, await add(world, b"one"))
    await world.publish()
    await end(world, campaign)
    await world.publish()
    assert at_broker(world) == {b"one"}

    world.now += GRACE_S
    await world.publish()

    assert at_broker(world) == set()
    assert sent(world, b"one") == [b"one", TOMBSTONE, b""]


async def test_what_is_needed_again_within_the_grace_is_not_sent_again(world: World) -> None:
    bundle = await add(world, b"one")
    await end(world, await spread(world, bundle))
    await world.publish()

    again = await run(world, bundle)
    await world.publish()
    world.now += GRACE_S
    await world.publish()

    assert sent(world, b"one") == [b"one"]
    assert await is_ready(world, again)


async def spread(world: World, bundle: BundleRecord, region: Region = EU) -> CampaignId:
    campaign = await run(world, bundle, region)
    await world.publish()
    return campaign


async def test_blobs_of_a_halted_campaign_go_at_once_except_those_another_one_needs(world: World) -> None:
    halted = await spread(world, await add(world, b"shared", b"bad"))
    other = await spread(world, await add(world, b"shared", b"good"), US)

    await end(world, halted, State.HALTED)
    await world.publish()

    assert at_broker(world) == {b"shared", b"good"}
    assert sent(world, b"bad") == [b"bad", TOMBSTONE, b""]
    assert sent(world, b"shared") == [b"shared"]
    assert await is_ready(world, other)


async def test_a_halt_withdraws_what_a_slow_publication_has_not_published_yet(store: Database, tmp_path: Path) -> None:
    world = World(store, tmp_path, publish_bytes_per_s=KIB)
    campaign = await run(world, await add(world, *(bytes([number]) * KIB for number in range(4))))
    assert await world.publisher.round()
    before = len(at_broker(world))

    await end(world, campaign, State.HALTED)
    while await world.publisher.round():
        pass

    assert 0 < before < 4
    assert at_broker(world) == set()
    assert {len(payload) for _, payload in world.shelf.published[before:]} == {len(TOMBSTONE), 0}


async def test_a_halted_campaign_that_is_resumed_gets_its_blobs_back_before_its_levels_rise(world: World) -> None:
    await world.populate(3, EU)
    campaign = await world.start(await world.add_release(), PLAN, POLICY, EU)
    blobs = at_broker(world)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    await world.publish()
    withdrawn = at_broker(world)

    await world.campaigns.resume(campaign, caller="ann", reason="it was the kettle")
    await world.live(5)
    assert not await is_ready(world, campaign)
    await world.publish()
    await world.live(5)

    order = world.order(EU)
    assert order is not None
    assert order.action is Action.OFFER
    assert (withdrawn, at_broker(world)) == (set(), blobs)


# --- crashes, of either side ---


async def test_a_publisher_killed_half_way_leaves_the_rest_to_the_next(store: Database, tmp_path: Path) -> None:
    world = World(store, tmp_path, publish_bytes_per_s=KIB)
    blobs = {bytes([number]) * KIB for number in range(4)}
    campaign = await run(world, await add(world, *blobs))
    await world.publisher.round()
    before = at_broker(world)

    successor = World(store, tmp_path)
    successor.shelf = world.shelf
    successor.publisher = successor.new_publisher()
    await successor.publish()

    assert 0 < len(before) < 4
    assert at_broker(world) == blobs
    assert all(sent(world, blob) == [blob] for blob in before)
    assert await is_ready(world, campaign)


@pytest.mark.parametrize("is_told", [True, False], ids=["by what else it lost", "by a sample of blobs"])
async def test_a_broker_that_has_lost_its_store_gets_all_of_it_again(world: World, is_told: bool) -> None:
    campaign = await spread(world, await add(world, b"one", b"two"))
    world.shelf.retained.clear()

    if is_told:
        await world.publisher.forget()
        assert not await is_ready(world, campaign)
    else:
        assert world.shelf.up_since is not None
        world.shelf.up_since += 1
    await world.publish()

    assert at_broker(world) == {b"one", b"two"}
    assert await is_ready(world, campaign)


async def test_what_was_withdrawn_is_withdrawn_again_in_each_session_of_the_next_days(world: World) -> None:
    await end(world, await spread(world, await add(world, b"bad")), State.HALTED)
    await world.publish()
    since = world.shelf.up_since
    assert since is not None
    goes = [b"bad", TOMBSTONE, b""]

    for days in (1, 2):
        world.now += timedelta(days=days).total_seconds()
        world.shelf.up_since = world.now
        await world.publish()
        assert sent(world, b"bad") == goes + [TOMBSTONE, b""] * days
    world.now += WITHDRAWN_KEPT.total_seconds()
    await world.publish()
    world.shelf.up_since = world.now + 1
    await world.publish()

    assert len(sent(world, b"bad")) == 7


async def test_a_blob_that_cannot_be_read_is_tried_again_and_holds_up_no_other(world: World) -> None:
    poor = await run(world, await add(world, b"lost", b"kept"))
    await world.blobs.delete(sha256(b"lost").digest())
    sound = await spread(world, await add(world, b"other"), US)
    assert (await is_ready(world, poor), await is_ready(world, sound)) == (False, True)
    assert at_broker(world) == {b"kept", b"other"}

    await world.blobs.put(sha256(b"lost").digest(), b"lost")
    world.now += RETRY_S
    await world.publish()

    assert await is_ready(world, poor)


async def test_what_was_published_before_there_was_a_table_is_known_from_the_campaigns(
    world: World, store: Database
) -> None:
    active = await spread(world, await add(world, b"needed"))
    ended = await spread(world, await add(world, b"left"), US)
    await end(world, ended)
    migration = (resources.files("migrations") / "0014_add_published_blobs.sql").read_text(encoding="utf-8")
    async with store.transaction() as connection:
        await connection.execute("DELETE FROM published_blob; UPDATE campaign SET transport = NULL")
        await connection.execute(migration[migration.index("UPDATE campaign") :])
    world.now += 2 * GRACE_S
    world.publisher = world.new_publisher()

    await world.publish()
    world.now += 2 * GRACE_S
    await world.publish()

    assert (await world.campaign(active)).transport is Transport.MQTT
    assert sent(world, b"needed") == [b"needed"]
    assert sent(world, b"left") == [b"left", TOMBSTONE, b""]


# --- the budget ---


@pytest.fixture
def new_world(store: Database, tmp_path: Path) -> Callable[..., World]:
    def make(**settings: object) -> World:
        return World(store, tmp_path, **{"budget_bytes": 3 * KIB, **settings})  # type: ignore[arg-type]

    return make


A, B, C = (letter * KIB for letter in (b"a", b"b", b"c"))


async def test_blobs_that_campaigns_share_count_once(new_world: Callable[..., World]) -> None:
    world = new_world()
    first = await spread(world, await add(world, A, B))
    second = await spread(world, await add(world, A, B, C), US)

    assert at_broker(world) == {A, B, C}
    assert await is_ready(world, first)
    assert await is_ready(world, second)


async def test_a_campaign_that_does_not_fit_beside_the_others_is_http_only_and_says_so(
    new_world: Callable[..., World],
) -> None:
    world = new_world(public_url=URL)
    await spread(world, await add(world, A, B))
    campaign = await spread(world, await add(world, C, b"d" * KIB), US)

    record = await world.campaign(campaign)
    assert (record.transport, record.blobs_ready) == (Transport.HTTP, True)
    assert at_broker(world) == {A, B}
    sentence = "HTTP only: 2 KiB do not fit the budget of 3 KiB beside the 2 KiB of other campaigns"
    assert (await world.room.publication(record)).sentence == sentence
    assert [(one.kind, one.sentence) for one in await world.campaigns.decisions(campaign, 1)] == [
        ("transport", f"{sentence}.")
    ]


async def test_what_nobody_needs_makes_room_before_its_grace_is_over(new_world: Callable[..., World]) -> None:
    world = new_world()
    await end(world, await spread(world, await add(world, A)))
    await world.publish()
    world.now += 1
    await end(world, await spread(world, await add(world, B)))
    await world.publish()
    assert at_broker(world) == {A, B}

    await spread(world, await add(world, C, b"d" * KIB))

    assert at_broker(world) == {B, C, b"d" * KIB}


async def test_without_http_a_release_over_the_budget_is_refused_and_one_that_lost_a_race_waits(
    new_world: Callable[..., World],
) -> None:
    world = new_world()
    await world.populate(3, EU)
    too_large = Draft("spring", MAIN, (EU,), (await add(world, A, B, C, b"d")).id, PLAN, POLICY, "a")
    with pytest.raises(OverBudgetError, match="TIDEGATE_PUBLIC_URL") as caught:
        await world.campaigns.draft(too_large, caller="ann")
    assert (caught.value.needed_bytes, caught.value.budget_bytes) == (3 * KIB + 1, 3 * KIB)

    first = await spread(world, await add(world, A, B))
    second = await spread(world, await add(world, C, b"d"), US)
    record = await world.campaign(second)
    assert (record.transport, record.blobs_ready) == (None, False)
    assert (await world.room.publication(record)).sentence.startswith("waits for room: 1 KiB do not fit")

    await end(world, first)
    await world.publish()

    assert await is_ready(world, second)


@pytest.mark.parametrize("verb", ["start", "resume"])
async def test_a_campaign_that_would_not_fit_is_neither_started_nor_resumed_unless_it_supersedes(
    new_world: Callable[..., World], verb: str
) -> None:
    world = new_world()
    release = await world.add_release()
    draft = await world.campaigns.draft(Draft("spring", MAIN, (EU,), release.id, PLAN, POLICY, "a"), caller="ann")
    if verb == "resume":
        await world.campaigns.start(draft.id, caller="ann", reason="go")
        await world.campaigns.halt(draft.id, caller="ann", reason="smoke")
    await run(world, await add(world, A, B, C[: KIB - 100]))
    await world.publish()
    order: Callable[..., Awaitable[object]] = getattr(world.campaigns, verb)

    with pytest.raises(OverBudgetError):
        await order(draft.id, caller="ann", reason="because")
    await order(draft.id, caller="ann", reason="because", supersede=True)

    await world.publish()
    assert await is_ready(world, draft.id)


@pytest.mark.parametrize(("budget_bytes", "prefer"), [(1 << 20, Transport.MQTT), (0, Transport.HTTP)])
async def test_an_offer_says_by_which_way_first_and_gets_a_new_ticket_in_time(
    new_world: Callable[..., World], budget_bytes: int, prefer: Transport
) -> None:
    world = new_world(public_url=URL, budget_bytes=budget_bytes)
    await world.populate(3, EU)
    year = POLICY.model_copy(update={"offer_s": 365 * 86_400})
    campaign = await world.start(await world.add_release(), PLAN, year, EU)
    await world.live(5)
    first = world.order(EU)
    await world.live(LEAST_VALID_S / 2 + 60)
    later = world.order(EU)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    halt = world.order(EU)

    assert first is not None
    assert later is not None
    assert first.http is not None
    assert later.http is not None
    assert first.http[:2] == later.http[:2] == (prefer, URL)
    assert first.http.ticket < later.http.ticket
    assert halt is not None
    assert halt.http is None
    assert bool(at_broker(world)) is (prefer is Transport.MQTT)


async def test_an_offer_with_an_http_source_that_may_not_be_repeated_becomes_a_hold(
    new_world: Callable[..., World],
) -> None:
    world = new_world(public_url=URL)
    await world.populate(3, EU)
    release = await world.add_release()
    await world.start(release, PLAN, POLICY, EU)
    await world.live(5)
    topic = next(topic for topic in world.shelf.retained if topic.endswith("/directive"))
    offer = world.shelf.retained[topic]

    again = await world.directives.once_more(offer, State.RUNNING, now=world.now)
    held = await world.directives.once_more(offer, State.PAUSED, now=world.now)

    assert again is not None
    assert again.http is not None
    assert held is not None
    assert (held.action, held.http) == (Action.HOLD, None)


async def test_how_far_a_publication_is_can_be_seen(store: Database, tmp_path: Path) -> None:
    world = World(store, tmp_path, publish_bytes_per_s=KIB)
    campaign = await run(world, await add(world, A, B))
    drafted = await world.room.publication(await world.campaign(campaign))
    await world.publisher.round()

    found = await world.room.publication(await world.campaign(campaign))

    assert drafted.sentence == "2 KiB to be published"
    assert (found.transport, found.sentence) == (Transport.MQTT, "published 1 KiB of 2 KiB")
    assert found.progress == ((2, 2 * KIB), (1, KIB))
    world.publisher = world.new_publisher(bytes_per_s=1 << 20)
    await world.publish()
    assert world.metric("tidegate_broker_blob_bytes") == 2 * KIB
    assert world.metric("tidegate_broker_blob_backlog", work="publish") == 0


async def test_a_plan_is_made_anew_now_and_then_though_nothing_is_heard(world: World, store: Database) -> None:
    await spread(world, await add(world, b"one"))
    async with store.transaction() as connection:
        await connection.execute("UPDATE published_blob SET state = 'withdrawn'")

    world.now += PLAN_S
    await world.publish()

    assert sent(world, b"one") == [b"one", b"one"]
