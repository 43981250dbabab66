"""Canaries by name: who is let in, by which order, by what they are judged, and how that ends."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from firmware_store.errors import InvalidInputError
from server.db.database import Database
from server.db.devices import NewDevice
from server.domain.campaign import State
from server.domain.execution import State as Execution
from server.domain.gate import FULL, Ramp
from server.domain.identity import CampaignId, Cohort, DeviceId
from server.domain.plan import Plan, Policy, Wave
from server.protocol.orders import Action, Directive
from server.protocol.reasons import Reason
from server.protocol.topics import DeviceAudience
from server.services.device import Device
from server.services.drafts import Draft
from server.services.transitions import halted
from tests.records import EU, LAB, MAIN, US
from tests.service_world import World

POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
NAMES = (DeviceId("eu-007"), DeviceId("us-041"), DeviceId("us-002"))
REST = Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60)
PLAN = Plan(waves=(Wave(ratio=None, count=None, devices=NAMES, soak_s=60), REST))


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    """60 devices in each of two regions, all of them online with a factory image."""
    world = World(store, tmp_path)
    await world.populate(60, EU, US)
    return world


async def start(world: World, policy: Policy = POLICY) -> CampaignId:
    campaign = await world.start(await world.add_release(), PLAN, policy, EU, US)
    await world.live()
    return campaign


def own_orders(world: World) -> dict[DeviceId, Directive]:
    """What the broker retains for single devices."""
    orders = {
        audience.device: world.authority.read_directive(body)
        for audience, body in world.retained_directives().items()
        if isinstance(audience, DeviceAudience)
    }
    return dict(sorted(orders.items()))


def named(world: World, *names: DeviceId) -> list[Device]:
    return [device for name in names or NAMES if (device := world.fleet.get(name)) is not None]


async def test_named_devices_and_nobody_else_are_let_in_before_any_level_rises(world: World) -> None:
    campaign = await start(world)

    orders = own_orders(world)
    assert list(orders) == sorted(NAMES)
    assert {(order.action, order.campaign) for order in orders.values()} == {(Action.OFFER, campaign)}
    for region in (EU, US):
        assert world.due(campaign, region) == []
        order = world.order(region)
        assert order is not None
        assert order.ramp == Ramp.flat(0, order.ramp.t0 if order.ramp else 0)
    assert {order.ramp.l0 for order in orders.values() if order.ramp} == {FULL}
    opened = (await world.campaigns.decisions(campaign, 1))[0]
    assert opened.sentence == (
        "Wave 1 of 2 opens: 3 named devices. They are no random sample: guard rails and what they say themselves judge "
        "them, and no comparison."
    )


async def test_levels_rise_when_the_named_devices_are_through_the_gate(world: World) -> None:
    campaign = await start(world)
    for state in (Execution.DOWNLOADING, Execution.REBOOTING, Execution.TRIAL):
        await world.report(campaign, state, *named(world))
    await world.live(90)
    assert (await world.campaign(campaign)).wave == 0
    await world.report(campaign, Execution.CONFIRMED, *named(world))

    await world.live(20)

    assert (await world.campaign(campaign)).wave == 1
    assert len(world.due(campaign, EU)) > 0


async def test_named_devices_are_let_in_as_there_is_room(world: World) -> None:
    one = POLICY.model_copy(update={"in_flight_most": 1})
    campaign = await start(world, one)
    assert len(own_orders(world)) == 2  # one in each region
    first = next(name for name in own_orders(world) if name.startswith("us"))
    await world.report(campaign, Execution.DOWNLOADING, *named(world, first))
    await world.live()
    assert len(own_orders(world)) == 2

    await world.report(campaign, Execution.CONFIRMED, *named(world, first))
    await world.live()

    assert len(own_orders(world)) == 3


async def test_the_halt_rule_compares_named_devices_with_nobody(world: World) -> None:
    campaign = await start(world)
    record = await world.campaign(campaign)
    survey = await world.surveyor.survey(record, await world.campaigns.bundle_of(record), now=world.now)
    marked = survey.roster.population.named

    assert marked is not None
    assert {survey.roster.ids[index] for index in marked.nonzero()[0]} == set(NAMES)
    await world.report(campaign, Execution.REBOOTING, *named(world))
    for device in named(world):
        device.gone = True
    await world.live(150)

    ended = await world.campaign(campaign)
    assert ended.state is State.HALTED
    assert ended.sentence.endswith("The open wave's devices were named, so they are no random sample.")


@pytest.mark.parametrize("verb", ["halt", "cancel"])
async def test_what_was_offered_by_name_ends_with_the_campaign(world: World, verb: str) -> None:
    campaign = await start(world)

    await getattr(world.campaigns, verb)(campaign, caller="bob", reason="because")

    assert {order.action for order in own_orders(world).values()} == {Action.NONE}
    order = world.order(EU)
    assert order is not None
    assert order.action is (Action.HALT if verb == "halt" else Action.NONE)


async def test_a_campaign_that_ends_while_devices_are_let_in_by_name_leaves_them_no_offer(world: World) -> None:
    ends: list[asyncio.Task[object]] = []
    sign = world.directives.sign

    async def sign_slowly(order: Directive, of: State | None) -> bytes:
        if isinstance(order.audience, DeviceAudience) and not ends:
            act = world.campaigns.cancel(campaign, caller="bob", reason="because")
            ends.append(asyncio.create_task(act))
            await asyncio.wait(ends, timeout=0.3)  # it has read what there is to withdraw, and waits for this
        return await sign(order, of)

    world.directives.sign = sign_slowly
    campaign = await world.start(await world.add_release(), PLAN, POLICY, EU, US)
    await world.live()
    await asyncio.gather(*ends)

    assert len(ends) == 1
    assert {order.action for order in own_orders(world).values()} == {Action.NONE}


async def test_a_hold_of_the_cohort_stands_over_what_is_offered_by_name_and_offers_come_again_with_the_next_run(
    world: World,
) -> None:
    campaign = await start(world)
    await world.campaigns.pause(campaign, caller="bob", reason="because")
    held = world.order(US)
    assert held is not None
    assert held.action is Action.HOLD

    await world.campaigns.halt(campaign, caller="bob", reason="because")
    await world.report(campaign, Execution.FAILED, *named(world, NAMES[0]), reason=Reason.HEALTH_CHECK_FAILED)
    world.now += 1
    await world.campaigns.resume(campaign, caller="bob", reason="because")
    await world.publish()
    await world.live()

    again = {name for name, order in own_orders(world).items() if order.action is Action.OFFER}
    assert again == set(NAMES[1:])


async def test_an_offer_by_name_is_renewed_long_before_it_expires(world: World) -> None:
    await start(world, POLICY.model_copy(update={"offer_s": 240}))
    before = own_orders(world)

    await world.live(130)

    after = own_orders(world)
    assert all(after[name].expires > before[name].expires for name in NAMES)


async def test_a_plan_names_devices_of_its_campaign_alone(world: World) -> None:
    release = await world.add_release()
    await world.inventory.add([NewDevice(DeviceId("us-other"), US, Cohort("other"))])
    for stranger, regions in (("eu-999", (EU, US)), ("us-other", (EU, US)), ("us-002", (EU,))):
        wave = Wave(ratio=None, count=None, devices=(DeviceId("eu-007"), DeviceId(stranger)))
        draft = Draft("spring", MAIN, regions, release.id, Plan(waves=(wave, REST)), POLICY, "a test")

        with pytest.raises(InvalidInputError, match=f"Wave 1 names {stranger}") as caught:
            await world.campaigns.draft(draft, caller="ann")
        assert caught.value.pointer == "/plan/waves/0/devices"


@pytest.mark.parametrize(("verb", "action"), [("rollback", Action.NONE), ("resume", Action.OFFER)])
async def test_what_was_said_instead_of_an_offer_nobody_could_sign_the_end_of_is_taken_back(
    world: World, verb: str, action: Action
) -> None:
    campaign = await start(world)
    await world.report(campaign, Execution.DOWNLOADING, *named(world, NAMES[0]))
    await world.repository.save(halted(await world.campaign(campaign), now=datetime.fromtimestamp(world.now, UTC)))
    await world.directives.reissue(now=world.now)
    assert {order.action for order in own_orders(world).values()} == {Action.HALT}

    await getattr(world.campaigns, verb)(campaign, caller="bob", reason="because")
    await world.publish()
    await world.live()

    assert {order.action for order in own_orders(world).values()} == {action}
