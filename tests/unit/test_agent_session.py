"""Sessions: what is said at the beginning, what is repeated, and how a device is moved."""

from pathlib import Path

import pytest

from device_sim.agent.events import Publish, Reconnect, Subscribe
from server.domain.execution import State
from server.domain.identity import Cohort, Region
from server.protocol.messages import Counter
from server.protocol.orders import Action
from server.protocol.reasons import Reason
from server.protocol.topics import CohortAudience
from tests.agent_world import CAMPAIGN, EU, MAIN, World, make_bundle

BUNDLE = make_bundle()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def published(world: World, kind: str) -> list[Publish]:
    return [effect for effect in world.effects if isinstance(effect, Publish) and effect.topic.endswith(kind)]


def test_a_session_begins_with_its_subscriptions_and_a_hello(world: World) -> None:
    world.connect()

    talk = [effect for effect in world.effects if isinstance(effect, Subscribe | Publish)]
    assert isinstance(talk[0], Subscribe)
    assert talk[0].topics == (
        "tg/1/trust/root/+",
        "tg/1/trust/status",
        "tg/1/eu/device/gw-0001/down/welcome",
        "tg/1/eu/device/gw-0001/down/ack",
        "tg/1/eu/device/gw-0001/down/directive",
        "tg/1/eu/cohort/main/directive",
    )
    assert isinstance(talk[1], Publish)
    assert (talk[1].topic, talk[1].qos) == ("tg/1/eu/device/gw-0001/up/hello", 1)


def test_a_hello_says_who_the_device_is_and_what_it_runs(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(61)

    first, second = world.hellos
    assert (first.vendor, first.hardware, first.booted) == ("acme.example", "gw100-rev-b", "a")
    assert [(slot.name, slot.version, slot.state) for slot in first.slots] == [
        ("a", "1.0.0", "confirmed"),
        ("b", "", "empty"),
    ]
    assert (second.booted, second.slots[1].version, second.slots[1].state) == ("b", "1.1.0", "trial")
    assert second.slots[1].manifest_digest == BUNDLE.manifest_digest
    assert second.execution is not None
    assert second.execution.state is State.TRIAL
    assert (first.boot_id, first.nonce) != (second.boot_id, second.nonce)


def test_an_unanswered_hello_is_said_again_less_and_less_often(world: World) -> None:
    world.answers_hello = False
    world.connect()
    world.pass_time(300)

    assert 5 <= len(world.hellos) <= 9
    assert len({hello.nonce for hello in world.hellos}) == 1


def test_a_welcomed_session_says_hello_once(world: World) -> None:
    world.connect()
    world.pass_time(3600)

    assert len(world.hellos) == 1


def test_beats_come_at_the_welcomes_interval_with_jitter(world: World) -> None:
    world.heartbeat_s = 10
    world.connect()
    world.pass_time(1000)

    assert 90 <= len(world.beats) <= 112
    assert all(effect.qos == 0 for effect in published(world, "beat"))


def test_a_beat_repeats_the_last_report_and_the_counter(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(200)

    last = world.beats[-1]
    assert last.execution == world.last
    assert last.cohort_counter == Counter(1, 1)
    assert last.uptime_s > 0


def test_an_unacknowledged_report_is_sent_again_until_it_is(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(59)
    world.answers_reports = False
    world.pass_time(300)
    final = [report for report in world.reports if report.state is State.CONFIRMED]
    world.answers_reports = True
    world.pass_time(61)
    count = len(world.reports)
    world.pass_time(1000)

    assert len(final) > 3
    assert len({report.sequence for report in final}) == 1
    assert len(world.reports) == count


def test_a_final_report_outlives_a_loss_of_power(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(59)
    world.answers_reports = False
    world.pass_time(5)
    world.power_cycle()
    world.reports.clear()

    world.answers_reports = True
    world.connect()
    world.settle()

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_an_acknowledged_report_is_not_sent_in_the_next_session(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(61)
    world.reports.clear()
    world.disconnect()

    world.connect()
    world.pass_time(600)

    assert world.reports == []


def test_report_numbers_rise_even_when_the_devices_storage_is_lost(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(61)
    before = world.last.sequence
    for path in (world.directory / "agent.cbor",):
        path.unlink()
    world.power_cycle()
    world.connect()

    world.offer(make_bundle(2, "1.2.0", signatures=1), campaign=CAMPAIGN)
    world.pass_time(10)

    assert world.last.state is State.REJECTED
    assert world.last.sequence > before


def test_a_directive_that_the_welcome_promises_is_asked_for_until_it_comes(world: World) -> None:
    world.counters["cohort"] = Counter(1, 9)
    world.connect()
    world.pass_time(35)

    asked = [effect for effect in world.effects if effect == Subscribe(("tg/1/eu/cohort/main/directive",))]
    assert len(asked) == 3
    world.counter = 9
    world.offer(BUNDLE)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_a_moved_device_begins_a_session_in_its_new_region(world: World) -> None:
    world.connect()
    world.region, world.cohort = Region("us"), Cohort("beta")

    world.welcome(server_time=world.server_now + 1)
    world.settle()

    assert world.did(Reconnect)
    assert published(world, "hello")[-1].topic == "tg/1/us/device/gw-0001/up/hello"
    assert "tg/1/us/cohort/beta/directive" in world.subscribed
    assert not any("/eu/" in topic for topic in world.subscribed)
    world.power_cycle()
    assert (world.agent.state.region, world.agent.state.cohort) == ("us", "beta")


def test_a_moved_device_obeys_its_new_cohort_only(world: World) -> None:
    world.connect()
    world.region, world.cohort = Region("us"), Cohort("beta")
    world.welcome(server_time=world.server_now + 1)
    world.settle()

    world.offer(BUNDLE)
    world.deliver("tg/1/us/cohort/beta/directive", world.retained["tg/1/eu/cohort/main/directive"])
    world.pass_time(5)
    assert world.refusals == [Reason.WRONG_AUDIENCE]
    world.counters.clear()
    world.offer(BUNDLE, audience=CohortAudience(Region("us"), Cohort("beta")))
    world.pass_time(70)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


@pytest.mark.parametrize("stage", ["downloading", "written", "trial"])
def test_a_move_ends_what_has_not_booted_and_lets_a_trial_finish(world: World, stage: str) -> None:
    world.offer(BUNDLE)
    if stage == "downloading":
        world.withhold(BUNDLE)
    world.answers_reports = stage != "written"
    world.connect()
    world.settle()
    world.counters.clear()

    world.region = Region("us")
    world.welcome(server_time=world.server_now + 1)
    world.settle()
    world.answers_reports = True
    world.hold_blobs(BUNDLE)
    world.pass_time(100)

    expected = (State.CONFIRMED, Reason.NONE) if stage == "trial" else (State.CANCELLED, Reason.CAMPAIGN_ENDED)
    assert world.outcome == expected


def test_a_device_that_comes_back_to_a_cohort_still_knows_its_counter(world: World) -> None:
    old = world.direct(Action.OFFER, BUNDLE)
    world.connect()
    world.direct(Action.HALT, BUNDLE)
    for region in (Region("us"), EU):
        world.region = region
        world.counters.clear()
        world.welcome(server_time=world.server_now + 1)
        world.settle()
        world.pass_time(2)

    world.retain("tg/1/eu/cohort/main/directive", old)
    world.pass_time(100)

    assert world.refusals[-1] is Reason.REPLAYED
    assert world.agent.state.held[f"cohort/{EU}/{MAIN}"].counter == Counter(1, 2)


def test_a_device_without_a_broker_is_quiet(world: World) -> None:
    world.offer(BUNDLE)
    world.pass_time(10_000)

    assert not any(isinstance(effect, Publish | Subscribe) for effect in world.effects)
