"""Whole campaigns through the services on a real database: what the broker retains is what a device would obey."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from server.db.bundles import BundleRepository
from server.db.database import Database
from server.db.devices import NewDevice
from server.domain.campaign import Cause, State
from server.domain.execution import State as Execution
from server.domain.gate import DEAD_MAN_S, FULL
from server.domain.identity import CampaignId, DeviceId
from server.domain.plan import Gate, Plan, Policy, Wave
from server.protocol.messages import Counter
from server.protocol.orders import Action
from server.protocol.reasons import Reason
from server.protocol.topics import CohortAudience
from server.services.device import Device
from server.services.drafts import Draft
from server.services.orchestrator import rest_after
from tests.records import EU, LAB, MAIN, US, tally
from tests.service_world import World

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
CANARY = Wave(regions=(EU,), ratio=None, count=3, ramp_s=0, soak_s=60)
HALF = Wave(ratio=0.5, count=None, ramp_s=100, soak_s=60)
REST = Wave(ratio=1.0, count=None, ramp_s=100, soak_s=60)
PLAN = Plan(waves=(CANARY, HALF, REST))
SLOW = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=600),))
BY_THE_MINUTE = POLICY.model_copy(update={"halt": LAB.model_copy(update={"block_s": 60})})
A_LONG_REST_S = 20.0
AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    """60 devices in each of two regions, all of them online with a factory image."""
    world = World(store, tmp_path)
    await world.populate(60, EU, US)
    return world


async def update(world: World, campaign: CampaignId, *devices: Device) -> None:
    """Take devices all the way, in no time."""
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL, Execution.CONFIRMED):
        await world.report(campaign, state, *devices)


async def brick(world: World, campaign: CampaignId, *devices: Device) -> None:
    await world.report(campaign, Execution.REBOOTING, *devices)
    for device in devices:
        device.gone = True


async def fail_a_few(world: World, campaign: CampaignId) -> None:
    """Too many for a gate that allows 5 %, and too few to be sure of it."""
    due = world.due(campaign, EU)
    await world.report(campaign, Execution.CONFIRMED, *due[:35])
    await world.report(campaign, Execution.ROLLED_BACK, *due[35:40], reason=Reason.HEALTH_CHECK_FAILED)


async def update_all_due(world: World, campaign: CampaignId) -> None:
    started = await world.executions.progress(campaign)
    for region in (EU, US):
        await update(world, campaign, *(d for d in world.due(campaign, region) if d.id not in started))


async def state_of(world: World, campaign: CampaignId) -> State:
    return (await world.campaign(campaign)).state


async def start(world: World, plan: Plan = PLAN, policy: Policy = POLICY) -> CampaignId:
    return await world.start(await world.add_release(), plan, policy, EU, US)


# --- a good campaign ---


async def test_a_good_campaign_goes_from_its_canary_to_everybody_and_ends(world: World) -> None:
    campaign = await start(world)
    await world.live()
    assert len(world.due(campaign, EU)) == 3
    assert world.order(US) is None

    states = [await state_of(world, campaign)]
    while states[-1] is not State.FINISHED:
        await update_all_due(world, campaign)
        await world.live(20)
        states.append(await state_of(world, campaign))

    assert list(dict.fromkeys(states)) == [State.RUNNING, State.WATCHING, State.FINISHED]
    assert await tally(world.store, campaign) == {region: {(Execution.CONFIRMED, 0): 60} for region in (EU, US)}
    kinds = [decision.kind for decision in await world.campaigns.decisions(campaign, 100)]
    assert kinds[::-1] == ["start", "open_wave", "open_wave", "open_wave", "complete", "finish"]


async def test_the_end_of_a_campaign_is_a_signed_none_for_everybody(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    while await state_of(world, campaign) is not State.FINISHED:
        await update_all_due(world, campaign)
        await world.live(20)

    for region in (EU, US):
        order = world.order(region)
        assert order is not None
        assert order.action is Action.NONE


async def test_a_watched_campaign_that_is_paused_offers_nothing_and_is_watched_again_when_resumed(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    while await state_of(world, campaign) is not State.WATCHING:
        await update_all_due(world, campaign)
        await world.live(20)

    await world.campaigns.pause(campaign, caller="ann", reason="somebody called")
    await world.live()
    held = world.order(EU)
    paused = await state_of(world, campaign)
    await world.campaigns.resume(campaign, caller="ann", reason="it was nothing")
    await world.live(70)  # its last wave soaks

    assert held is not None
    assert (held.action, paused) == (Action.HOLD, State.PAUSED)
    assert await state_of(world, campaign) is State.WATCHING
    record = await world.campaign(campaign)
    assert record.watching_since is not None
    assert world.now - record.watching_since.timestamp() <= 20


async def test_no_wave_opens_before_the_blobs_are_at_the_broker(world: World) -> None:
    campaign = await start(world)
    record = await world.campaign(campaign)
    await world.repository.save(replace(record, blobs_ready=False))

    await world.live()

    assert world.order(EU) is None


@pytest.fixture
async def unknown(store: Database, tmp_path: Path) -> World:
    """40 devices that have never been heard from."""
    world = World(store, tmp_path)
    await world.inventory.add([NewDevice(device, EU, MAIN) for device in UNKNOWN])
    return world


UNKNOWN = [DeviceId(f"late-{number:02}") for number in range(40)]


async def test_a_canary_of_a_fleet_that_was_never_heard_from_is_no_more_than_a_canary(unknown: World) -> None:
    campaign = await unknown.start(await unknown.add_release(), Plan(waves=(CANARY, REST)), POLICY, EU)
    await unknown.live()
    await unknown.connect(*UNKNOWN)
    await unknown.live()

    assert len(unknown.due(campaign, EU)) == 3
    assert [d.kind for d in await unknown.campaigns.decisions(campaign, 9)] == ["open_wave", "start"]


async def test_a_canary_takes_in_devices_that_are_added_later_until_it_has_its_number(
    store: Database, tmp_path: Path
) -> None:
    """The rest of the fleet is elsewhere: a fleet of a few devices goes one by one."""
    world = World(store, tmp_path)
    others = [DeviceId(f"us-{number:02}") for number in range(60)]
    await world.inventory.add([NewDevice(device, US, MAIN) for device in others])
    await world.connect(*others)
    campaign = await start(world, Plan(waves=(CANARY, REST)))
    due = []
    for device in UNKNOWN[:4]:
        await world.live(15)
        due.append(len(world.due(campaign, EU)))
        await world.inventory.add([NewDevice(device, EU, MAIN)])
        await world.connect(device)

    assert due == [0, 1, 2, 3]


async def test_a_share_that_is_less_than_one_device_is_one_device(unknown: World) -> None:
    """A thousandth of 40 devices is nobody, as a rule, and a gate that waits for nobody's word never opens."""
    one = Wave(ratio=0.001, count=None, ramp_s=0, soak_s=10)
    campaign = await unknown.start(await unknown.add_release(), Plan(waves=(one, REST)), POLICY, EU)
    await unknown.connect(*UNKNOWN)
    await unknown.live()
    assert len(unknown.due(campaign, EU)) == 1

    await update_all_due(unknown, campaign)
    await unknown.live(20)

    assert (await unknown.campaign(campaign)).wave == 1


# --- the dead man's ramp ---


async def test_a_published_level_stops_by_itself_two_minutes_after_the_last_evaluation(world: World) -> None:
    await start(world, SLOW, BY_THE_MINUTE)
    await world.live()

    order = world.order(EU)
    assert order is not None
    assert order.ramp is not None
    assert order.ramp.t1 <= order.issued + DEAD_MAN_S
    assert order.ramp.level(order.issued + DEAD_MAN_S) == pytest.approx(FULL / 10, rel=0.05)  # the wave is some s old
    assert order.ramp.level(order.issued + 10 * DEAD_MAN_S) == order.ramp.l1


async def test_a_ramp_is_renewed_while_all_is_well_and_no_level_ever_falls(world: World) -> None:
    campaign = await start(world, SLOW, BY_THE_MINUTE)
    levels = []
    for _ in range(24):
        await world.live(30)
        await update_all_due(world, campaign)
        order = world.order(EU)
        assert order is not None
        assert order.ramp is not None
        levels.append(order.ramp.level(world.now))

    assert levels == sorted(levels)
    assert levels[-1] == FULL
    assert len([topic for topic, _ in world.shelf.published if topic.endswith("eu/cohort/main/directive")]) < 30


async def test_no_level_falls_when_a_wave_follows_a_wave(world: World) -> None:
    quick = Wave(ratio=0.3, count=None, ramp_s=7, soak_s=0)
    last = REST.model_copy(update={"ramp_s": 20})
    campaign = await start(world, Plan(waves=(quick, quick.model_copy(update={"ratio": 0.6}), last)))
    levels = []
    while not levels or levels[-1] < FULL:
        await world.live(2.37)
        await update_all_due(world, campaign)
        order = world.order(EU)
        assert order is not None
        assert order.ramp is not None
        levels.append(order.ramp.level(world.now))

    assert levels == sorted(levels)
    assert levels[-1] == FULL


async def test_an_offer_is_renewed_before_half_of_its_time_is_over(world: World) -> None:
    await start(world, AT_ONCE)
    await world.live()
    first = world.order(EU)

    await world.live(POLICY.offer_s / 2 - 15)
    assert world.order(EU) == first
    await world.live(20)
    second = world.order(EU)

    assert first is not None
    assert second is not None
    assert second.expires > first.expires
    assert first.counter < second.counter


# --- a bad campaign ---


async def test_a_release_that_bricks_is_halted_everywhere_and_says_why(world: World) -> None:
    campaign = await start(world, Plan(waves=(HALF.model_copy(update={"ramp_s": 0}), REST)))
    await world.live()
    await world.live(60)
    for step in range(0, 20, 5):
        for region in (EU, US):
            due = world.due(campaign, region)[step : step + 5]
            await brick(world, campaign, *due[:3])
            await update(world, campaign, *due[3:])
        await world.live()

    await world.live(LAB.g1_s)

    record = await world.campaign(campaign)
    assert record.state is State.HALTED
    assert record.sentence.startswith("Halted after")
    assert "updated devices went dark within 100 s of their reboot" in record.sentence
    for region in (EU, US):
        order = world.order(region)
        assert order is not None
        assert order.action is Action.HALT
    (halt,) = await world.campaigns.decisions(campaign, 1)
    assert (halt.kind, halt.actor, halt.sentence) == ("halt", "orchestrator", record.sentence)
    rule = halt.evidence["rule"]
    assert isinstance(rule, dict)
    assert (rule["call"], rule["channel"]) == ("halt", "g1")


async def test_a_missed_deadline_is_found_between_two_evaluations_and_ends_the_rest(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    await world.live()
    due = world.due(campaign, EU)
    await update(world, campaign, *due[:3])
    await world.live()
    world.now += LAB.g1_s + 1
    assert await world.orchestrator.judge_deadlines() == 0  # their deadlines come, and they were heard

    await brick(world, campaign, *due[3:5])
    world.orchestrator._urgent.clear()  # that the blobs are there was urgent
    resting = asyncio.create_task(world.orchestrator._rest(A_LONG_REST_S))
    world.now += LAB.g1_s + 1
    async with asyncio.timeout(A_LONG_REST_S / 2):
        await resting

    progress = await world.executions.progress(campaign)
    assert sum(one.state is Execution.SILENT for one in progress.values()) == 2
    assert await world.orchestrator.judge_deadlines() == 0


async def test_an_order_ends_the_rest_between_evaluations_and_news_does_not(world: World) -> None:
    resting = asyncio.create_task(world.orchestrator._rest(A_LONG_REST_S))

    world.orchestrator.note_news()
    done, _ = await asyncio.wait([resting], timeout=0.05)
    assert not done

    world.orchestrator.wake()
    async with asyncio.timeout(A_LONG_REST_S / 2):
        await resting


@pytest.mark.parametrize(("evaluation_s", "rest_s"), [(0, 0.1), (0.05, 0.45), (30, 1)])
def test_evaluations_take_a_tenth_of_the_time_but_come_each_second(evaluation_s: float, rest_s: float) -> None:
    assert rest_after(evaluation_s) == pytest.approx(rest_s)


async def test_nobody_is_judged_while_our_own_session_is_down_or_has_just_come_up(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    await world.live()
    await brick(world, campaign, *world.due(campaign, EU)[:20])
    world.now += LAB.g1_s + 1

    world.shelf.up_since = None
    await world.orchestrator.tick()
    world.shelf.up_since = world.now - 90
    await world.orchestrator.tick()
    assert await state_of(world, campaign) is not State.HALTED

    await world.live(LAB.weather_clears_s + LAB.g1_s + 20)
    assert await state_of(world, campaign) is State.HALTED


async def test_an_outage_of_a_whole_region_halts_nothing(world: World) -> None:
    campaign = await start(world, Plan(waves=(HALF, REST)))
    await world.live()
    await world.live(110)
    await world.report(campaign, Execution.REBOOTING, *world.due(campaign, EU))
    for device in world.fleet.members(MAIN, EU):
        device.gone = True

    for _ in range(10):
        await world.live(30)

    assert await state_of(world, campaign) is not State.HALTED


async def test_devices_that_say_themselves_that_they_failed_pause_the_campaign_by_its_gate(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    await world.live()
    await fail_a_few(world, campaign)

    await world.live(1)

    record = await world.campaign(campaign)
    assert (record.state, record.causes) == (State.PAUSED, frozenset({Cause.GATE}))
    order = world.order(EU)
    assert order is not None
    assert order.action is Action.HOLD


# --- what people order ---


async def test_a_pause_holds_and_a_resume_goes_on_from_the_same_level(world: World) -> None:
    slow = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=1000),))
    campaign = await start(world, slow)
    await world.live()
    await world.live(200)
    await world.campaigns.pause(campaign, caller="ann", reason="lunch")
    held = world.order(EU)
    assert held is not None
    assert held.action is Action.HOLD
    at_pause = (await world.campaign(campaign)).regions[0].ramp.l1
    await world.live(1000)

    await world.campaigns.resume(campaign, caller="ann", reason="back")
    await world.live()

    order = world.order(EU)
    assert order is not None
    assert order.ramp is not None
    assert order.action is Action.OFFER
    assert order.ramp.level(world.now) == pytest.approx(at_pause, rel=0.2)
    record = await world.campaign(campaign)
    assert record.regions[0].target == FULL


async def test_a_pause_of_a_person_is_not_ended_by_the_orchestrator(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    await world.live()
    await world.campaigns.pause(campaign, caller="ann", reason="lunch")

    for _ in range(10):
        await world.live(30)

    assert (await world.campaign(campaign)).causes == {Cause.OPERATOR}


async def test_a_halt_by_hand_reaches_every_region(world: World) -> None:
    campaign = await start(world)
    await world.live()

    record = await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    await world.live(60)

    assert record.sentence == "Halted by ann: smoke"
    for region in (EU, US):
        order = world.order(region)
        assert order is not None
        assert order.action is Action.HALT


async def test_what_a_person_says_is_what_the_record_says(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    await world.live()
    await fail_a_few(world, campaign)
    await world.live(1)

    await world.campaigns.pause(campaign, caller="ann", reason="let me look")
    await world.campaigns.cancel(campaign, caller="bob", reason="it is the wrong bundle")

    said = [(d.actor, d.sentence) for d in await world.campaigns.decisions(campaign, 2)]
    assert said == [("bob", "it is the wrong bundle"), ("ann", "let me look")]


async def test_cancelling_a_draft_gives_no_orders(world: World) -> None:
    release = await world.add_release()
    draft = await world.campaigns.draft(Draft("d", MAIN, (EU,), release.id, None, POLICY, "r"), caller="ann")

    await world.campaigns.cancel(draft.id, caller="ann", reason="no")

    assert world.order(EU) is None


async def test_a_halted_campaign_makes_room_for_a_better_one(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    await world.live()
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    release = await world.add_release(2)

    better = await world.start(release, AT_ONCE, POLICY, EU, US)
    await world.live(1)
    await world.campaigns.cancel(campaign, caller="ann", reason="tidy up")

    order = world.order(EU)
    assert order is not None
    assert (order.action, order.campaign) == (Action.OFFER, better)


# --- the broker and its copies ---


async def test_an_order_that_the_broker_did_not_take_is_published_at_the_next_evaluation(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    await world.live()
    world.shelf.refuses = True
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    world.shelf.refuses = False

    await world.live(1)

    order = world.order(EU)
    assert order is not None
    assert order.action is Action.HALT


async def test_a_broker_restored_from_an_old_copy_is_repaired(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    await world.live()
    old = dict(world.shelf.retained)
    await world.campaigns.halt(campaign, caller="ann", reason="smoke")
    world.shelf.retained = old

    lost = await world.directives.repair(world.retained_directives(), now=world.now)

    assert not lost
    order = world.order(EU)
    assert order is not None
    assert order.action is Action.HALT


async def test_a_broker_that_lost_everything_is_told_so_and_filled_again(world: World) -> None:
    campaign = await start(world, AT_ONCE)
    await world.live()
    before = world.order(EU)
    world.shelf.retained.clear()

    assert await world.directives.repair({}, now=world.now)
    await world.publisher.forget()

    assert world.order(EU) == before
    assert not (await world.campaign(campaign)).blobs_ready


async def test_a_counter_that_a_device_is_ahead_with_is_passed(world: World) -> None:
    """The database is a copy of yesterday's: what devices hold is newer than anything it knows."""
    await start(world, AT_ONCE)
    await world.live()
    order = world.order(EU)
    assert order is not None
    ahead = Counter(order.counter.epoch, order.counter.counter + 3_600_000)

    world.directives.note_held(CohortAudience(EU, MAIN), ahead, now=world.now)
    await world.directives.repair(world.retained_directives(), now=world.now)

    again = world.order(EU)
    assert again is not None
    assert ahead < again.counter
    assert (again.action, again.campaign, again.manifest_digest) == (
        order.action,
        order.campaign,
        order.manifest_digest,
    )


async def test_a_counter_from_beyond_belief_is_not_believed(world: World) -> None:
    await start(world, AT_ONCE)
    await world.live()
    before = world.order(EU)

    world.directives.note_held(CohortAudience(EU, MAIN), Counter(0, 1 << 62), now=world.now)
    await world.directives.repair(world.retained_directives(), now=world.now)

    assert world.order(EU) == before


# --- one bad campaign is one bad campaign ---


async def test_a_campaign_that_cannot_be_evaluated_does_not_stop_the_others(world: World, store: Database) -> None:
    broken = await world.start(await world.add_release(), AT_ONCE, POLICY, EU)
    sound = await world.start(await world.add_release(2), AT_ONCE, POLICY, US)
    async with store.transaction() as connection:
        await connection.execute("UPDATE campaign SET wave = 7 WHERE id = $1", broken)

    await world.live()

    assert await state_of(world, sound) is State.RUNNING
    order = world.order(US)
    assert order is not None
    assert order.campaign == sound


async def test_a_bundle_that_cannot_be_published_does_not_stop_the_others(world: World) -> None:
    plan = Plan(waves=(Wave(ratio=1.0, count=None, gate=Gate(manual=True)),))
    without_blobs, sound = await world.add_release(), await world.add_release(2)
    for release, region in ((without_blobs, EU), (sound, US)):
        await world.start(release, plan, POLICY, region)
    for digest in await BundleRepository(world.store).blobs(without_blobs.id):
        await world.blobs.delete(digest)
    await world.publisher.forget()

    await world.publish()

    ready = {record.regions[0].region: record.blobs_ready for record in await world.campaigns.newest(2)}
    assert ready == {EU: False, US: True}
