"""Late devices are let in: who is chosen, and what each of them is told."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_store.documents import Kind
from server.db.database import Database
from server.db.devices import NewDevice
from server.domain.execution import State
from server.domain.gate import DEAD_MAN_S, height
from server.domain.identity import CampaignId, DeviceId, Region
from server.domain.late import Waiting, choose
from server.domain.plan import Plan, Policy, Wave
from server.protocol.messages import Beat, Gone, Hello
from server.protocol.orders import Admit, Welcome, read_welcome
from server.protocol.reasons import Reason
from server.services.admits import ADMIT_S, Admits
from server.services.device import Device
from server.services.presence import WELCOME_AGAIN_S
from tests.agent_world import CAMPAIGN, OTHER_CAMPAIGN
from tests.records import EU, LAB, MAIN, US
from tests.service_world import HARDWARE, World
from tests.trust_fleet import VENDOR

NAMES = [DeviceId(f"gw-{number:04}") for number in range(3)]


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.inventory.add([NewDevice(name, EU, MAIN) for name in NAMES])
    return world


@pytest.fixture
def admits(world: World) -> Admits:
    return Admits(fleet=world.fleet, presence=world.presence)


def welcomes(world: World, device: DeviceId) -> list[Welcome]:
    bodies = [body for topic, body in world.shelf.published if topic == world.topics.welcome(EU, device)]
    return [read_welcome(world.authority.root.unseal(Kind.WELCOME, body).value) for body in bodies]


def grant(world: World, admits: Admits, *devices: DeviceId, campaign: CampaignId = CAMPAIGN) -> list[DeviceId]:
    return admits.grant(campaign, devices, until=world.now + ADMIT_S, now=world.now)


async def test_an_admit_comes_at_once_in_a_welcome_of_the_present_session(world: World, admits: Admits) -> None:
    await world.connect(*NAMES)

    told = grant(world, admits, NAMES[1])

    known = world.fleet.get(NAMES[1])
    assert known is not None
    assert told == [NAMES[1]]
    assert [welcome.admit for welcome in welcomes(world, NAMES[1])] == [None, Admit(CAMPAIGN, int(world.now + ADMIT_S))]
    assert welcomes(world, NAMES[1])[-1].nonce == known.nonce
    assert [welcome.admit for welcome in welcomes(world, NAMES[0])] == [None]


async def test_each_further_welcome_repeats_it_until_it_expires(world: World, admits: Admits) -> None:
    await world.connect(*NAMES)
    until = int(world.now + ADMIT_S)
    grant(world, admits, *NAMES)

    world.now = until - 1
    await world.connect(NAMES[0])
    world.now = until
    await world.connect(NAMES[0])

    assert [welcome.admit for welcome in welcomes(world, NAMES[0])[2:]] == [Admit(CAMPAIGN, until), None]


async def test_whoever_was_told_is_told_again_only_when_half_of_the_time_is_over(world: World, admits: Admits) -> None:
    await world.connect(*NAMES)
    grant(world, admits, *NAMES)
    told = []
    for _ in range(4):
        world.now += ADMIT_S / 4
        world.beat(*(device for device in world.fleet.members(MAIN, EU)))
        told.append(len(grant(world, admits, *NAMES)))

    assert told == [0, 3, 0, 3]


async def test_another_campaigns_admit_takes_the_place_of_the_first(world: World, admits: Admits) -> None:
    await world.connect(*NAMES)
    grant(world, admits, *NAMES)

    assert grant(world, admits, *NAMES, campaign=OTHER_CAMPAIGN) == NAMES
    last = welcomes(world, NAMES[2])[-1].admit
    assert last is not None
    assert last.campaign == OTHER_CAMPAIGN


async def test_nobody_is_told_who_is_not_there(world: World, admits: Admits) -> None:
    await world.connect(NAMES[0], NAMES[1])
    known = world.fleet.get(NAMES[0])
    assert known is not None
    world.presence.gone(known, Gone(b"bootboot", known.nonce))

    assert grant(world, admits, *NAMES, DeviceId("gw-unknown")) == [NAMES[1]]


async def test_a_device_that_comes_back_within_the_time_is_not_admitted_by_what_it_missed(
    world: World, admits: Admits
) -> None:
    await world.connect(NAMES[0])
    known = world.fleet.get(NAMES[0])
    assert known is not None
    world.presence.gone(known, Gone(b"bootboot", known.nonce))
    grant(world, admits, NAMES[0])

    await world.connect(NAMES[0])

    assert welcomes(world, NAMES[0])[-1].admit is None


async def test_a_beat_with_an_old_counter_does_not_take_an_admit_back(world: World, admits: Admits) -> None:
    await world.connect(NAMES[0])
    known = world.fleet.get(NAMES[0])
    assert known is not None
    grant(world, admits, NAMES[0])
    world.now += WELCOME_AGAIN_S

    world.presence.beat(known, Beat(b"bootboot", 5), world.now, region=US)

    bodies = [body for topic, body in world.shelf.published if topic == world.topics.welcome(US, NAMES[0])]
    last = read_welcome(world.authority.root.unseal(Kind.WELCOME, bodies[-1]).value)
    assert last.admit is not None


def test_an_admit_reaches_no_further_than_a_ramp() -> None:
    assert ADMIT_S <= DEAD_MAN_S


# --- those who have said that they are late ---

AT_ONCE = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))
POLICY = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
ONE_BY_ONE = POLICY.model_copy(update={"halt": LAB.model_copy(update={"region_room": 1, "slow_room": 1})})


async def start(world: World, policy: Policy = POLICY, plan: Plan = AT_ONCE) -> CampaignId:
    others = [DeviceId(f"other-{number:02}") for number in range(60)]
    await world.inventory.add([NewDevice(name, EU, MAIN) for name in others])
    await world.connect(*others, *NAMES)
    campaign = await world.start(await world.add_release(), plan, policy, EU)
    await tick(world, 8)
    return campaign


async def tick(world: World, seconds: int = 2) -> None:
    for _ in range(seconds):
        world.now += 1
        world.beat(*world.fleet.members(MAIN, EU))
        await world.orchestrator.tick()


def devices(world: World) -> list[Device]:
    return [device for name in NAMES if (device := world.fleet.get(name)) is not None]


def admitted(world: World) -> list[DeviceId]:
    return sorted(device.id for device in world.fleet.members(MAIN, EU) if device.admit is not None)


async def test_only_who_says_that_it_is_late_is_admitted(world: World) -> None:
    campaign = await start(world)
    held, late, at_work = devices(world)
    await world.report(campaign, State.DUE, held, reason=Reason.HELD)
    await world.report(campaign, State.DUE, late, at_work, reason=Reason.LATE)
    await world.report(campaign, State.DOWNLOADING, at_work)

    await tick(world)

    assert admitted(world) == [late.id]


async def test_nobody_is_admitted_to_a_campaign_that_is_held(world: World) -> None:
    campaign = await start(world)
    await world.report(campaign, State.DUE, *devices(world), reason=Reason.LATE)
    await world.campaigns.pause(campaign, caller="ann", reason="because")

    await tick(world)

    assert admitted(world) == []


async def test_a_crowd_is_admitted_as_there_is_room_from_the_lowest_on(world: World) -> None:
    campaign = await start(world, ONE_BY_ONE, Plan(waves=(Wave(ratio=None, count=2, ramp_s=0, soak_s=60),)))
    for _ in range(2):  # there is room for one: who waits takes none
        await world.report(campaign, State.DUE, *world.due(campaign, EU), reason=Reason.LATE)
        await tick(world, 8)
    first, second = sorted(world.due(campaign, EU), key=lambda device: height(campaign, device.id))

    assert admitted(world) == [first.id]
    await world.report(campaign, State.DOWNLOADING, first)
    await tick(world)
    assert admitted(world) == [first.id]
    await world.report(campaign, State.CANCELLED, first)
    await tick(world)
    assert admitted(world) == sorted([first.id, second.id])


# --- reboots ---


async def test_devices_of_a_site_reboot_one_after_the_other(world: World) -> None:
    campaign = await start(world, POLICY.model_copy(update={"site_reboots_most": 1}))
    order = world.order(EU)
    assert order is not None
    assert order.reboots_admitted
    everybody = devices(world)
    for device in everybody:
        device.site = "quay"
    everybody[2].held = True
    first, second = sorted(everybody[:2], key=lambda device: height(campaign, device.id))
    await world.report(campaign, State.INSTALLING, *everybody)
    await tick(world)

    assert rebooters(world) == {first.id}
    reboot = welcomes(world, first.id)[-1].reboot
    assert reboot is not None
    assert (reboot.campaign, reboot.until <= world.now + ADMIT_S) == (campaign, True)
    for state in (State.REBOOTING, State.TRIAL):
        await world.report(campaign, state, first)
        await tick(world)
        assert rebooters(world) == {first.id}
    await world.report(campaign, State.CONFIRMED, first)
    await tick(world)
    assert rebooters(world) == {first.id, second.id}


async def test_a_new_process_waits_until_what_the_one_before_has_granted_is_over(world: World) -> None:
    campaign = await start(world, POLICY.model_copy(update={"site_reboots_most": 1}))
    await world.report(campaign, State.INSTALLING, *devices(world))
    world.now += 1
    world.orchestrator._since = datetime.fromtimestamp(world.now, UTC)

    await tick(world, ADMIT_S - 1)
    assert rebooters(world) == set()
    await tick(world)

    assert rebooters(world) == set(NAMES)


async def test_nobody_waits_to_reboot_where_nothing_bounds_it(world: World) -> None:
    campaign = await start(world)
    for device in devices(world):
        device.site = "quay"
    await world.report(campaign, State.INSTALLING, *devices(world))
    await tick(world)

    order = world.order(EU)
    assert order is not None
    assert not order.reboots_admitted
    assert rebooters(world) == set()


def rebooters(world: World) -> set[DeviceId]:
    """Who was told that it may reboot."""
    return {device.id for device in world.fleet.members(MAIN, EU) if device.reboot_told_at}


def test_a_devices_site_is_its_label(world: World) -> None:
    device = devices(world)[0]
    hello = Hello(b"bootboot", VENDOR, HARDWARE, "0.1", (), "a", bytes(16), labels={"site": "quay"})

    world.fleet.greet(device, hello, world.now)

    assert device.site == "quay"


# --- whom ---

REGIONS = [Region("eu"), Region("us"), Region("ap")]


@given(
    st.lists(st.tuples(st.integers(0, 1 << 32), st.sampled_from(REGIONS), st.integers(0, 2)), max_size=60),
    st.integers(0, 60),
    st.dictionaries(st.sampled_from(REGIONS), st.integers(-1, 20)),
    st.lists(st.integers(-1, 20), max_size=3),
)
def test_no_room_is_ever_exceeded_and_nobody_is_passed_over(
    who: list[tuple[int, Region, int]], room: int, regions: dict[Region, int], classes: list[int]
) -> None:
    waiting = [Waiting(tall, DeviceId(f"gw-{n:04}"), place, kind) for n, (tall, place, kind) in enumerate(who)]
    in_classes = dict(enumerate(classes))

    chosen = choose(waiting, room=room, in_regions=regions, in_classes=classes)

    taken = [one for one in sorted(waiting) if one.device in set(chosen)]
    assert chosen == [one.device for one in taken]
    assert len(chosen) <= room
    by_region, by_class = Counter(one.region for one in taken), Counter(one.hardware for one in taken)
    assert all(number <= regions.get(region, 0) for region, number in by_region.items())
    assert all(number <= in_classes.get(kind, 0) for kind, number in by_class.items())
    for one in waiting:
        lower = [other for other in taken if other < one]
        if one.device not in chosen and len(lower) < room:
            assert sum(other.region == one.region for other in lower) >= regions.get(one.region, 0) or sum(
                other.hardware == one.hardware for other in lower
            ) >= in_classes.get(one.hardware, 0)
