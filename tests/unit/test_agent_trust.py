"""The device's order of checks: each row a document that must not be believed, and what is said about it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from device_sim.agent.events import Activate, Install, Persist, Reboot
from device_sim.agent.trust import Trust, check_offer_time, own_floor, reason_of
from firmware_store.documents import Kind, seal
from firmware_store.errors import (
    CompatibilityError,
    ExpiredError,
    NotFoundError,
    RollbackError,
    SignatureError,
    TrustError,
)
from firmware_store.suit import class_id, vendor_id
from server.domain.execution import State
from server.domain.gate import FULL, Ramp
from server.domain.identity import Cohort, DeviceId, Region
from server.protocol.messages import Counter
from server.protocol.orders import Action, directive_map
from server.protocol.reasons import Reason
from server.protocol.topics import CohortAudience, DeviceAudience
from tests.agent_world import (
    CAMPAIGN,
    DEVICE,
    EPOCH,
    EU,
    HARDWARE,
    MAIN,
    OTHER_CAMPAIGN,
    VENDOR,
    World,
    dev_keys,
    make_bundle,
)

BUNDLE = make_bundle()
COHORT_TOPIC = "tg/1/eu/cohort/main/directive"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.hold_blobs(BUNDLE)
    world.connect()
    return world


def offer(world: World, **changes: object) -> bytes:
    return world.seal_directive(world.make_directive(Action.OFFER, BUNDLE, **changes))


def signed_by(role: str) -> Callable[[World], bytes]:
    keys = {"session": dev_keys().session, "release": dev_keys().release[0], "other": dev_keys("other").directive}
    return lambda world: world.seal_directive(world.make_directive(Action.OFFER, BUNDLE), keys[role])


def as_welcome(world: World) -> bytes:
    return seal(Kind.WELCOME, directive_map(world.make_directive(Action.OFFER, BUNDLE)), [world.keys.directive])


def with_unknown_key(world: World) -> bytes:
    document = {**directive_map(world.make_directive(Action.OFFER, BUNDLE)), 23: "surprise"}
    return seal(Kind.DIRECTIVE, document, [world.keys.directive])


REFUSED_DIRECTIVES: dict[str, tuple[Callable[[World], bytes], Reason]] = {
    "garbage": (lambda _: b"\xff\x00garbage", Reason.MALFORMED),
    "a depth bomb": (lambda _: b"\x81" * 5000 + b"\x01", Reason.MALFORMED),
    "more than a document may have": (lambda _: bytes(20_000), Reason.MALFORMED),
    "a byte too many": (lambda world: offer(world) + b"\x00", Reason.MALFORMED),
    "a key it does not know": (with_unknown_key, Reason.MALFORMED),
    "signed by the session key": (signed_by("session"), Reason.BAD_SIGNATURE),
    "signed by a release key": (signed_by("release"), Reason.BAD_SIGNATURE),
    "signed by another fleet's key": (signed_by("other"), Reason.BAD_SIGNATURE),
    "signed as a welcome": (as_welcome, Reason.BAD_SIGNATURE),
    "for another fleet": (lambda world: offer(world, fleet=bytes(16)), Reason.WRONG_AUDIENCE),
    "for another cohort": (
        lambda world: offer(world, audience=CohortAudience(EU, Cohort("beta"))),
        Reason.WRONG_AUDIENCE,
    ),
    "for the same cohort elsewhere": (
        lambda world: offer(world, audience=CohortAudience(Region("us"), MAIN)),
        Reason.WRONG_AUDIENCE,
    ),
    "for another device": (
        lambda world: offer(world, audience=DeviceAudience(EU, DeviceId("gw-0002"))),
        Reason.WRONG_AUDIENCE,
    ),
    "of an epoch that is over": (lambda world: offer(world, counter=Counter(0, 9)), Reason.REPLAYED),
    "of an epoch that has not begun": (lambda world: offer(world, counter=Counter(2, 1)), Reason.REPLAYED),
}


@pytest.mark.parametrize("name", REFUSED_DIRECTIVES)
def test_a_directive_is_refused_that_is(world: World, name: str) -> None:
    make, reason = REFUSED_DIRECTIVES[name]

    world.retain(COHORT_TOPIC, make(world))
    world.pass_time(100)

    assert world.refusals == [reason]
    assert world.reports == []
    assert world.beats[-1].health["errors"] == 1
    assert dict(world.agent.state.held) == {}
    assert not world.did(Install)


def test_an_empty_payload_is_not_an_order(world: World) -> None:
    world.offer(BUNDLE)
    world.pass_time(10)

    world.retain(COHORT_TOPIC, b"")
    world.pass_time(100)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert world.refusals == []


def test_a_lower_counter_is_a_replay(world: World) -> None:
    old = world.direct(Action.OFFER, BUNDLE, expires=EPOCH + 1)
    world.direct(Action.HALT, BUNDLE)

    world.retain(COHORT_TOPIC, old)
    world.pass_time(100)

    assert world.refusals[-1] is Reason.REPLAYED
    assert world.slot_states()["b"] == "empty"


def test_a_counter_is_signed_once(world: World) -> None:
    world.direct(Action.HALT, BUNDLE)
    twin = world.make_directive(Action.OFFER, BUNDLE, counter=Counter(1, world.counter))

    world.retain(COHORT_TOPIC, world.seal_directive(twin))
    world.pass_time(100)

    assert world.refusals[-1] is Reason.REPLAYED
    assert world.reports == []


def test_the_same_directive_again_is_no_replay(world: World) -> None:
    sealed = world.direct(Action.HALT, BUNDLE)

    world.retain(COHORT_TOPIC, sealed)

    assert world.refusals == []


def test_a_replay_is_known_after_a_restart(world: World) -> None:
    old = world.direct(Action.OFFER, BUNDLE, expires=EPOCH + 1)
    world.direct(Action.HALT, BUNDLE)
    world.power_cycle()
    world.connect()

    world.retain(COHORT_TOPIC, old)
    world.pass_time(100)

    assert world.refusals[-1] is Reason.REPLAYED
    assert world.slot_states()["b"] == "empty"


def test_counters_of_audiences_are_apart(world: World) -> None:
    world.direct(Action.OFFER, BUNDLE, audience=DeviceAudience(EU, DEVICE), counter=Counter(1, 1000))

    world.direct(Action.HALT, BUNDLE, counter=Counter(1, 5))
    world.pass_time(5)

    assert world.outcome == (State.ROLLED_BACK, Reason.HALTED)


def test_renewals_do_not_wear_the_flash(world: World) -> None:
    world.offer(BUNDLE)
    world.pass_time(100)
    saved = sum(isinstance(effect, Persist) for effect in world.effects)

    for _ in range(50):
        world.direct(Action.OFFER, BUNDLE)

    assert sum(isinstance(effect, Persist) for effect in world.effects) == saved
    assert world.agent.state.held["cohort/eu/main"].counter == Counter(1, world.counter)


def test_a_change_of_the_order_is_stored_before_it_is_acted_on(world: World) -> None:
    world.direct(Action.HALT, BUNDLE)

    world.power_cycle()

    assert world.agent.state.held["cohort/eu/main"].counter == Counter(1, 1)


def test_an_offer_without_a_welcome_starts_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.answers_hello = False
    world.offer(BUNDLE)

    world.connect()
    world.pass_time(1000)

    assert world.reports == []
    assert world.slot_states()["b"] == "empty"


def test_an_offer_that_the_welcome_says_is_old_starts_nothing(world: World) -> None:
    world.counters["cohort"] = Counter(1, 99)
    world.welcome()

    world.retain(COHORT_TOPIC, offer(world))
    world.pass_time(1000)

    assert world.reports == []
    assert world.slot_states()["b"] == "empty"


def test_a_halted_device_that_is_shown_only_the_old_offer_waits(world: World) -> None:
    """Somebody holds the broker's newest message back: the welcome knows better."""
    old = offer(world)
    world.direct(Action.HALT, BUNDLE)
    fresh = World(world.directory / "another", device_id=DEVICE)
    fresh.hold_blobs(BUNDLE)
    fresh.counters = world.counters
    fresh.retained[COHORT_TOPIC] = old

    fresh.connect()
    fresh.pass_time(1000)

    assert fresh.reports == []


def test_activation_needs_a_welcome_of_the_present_session(world: World) -> None:
    world.answers_reports = False
    world.offer(BUNDLE)
    world.pass_time(1)
    world.disconnect()
    world.answers_hello = False
    world.answers_reports = True

    world.connect()
    world.pass_time(1000)

    assert world.last.state is State.INSTALLING or world.last.state is State.REBOOTING
    assert not world.did(Activate)


def test_a_held_device_neither_starts_nor_activates(world: World) -> None:
    world.held = True
    world.welcome()

    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.HELD)
    assert world.slot_states()["b"] == "empty"


WELCOME_CHANGES: dict[str, tuple[dict[str, object], Reason]] = {
    "for another device": ({"device": DeviceId("gw-0002")}, Reason.WRONG_AUDIENCE),
    "for another fleet": ({"fleet": bytes(16)}, Reason.WRONG_AUDIENCE),
    "for another session": ({"nonce": bytes(16)}, Reason.REPLAYED),
    "signed by the directive key": ({"signer": dev_keys().directive}, Reason.BAD_SIGNATURE),
    "signed by another fleet": ({"signer": dev_keys("other").session}, Reason.BAD_SIGNATURE),
}


@pytest.mark.parametrize("name", WELCOME_CHANGES)
def test_a_welcome_is_refused_that_is(tmp_path: Path, name: str) -> None:
    changes, reason = WELCOME_CHANGES[name]
    world = World(tmp_path)
    world.answers_hello = False
    world.offer(BUNDLE)
    world.connect()

    world.welcome(**changes)
    world.pass_time(5)

    assert world.refusals == [reason]
    assert world.reports == []


def test_a_welcome_of_an_earlier_session_does_not_open_this_one(world: World) -> None:
    stale = world.nonce
    world.disconnect()
    world.answers_hello = False
    world.now += 1
    world.connect()
    world.offer(BUNDLE)

    world.welcome(nonce=stale)
    world.pass_time(100)

    assert world.reports == []


def test_an_old_welcome_of_this_session_does_not_turn_the_clock_back(world: World) -> None:
    world.pass_time(5000)
    world.welcome()
    world.welcome(server_time=EPOCH)
    world.settle()

    world.offer(BUNDLE, expires=EPOCH + 2000)
    world.pass_time(10)

    assert world.outcome == (State.DUE, Reason.EXPIRED)


@pytest.mark.parametrize(
    ("issued", "expires"), [(EPOCH, EPOCH + 1), (EPOCH + 10_000, EPOCH + 20_000)], ids=["expired", "from the future"]
)
def test_an_offer_out_of_its_time_starts_nothing_and_says_why(world: World, issued: int, expires: int) -> None:
    world.offer(BUNDLE, issued=issued, expires=expires, ramp=Ramp.flat(FULL))
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.EXPIRED)
    assert [state for state in world.states if state is not State.DUE] == []
    assert world.slot_states()["b"] == "empty"


def test_a_renewed_offer_starts_what_an_expired_one_did_not(world: World) -> None:
    world.offer(BUNDLE, issued=EPOCH, expires=EPOCH + 1)
    world.pass_time(100)

    world.offer(BUNDLE)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_an_offer_that_expires_after_the_download_is_not_activated_until_it_is_renewed(world: World) -> None:
    world.answers_reports = False
    world.offer(BUNDLE, expires=world.server_now + 20)
    world.pass_time(30)
    world.answers_reports = True
    world.pass_time(100)
    assert not world.did(Activate)

    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_an_offer_that_expires_during_a_trial_does_not_end_it(world: World) -> None:
    world.offer(BUNDLE, expires=world.server_now + 20)
    world.pass_time(70)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_an_expired_root_starts_nothing(world: World) -> None:
    root = world.keys.root
    eternal = world.make_directive(Action.OFFER, BUNDLE, issued=0, expires=1 << 40)

    check_offer_time(eternal, Trust(root), root.expires - 1)
    with pytest.raises(ExpiredError):
        check_offer_time(eternal, Trust(root), root.expires)


BAD_RELEASES: dict[str, tuple[dict[str, object], dict[str, object], Reason]] = {
    "signed by one key where two are needed": ({"signatures": 1}, {}, Reason.BAD_SIGNATURE),
    "signed by nobody": ({"signatures": 0}, {}, Reason.BAD_SIGNATURE),
    "signed by another fleet's keys": ({"signers": "other"}, {}, Reason.BAD_SIGNATURE),
    "for another hardware class": ({"hardware": ("gw100-rev-z",)}, {}, Reason.WRONG_CLASS),
    "of another vendor": ({"vendor": "evil.example"}, {}, Reason.WRONG_VENDOR),
    "offered under another manifest digest": ({}, {"manifest_digest": bytes(32)}, Reason.DIGEST_MISMATCH),
    "offered under another sequence number": ({}, {"sequence_number": 7}, Reason.OLDER_SEQUENCE),
}


@pytest.mark.parametrize("name", BAD_RELEASES)
def test_a_release_is_rejected_that_is(world: World, name: str) -> None:
    shape, changes, reason = BAD_RELEASES[name]
    bundle = make_bundle(3, "1.3.0", **shape)

    world.offer(bundle, **changes)
    world.pass_time(2000)

    assert world.outcome == (State.REJECTED, reason)
    assert world.states == [State.DOWNLOADING, State.REJECTED]
    assert world.slot_states()["b"] == "empty"
    assert not world.did(Install)


def test_a_release_for_several_classes_fits_each_of_them(world: World) -> None:
    world.offer(make_bundle(3, "1.3.0", hardware=("gw100-rev-a", HARDWARE)))
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


@pytest.mark.parametrize("components", [{"app"}, {"app", "rootfs", "radio"}, {"app", "radio"}])
def test_a_release_with_other_components_is_rejected(tmp_path: Path, components: set[str]) -> None:
    world = World(tmp_path, components=frozenset(components))
    world.offer(BUNDLE)
    world.connect()
    world.settle()

    assert world.outcome == (State.REJECTED, Reason.UNKNOWN_COMPONENT)


def test_a_release_with_an_image_for_each_slot_writes_the_one_for_the_slot_it_goes_to(world: World) -> None:
    world.offer(make_bundle(3, "1.3.0", slots=(0, 1)))
    world.pass_time(61)
    world.offer(make_bundle(4, "1.4.0", slots=(0, 1)), campaign=OTHER_CAMPAIGN)
    world.pass_time(61)

    assert world.image("b", "app").startswith(b"slot 1")
    assert world.image("a", "app").startswith(b"slot 0")
    assert world.booted == "a"


def test_a_release_without_an_image_for_the_slot_is_rejected(world: World) -> None:
    world.offer(make_bundle(3, "1.3.0", slots=(0, 2)))
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.UNKNOWN_COMPONENT)
    assert world.slot_states()["b"] == "empty"


def test_an_older_release_is_rejected_before_anything_is_fetched(world: World) -> None:
    world.offer(make_bundle(5, "1.5.0"))
    world.pass_time(61)
    world.fetched.clear()

    world.offer(make_bundle(4, "1.4.0"), campaign=OTHER_CAMPAIGN)
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.OLDER_SEQUENCE)
    assert world.fetched == []
    assert world.booted == "b"


def test_another_release_under_the_same_number_is_rejected(world: World) -> None:
    world.offer(make_bundle(5, "1.5.0"))
    world.pass_time(61)

    world.offer(make_bundle(5, "1.5.1"), campaign=OTHER_CAMPAIGN)
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.OLDER_SEQUENCE)


def test_the_order_of_releases_is_known_even_when_the_agents_state_is_lost(world: World) -> None:
    world.offer(make_bundle(5, "1.5.0"))
    world.pass_time(61)
    (world.directory / "agent.cbor").unlink()
    world.power_cycle()
    world.connect()

    world.offer(make_bundle(4, "1.4.0"), campaign=OTHER_CAMPAIGN)
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.OLDER_SEQUENCE)


def test_a_release_below_the_fleets_floor_is_rejected(tmp_path: Path) -> None:
    keys = dev_keys()
    own_class = class_id(vendor_id(VENDOR), HARDWARE)
    root = replace(keys.root, floors={own_class: 2})
    world = World(tmp_path, keys=replace(keys, root=root))
    world.offer(BUNDLE)
    world.connect()
    world.settle()

    assert own_floor(Trust(root), world.agent._situation.identity) == 2
    assert world.outcome == (State.REJECTED, Reason.OLDER_SEQUENCE)


def test_a_rejected_release_is_not_tried_again(world: World) -> None:
    world.offer(make_bundle(3, "1.3.0", signatures=1))
    world.pass_time(10)

    world.direct(Action.OFFER, make_bundle(3, "1.3.0", signatures=1))
    world.power_cycle()
    world.connect()
    world.pass_time(5000)

    assert world.states.count(State.REJECTED) == 1
    assert {report.attempt for report in world.reports} == {1}


def test_what_runs_already_is_not_installed_again(world: World) -> None:
    world.offer(BUNDLE)
    world.pass_time(61)
    count = len(world.reports)

    world.offer(BUNDLE, campaign=OTHER_CAMPAIGN)
    world.pass_time(1000)

    assert {report.campaign for report in world.reports} == {CAMPAIGN}
    assert len(world.reports) == count


def test_every_error_has_a_reason() -> None:
    assert reason_of(SignatureError("x")) is Reason.BAD_SIGNATURE
    assert reason_of(RollbackError("x")) is Reason.OLDER_SEQUENCE
    assert reason_of(CompatibilityError("x")) is Reason.WRONG_CLASS
    assert reason_of(TrustError("x")) is Reason.BAD_SIGNATURE
    assert reason_of(NotFoundError("x")) is Reason.MALFORMED


def test_a_message_on_somebody_elses_topic_is_refused(world: World) -> None:
    world.deliver("tg/1/eu/device/gw-0002/down/welcome", b"\xa0")
    world.deliver("tg/1/blob/nothing", b"x")
    world.settle()

    assert world.refusals == [Reason.MALFORMED, Reason.MALFORMED]
    assert not world.did(Reboot)
