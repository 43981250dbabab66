"""Why a device does not update: each reason brought about by what people order and devices really say."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from server.db.bundles import BundleRepository
from server.db.database import Database
from server.db.devices import NewDevice
from server.domain.campaign import Membership
from server.domain.execution import State
from server.domain.gate import FULL, height
from server.domain.identity import CampaignId, Cohort, DeviceId
from server.domain.plan import Gate, MaintenanceWindow, Plan, Policy, Wave
from server.protocol.messages import Beat, Counter
from server.protocol.reasons import Reason
from server.protocol.topics import CohortAudience
from server.services.device import Device
from server.services.drafts import Draft
from server.services.why import Answer, Why
from server.services.why_facts import Outcome
from server.services.why_reasons import SAID
from tests.records import EU, LAB, MAIN, US
from tests.service_world import World

POLICY: Final = Policy(halt=LAB, trial_s=10, watch_s=500, offer_s=1000)
CANARY: Final = Wave(ratio=None, count=3, ramp_s=0, soak_s=60)
REST: Final = Wave(ratio=0.9, count=None, ramp_s=1000, soak_s=60)
PLAN: Final = Plan(waves=(CANARY, REST))
EVERYBODY: Final = Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=0, soak_s=60),))
FLEET: Final = 60


def why_of(world: World) -> Why:
    return Why(
        campaigns=world.repository,
        bundles=BundleRepository(world.store),
        devices=world.devices,
        executions=world.executions,
        fleet=world.fleet,
        directives=world.directives,
        evidence=world.evidence,
        wire=world.shelf,
        clock=lambda: world.now,
    )


@dataclass
class Scene:
    """A campaign, and its devices from the lowest height to the highest."""

    world: World
    campaign: CampaignId
    devices: list[Device]

    @property
    def first(self) -> Device:
        return self.devices[0]

    @property
    def last(self) -> Device:
        return self.devices[-1]

    async def of(self, device: Device) -> Answer:
        return await why_of(self.world).ask(device.id)


@pytest.fixture
async def world(store: Database, tmp_path: Path) -> World:
    world = World(store, tmp_path)
    await world.populate(FLEET, EU)
    return world


async def begin(world: World, plan: Plan = PLAN, policy: Policy = POLICY) -> Scene:
    campaign = await world.start(await world.add_release(7), plan, policy, EU)
    await world.live()
    members = sorted(world.fleet.members(MAIN, EU), key=lambda device: height(campaign, device.id))
    return Scene(world, campaign, members)


# --- what keeps one device: what is done to it or said by it, the check that fails first, and the sentence ---

Act = Callable[[Scene, Device], Awaitable[None]]


async def nothing(_scene: Scene, _device: Device) -> None: ...


async def hold(scene: Scene, device: Device) -> None:
    await scene.world.quarantine.hold(device.id, for_s=3600, reason="on the bench", caller="bob")


async def revoke(scene: Scene, device: Device) -> None:
    scene.world.fleet.shut_out(device.id, datetime.fromtimestamp(scene.world.now, UTC))


async def go_offline(_scene: Scene, device: Device) -> None:
    device.gone = True


async def fall_asleep(scene: Scene, device: Device) -> None:
    await scene.world.connect(device.id, wake_interval_s=36_000)
    device.gone = True


async def wake_up(scene: Scene, device: Device) -> None:
    await scene.world.connect(device.id, wake_interval_s=36_000)


async def run_it(scene: Scene, device: Device) -> None:
    bundle = await scene.world.campaigns.bundle_of(await scene.world.campaign(scene.campaign))
    await scene.world.report(scene.campaign, State.CONFIRMED, device)
    await scene.world.connect(device.id, digest=bundle.manifest_digest)


async def hold_an_old_order(scene: Scene, device: Device) -> None:
    """It is well and heard, and holds what it was told long ago: its subscription does not get through."""
    said = Beat(b"bootboot", 1, Counter(1, 5), health={"errors": 3})
    scene.world.presence.beat(device, said, scene.world.now, region=EU)


async def hold_the_order(scene: Scene, device: Device) -> None:
    current = scene.world.directives.counter(CohortAudience(EU, MAIN))
    scene.world.presence.beat(device, Beat(b"bootboot", 1, current), scene.world.now, region=EU)


async def die(scene: Scene, device: Device) -> None:
    await scene.world.die(scene.campaign, device)
    await scene.world.live(LAB.g1_s + 20)


def says(state: State, reason: Reason = Reason.NONE, **members: Any) -> Act:
    async def say(scene: Scene, device: Device) -> None:
        await scene.world.report(scene.campaign, state, device, reason=reason, **members)

    return say


CASES: Final[tuple[tuple[Act, str, str], ...]] = (
    (die, "outcome", "because it fell silent after its reboot"),
    (nothing, "", "Nothing that is known keeps NAME from updating"),
    (hold_the_order, "", "Nothing that is known keeps NAME from updating"),
    (hold, "held", "because it is held until 20"),
    (revoke, "enrolled", "because it is revoked: no broker lets it in."),
    (go_offline, "online", "because it is offline (last heard 2 min ago"),
    (fall_asleep, "online", "because it is asleep (last heard 2 min ago"),
    (wake_up, "admitted", "because it sleeps, so that it waits to be admitted."),
    (run_it, "outcome", "because it runs 1.1.0 already."),
    (says(State.DOWNLOADING), "", "NAME is updating: downloading since 2 min, attempt 1."),
    (says(State.TRIAL), "", "NAME is updating: trial since 2 min, attempt 1."),
    (says(State.DUE, Reason.LATE), "admitted", "because it was away when the level passed it, so that it waits to be"),
    (says(State.DUE, Reason.OUTSIDE_WINDOW), "said", "because it says that no maintenance window is open where it is"),
    (says(State.DUE, Reason.TRUST_BEHIND), "said", "because it says that it waits for a newer root or status"),
    (says(State.CANCELLED, Reason.CAMPAIGN_ENDED), "outcome", "ended as cancelled: no order named the campaign"),
    (
        says(State.FAILED, Reason.TOO_SLOW, attempt=3),
        "outcome",
        "because its attempt 3 of 3 ended as failed: less than",
    ),
    (
        says(State.FAILED, Reason.STORAGE_FULL, detail="12 MB short"),
        "outcome",
        "because its attempt 1 of 3 ended as failed: there is no room in its slot (12 MB short).",
    ),
    (
        says(State.REJECTED, Reason.UNKNOWN_COMPONENT),
        "outcome",
        "ended as rejected: the release has components that this device has not.",
    ),
    (
        says(State.ROLLED_BACK, Reason.HEALTH_CHECK_FAILED),
        "outcome",
        "ended as rolled_back: its own check says that the new image does not work.",
    ),
    (hold_an_old_order, "directive", "because it holds order 5, and the current one is 1"),
)


async def test_the_first_check_that_fails_is_the_reason(world: World) -> None:
    """A device for each of twenty reasons; two minutes later each answer is right, and says what would change it."""
    gate = Gate(confirmed_ratio=0, failure_ratio=1)
    everybody = EVERYBODY.waves[0].model_copy(update={"gate": gate, "soak_s": 5000})
    halt = LAB.model_copy(update={"halt_at": 1e9, "brake_at": 1e9, "bare_silent": 100})
    scene = await begin(world, Plan(waves=(everybody,)), POLICY.model_copy(update={"halt": halt}))
    await world.live(30)
    devices = scene.devices[: len(CASES)]
    for device, (act, _, _) in zip(devices, CASES, strict=True):
        await act(scene, device)
    world.now += 125
    world.beat(*(device for device in scene.devices if not device.gone))
    await hold_an_old_order(scene, devices[-1])

    wrong = {}
    for device, (_, check, wanted) in zip(devices, CASES, strict=True):
        answer = await scene.of(device)
        failing = [one.name for one in answer.checks if one.outcome is Outcome.FAILED]
        is_updating = answer.is_updating and not wanted.endswith("attempt 1.")
        remedies = all(one.changes for one in answer.checks if one.outcome is not Outcome.PASSED)
        sentence = wanted.replace("NAME", device.id)
        if sentence not in answer.sentence or failing[:1] != [check] * bool(check) or is_updating or not remedies:
            wrong[wanted] = (answer.sentence, failing)

    assert wrong == {}


async def test_what_keeps_the_whole_campaign_keeps_each_of_its_devices(world: World) -> None:
    scene = await begin(world)
    orders, said = world.campaigns, {}
    await orders.pause(scene.campaign, caller="bob", reason="lunch")
    said["paused"] = (await scene.of(scene.first)).sentence
    await world.report(scene.campaign, State.DOWNLOADING, scene.first)
    said["downloading"] = (await scene.of(scene.first)).sentence
    await orders.resume(scene.campaign, caller="bob", reason="coffee")
    world.shelf.up_since = None
    said["deaf"] = (await scene.of(scene.last)).sentence
    world.shelf.up_since = world.now - 1000
    await orders.halt(scene.campaign, caller="bob", reason="smoke")
    said["halted"] = (await scene.of(scene.last)).sentence
    await orders.cancel(scene.campaign, caller="bob", reason="enough")
    said["cancelled"] = (await scene.of(scene.last)).sentence

    assert said["paused"] == f"{scene.first.id} does not update because spring is paused (operator)."
    assert said["downloading"].endswith("attempt 1, but spring is paused (operator).")
    assert said["deaf"].endswith("because the server has no session at the broker.")
    assert said["halted"].endswith("because spring is halted: Halted by bob: smoke.")
    assert said["cancelled"].startswith(f"{scene.last.id} does not update because spring was cancelled")


# --- the others, who are above the level, or not of the campaign at all ---


async def test_who_is_above_the_level_is_told_by_how_much_and_when_it_is_reached(world: World) -> None:
    scene = await begin(world, Plan(waves=(CANARY, REST, EVERYBODY.waves[0])))
    reached = scene.campaign

    answer = await scene.of(scene.last)
    check = next(one for one in answer.checks if one.name == "level")

    mine = height(reached, scene.last.id) / FULL
    assert f"because its height is {mine:.2%} and the level of eu is" in answer.sentence
    record = await world.campaign(reached)
    opens = record.regions[0].planned.t1 + CANARY.soak_s
    low, wave = record.regions[0].target / FULL, 2 if mine < 0.9 else 3
    assert check.changes.startswith(f"wave {wave} of 3 reaches it, at 20")
    assert check.at is not None
    expected = opens + REST.ramp_s * (mine - low) / (0.9 - low) if wave == 2 else opens + REST.ramp_s + REST.soak_s
    assert abs(check.at - expected) < 10


async def test_the_time_that_was_foretold_is_the_time_at_which_the_device_becomes_due(world: World) -> None:
    scene = await begin(world, Plan(waves=(Wave(ratio=1.0, count=None, ramp_s=120, soak_s=60),)))
    check = next(one for one in (await scene.of(scene.last)).checks if one.name == "level")
    assert check.at is not None

    await world.live(check.at - world.now - 10)
    assert scene.last not in world.due(scene.campaign, EU)
    await world.live(30)

    assert scene.last in world.due(scene.campaign, EU)


async def test_the_holdout_is_told_that_no_wave_reaches_it(world: World) -> None:
    scene = await begin(world, EVERYBODY, POLICY.model_copy(update={"holdout": 0.5}))
    ours = max(world.fleet.members(MAIN, EU), key=lambda device: height(scene.campaign, device.id))

    answer = await scene.of(ours)

    assert height(scene.campaign, ours.id) > FULL // 2
    check = next(one for one in answer.checks if one.outcome is Outcome.FAILED)
    assert (check.name, "it belongs to the holdout" in answer.sentence, check.at) == ("level", True, None)


async def test_what_a_release_is_not_for_is_said(world: World) -> None:
    """Of another hardware, never seen, newer than the release, in another region, and in no campaign's cohort."""
    scene = await begin(world, EVERYBODY)
    other, newer = list(world.fleet.members(MAIN, EU))[:2]
    device = world.fleet._devices[other.id]
    device.be(device.vendor_id, b"another class id", "gw300")
    async with world.store.transaction() as connection:
        await connection.execute("UPDATE device SET running_sequence = 9 WHERE id = $1", newer.id)
    strangers = [NewDevice(DeviceId("new-1"), EU, MAIN), NewDevice(DeviceId("far-1"), US, MAIN)]
    await world.inventory.add([*strangers, NewDevice(DeviceId("lab-1"), EU, Cohort("lab"))])
    why = why_of(world)

    said = {
        "hardware": (await why.ask(other.id)).sentence,
        "version": (await why.ask(newer.id)).sentence,
        "seen": (await why.ask(DeviceId("new-1"))).sentence,
        "region": (await why.ask(DeviceId("far-1"), scene.campaign)).sentence,
        "nowhere": (await why.ask(DeviceId("far-1"))).sentence,
        "cohort": (await why.ask(DeviceId("lab-1"), scene.campaign)).sentence,
    }

    assert "1.1.0 is not for its hardware" in said["hardware"]
    assert "because it runs release number 9, and 1.1.0 has number 7" in said["version"]
    assert "because it has never said hello" in said["seen"]
    assert "it is in cohort main in region us, and spring is for cohort main in eu" in said["region"]
    assert said["nowhere"] == "far-1 does not update because no campaign is for cohort main in region us."
    assert "it is in cohort lab in region eu" in said["cohort"]


async def test_who_joined_after_the_start_of_a_snapshot_is_told_so(world: World) -> None:
    release = await world.add_release(7)
    draft = Draft("spring", MAIN, (EU,), release.id, EVERYBODY, POLICY, "a test", membership=Membership.SNAPSHOT)
    campaign = await world.campaigns.draft(draft, caller="ann")
    why, one = why_of(world), next(iter(world.fleet.members(MAIN, EU))).id
    drafted = (await why.ask(one)).sentence
    await world.campaigns.start(campaign.id, caller="ann", reason="because")
    waits = (await why.ask(one)).sentence
    await world.publish()
    world.now += 3600
    world.shelf.up_since = world.now - 1000
    await world.inventory.add([NewDevice(DeviceId("new-1"), EU, MAIN)])
    world.fleet.get(DeviceId("new-1")).member_since = world.now  # type: ignore[union-attr] - the inventory has its own clock
    await world.connect(DeviceId("new-1"))
    await world.live()

    assert drafted.endswith("does not update because spring is a draft.")
    assert waits.endswith("because the release's blobs are not at the broker yet.")
    assert "because it joined the cohort at" in (await why.ask(DeviceId("new-1"))).sentence


async def test_approvals_and_windows_are_named_with_what_is_missing(world: World) -> None:
    opens = datetime.fromtimestamp(world.now, UTC) + timedelta(hours=2)
    window = MaintenanceWindow(opens=f"{opens.minute} {opens.hour} * * *", duration_s=3600)
    policy = POLICY.model_copy(update={"approvals": 2, "windows": (window,)})
    draft = Draft("spring", MAIN, (EU,), (await world.add_release(7)).id, EVERYBODY, policy, "a test")
    campaign = await world.campaigns.draft(draft, caller="ann")
    await world.campaigns.submit(campaign.id, caller="ann", reason="please")
    why = why_of(world)
    one = min(world.fleet.members(MAIN, EU), key=lambda device: height(campaign.id, device.id)).id
    asked = (await why.ask(one)).sentence
    for name in ("bob", "eve"):
        await world.campaigns.approve(campaign.id, caller=name, reason="fine")
    await world.campaigns.start(campaign.id, caller="ann", reason="because")
    await world.publish()
    await world.live()

    answer = await why.ask(one)

    assert asked.endswith("because spring waits for 2 approvals.")
    assert "because no maintenance window is open for it (its clock is taken to be on UTC)" in answer.sentence
    check = next(each for each in answer.checks if each.name == "window")
    assert check.at == opens.replace(second=0, microsecond=0).timestamp()


async def test_who_waits_to_be_admitted_is_told_that_there_is_no_room(world: World) -> None:
    halt = LAB.model_copy(update={"region_room": 1, "class_room": 1, "slow_room": 1})
    scene = await begin(world, EVERYBODY, POLICY.model_copy(update={"halt": halt}))
    await world.report(scene.campaign, State.DOWNLOADING, scene.last)
    await world.report(scene.campaign, State.DUE, scene.first, reason=Reason.LATE)
    await world.live(3)

    answer = await scene.of(scene.first)

    assert "so that it waits to be admitted, and " in answer.sentence
    assert "the evidence so far leaves room for no more" in answer.sentence


def test_every_reason_has_words_and_what_would_change_it() -> None:
    assert set(SAID) == set(Reason)
    assert all(because and remedy for because, remedy in SAID.values())
