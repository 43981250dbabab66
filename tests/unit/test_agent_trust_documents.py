"""Root and status on a device: how it follows them, and what each of them lets it do."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from device_sim.agent.events import Activate, Install, Persist, Publish, Subscribe
from device_sim.agent.session import ASK_AGAIN_S
from device_sim.agent.trust_store import AHEAD_MOST
from firmware_store.documents import MAX_DOCUMENT_BYTES, Kind, seal
from firmware_store.roles import RoleName
from server.domain.execution import State
from server.protocol.messages import Counter
from server.protocol.orders import Action, StatusRef
from server.protocol.reasons import Reason
from server.protocol.topics import CohortAudience, DeviceAudience
from tests.agent_world import CAMPAIGN, EPOCH, EU, MAIN, OTHER_CAMPAIGN
from tests.lab_server import digest_of
from tests.trust_world import DAY, OWN_CLASS, Authority, TrustWorld, authority, bundle_by

FIRST = authority()
BUNDLE = bundle_by(FIRST)
COHORT_TOPIC = "tg/1/eu/cohort/main/directive"
STATUS_TOPIC = "tg/1/trust/status"
FIRST_COUNTER = Counter(1, 1)
DIRECTIVE, SESSION, RELEASE, STATUS = RoleName.DIRECTIVE, RoleName.SESSION, RoleName.RELEASE, RoleName.STATUS


@pytest.fixture
def world(tmp_path: Path) -> TrustWorld:
    world = TrustWorld(tmp_path)
    world.connect()
    return world


def root_topic(version: int) -> str:
    return f"tg/1/trust/root/{version}"


# --- the walk ---


@pytest.mark.parametrize("order", list(permutations([2, 3, 4])), ids=str)
def test_roots_that_come_in_any_order_are_followed_one_step_at_a_time(world: TrustWorld, order: tuple[int]) -> None:
    second = FIRST.rotate(DIRECTIVE)
    third = second.rotate(RoleName.ROOT)
    roots = {2: second, 3: third, 4: third.rotate(SESSION)}

    for version in order:
        world.retain(root_topic(version), roots[version].sealed)

    assert world.root_version == 4
    assert world.agent.state.root == roots[4].sealed
    assert world.refusals == []


def test_a_root_is_known_after_a_restart(world: TrustWorld) -> None:
    world.publish_root(FIRST.rotate(DIRECTIVE))

    world.power_cycle()

    assert world.root_version == 2


def test_a_root_newer_than_the_kept_one_may_be_pinned_by_a_new_factory_image(world: TrustWorld) -> None:
    second = FIRST.rotate(DIRECTIVE)
    world.publish_root(second)
    world.first = second.rotate(DIRECTIVE)

    world.power_cycle()

    assert world.root_version == 3


def test_a_gap_is_waited_for(world: TrustWorld) -> None:
    second = FIRST.rotate(DIRECTIVE)
    third = second.rotate(DIRECTIVE)

    world.retain(root_topic(3), third.sealed)
    assert world.root_version == 1
    world.retain(root_topic(2), second.sealed)

    assert world.root_version == 3


def test_roots_too_far_ahead_are_asked_for_again(world: TrustWorld) -> None:
    roots = [FIRST]
    for _ in range(AHEAD_MOST + 3):
        roots.append(roots[-1].next())
    for following in reversed(roots[1:]):
        world.retain(root_topic(following.root.version), following.sealed)
    assert world.root_version < roots[-1].root.version

    world.told_root = roots[-1].root.version
    world.welcome()
    world.pass_time(2 * ASK_AGAIN_S)

    assert world.root_version == roots[-1].root.version


def test_a_root_that_came_before_changes_nothing(world: TrustWorld) -> None:
    second = FIRST.rotate(DIRECTIVE)
    world.publish_root(second)
    count = sum(isinstance(effect, Persist) for effect in world.effects)

    world.retain(root_topic(1), FIRST.sealed)
    world.retain(root_topic(2), second.sealed)

    assert world.refusals == []
    assert sum(isinstance(effect, Persist) for effect in world.effects) == count


def by_old_only(first: Authority) -> bytes:
    following = first.rotate(RoleName.ROOT)
    return seal(Kind.ROOT, following.root.payload(), first.signers[RoleName.ROOT])


def by_new_only(first: Authority) -> bytes:
    following = first.rotate(RoleName.ROOT)
    return seal(Kind.ROOT, following.root.payload(), following.signers[RoleName.ROOT])


def by_role(role: RoleName) -> Callable[[Authority], bytes]:
    return lambda first: seal(Kind.ROOT, first.next().root.payload(), first.signers[role])


def with_changes(**changes: object) -> Callable[[Authority], bytes]:
    return lambda first: first.follow(replace(first.root, **{"version": 2, **changes})).sealed


BAD_ROOTS: dict[str, tuple[Callable[[Authority], bytes], Reason]] = {
    "it skips a step": (with_changes(version=3), Reason.BAD_SUCCESSION),
    "it is the root that is in force": (lambda first: first.sealed, Reason.REPLAYED),
    "only the old root keys have signed it": (by_old_only, Reason.BAD_SIGNATURE),
    "only the new root keys have signed it": (by_new_only, Reason.BAD_SIGNATURE),
    "the release keys have signed it": (by_role(RELEASE), Reason.BAD_SIGNATURE),
    "the directive key has signed it": (by_role(DIRECTIVE), Reason.BAD_SIGNATURE),
    "the status key has signed it": (by_role(STATUS), Reason.BAD_SIGNATURE),
    "it is of another fleet": (with_changes(fleet=bytes(16)), Reason.WRONG_AUDIENCE),
    "another fleet's keys have signed it": (lambda _: authority("thief").next().sealed, Reason.BAD_SIGNATURE),
    "it drops the development flag": (with_changes(dev=False), Reason.BAD_SUCCESSION),
    "it is a status": (lambda first: first.status(), Reason.BAD_SIGNATURE),
    "it is garbage": (lambda _: b"\x9f\xff", Reason.MALFORMED),
    "it has a byte too many": (lambda first: first.next().sealed + b"\0", Reason.MALFORMED),
    "it is larger than a document may be": (lambda _: bytes(MAX_DOCUMENT_BYTES + 1), Reason.MALFORMED),
}


@pytest.mark.parametrize("name", BAD_ROOTS)
def test_a_root_is_refused_and_not_kept_when(world: TrustWorld, name: str) -> None:
    make, reason = BAD_ROOTS[name]

    world.retain(root_topic(2), make(FIRST))
    world.power_cycle()

    assert world.refusals == [reason]
    assert world.root_version == 1
    assert world.agent.state.root == b""


def test_a_bad_root_does_not_stand_in_the_way_of_the_good_one(world: TrustWorld) -> None:
    world.retain(root_topic(2), by_old_only(FIRST))

    world.retain(root_topic(2), FIRST.next().sealed)

    assert world.root_version == 2


def test_the_steps_before_a_bad_root_are_kept(world: TrustWorld) -> None:
    second = FIRST.rotate(DIRECTIVE)
    world.retain(root_topic(3), by_old_only(second))
    world.retain(root_topic(2), second.sealed)

    assert world.refusals == [Reason.BAD_SIGNATURE]
    assert world.root_version == 2
    assert world.agent.state.root == second.sealed


# --- after a rotation ---


def test_an_order_by_a_key_that_has_died_is_refused(world: TrustWorld) -> None:
    world.hold_blobs(BUNDLE)
    world.publish_root(FIRST.rotate(DIRECTIVE))

    world.retain(COHORT_TOPIC, world.seal_directive(world.make_directive(Action.OFFER, BUNDLE), FIRST.keys.directive))
    world.pass_time(100)

    assert world.refusals == [Reason.BAD_SIGNATURE]
    assert world.reports == []


def test_an_order_of_an_epoch_that_is_over_is_refused_whoever_signs(world: TrustWorld) -> None:
    world.publish_root(FIRST.rotate(DIRECTIVE))
    late = replace(world.make_directive(Action.OFFER, BUNDLE), counter=replace(FIRST_COUNTER, counter=99))

    world.retain(COHORT_TOPIC, world.seal_directive(late))

    assert world.refusals == [Reason.REPLAYED]


def test_counting_begins_anew_with_an_epoch(world: TrustWorld) -> None:
    world.direct(Action.HALT, BUNDLE, counter=replace(FIRST_COUNTER, counter=(1 << 63) - 1))
    world.publish_root(FIRST.rotate(DIRECTIVE))
    world.offer(BUNDLE)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_an_order_that_comes_before_its_root_is_not_lost(world: TrustWorld) -> None:
    second = FIRST.rotate(DIRECTIVE)
    world.authority, world.keys = second, second.keys
    world.offer(BUNDLE)
    assert world.refusals == [Reason.BAD_SIGNATURE]

    world.publish_root(second)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_a_written_release_waits_for_its_audience_to_be_told_anew(world: TrustWorld) -> None:
    written(world)
    world.publish_root(FIRST.rotate(DIRECTIVE))
    world.retained.pop(COHORT_TOPIC)
    world.answers_reports = True
    world.pass_time(300)
    assert world.states[-1] in {State.INSTALLING, State.REBOOTING}
    assert not world.did(Activate)

    world.direct(Action.OFFER, BUNDLE)
    world.pass_time(100)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_a_halt_by_a_key_that_died_still_keeps_the_release_from_starting(world: TrustWorld) -> None:
    world.direct(Action.HALT, BUNDLE)
    world.publish_root(FIRST.rotate(DIRECTIVE))
    world.hold_blobs(BUNDLE)

    world.direct(Action.OFFER, BUNDLE, audience=DeviceAudience(EU, world.device_id))
    world.pass_time(100)

    assert world.reports == []


def test_an_offer_by_a_key_that_died_does_not_stand_in_the_way_of_a_new_one(world: TrustWorld) -> None:
    world.direct(Action.OFFER, BUNDLE, audience=DeviceAudience(EU, world.device_id), expires=EPOCH + 1)
    world.publish_root(FIRST.rotate(DIRECTIVE))

    world.offer(BUNDLE)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_an_order_that_died_is_on_hold_after_a_restart_too(world: TrustWorld) -> None:
    world.direct(Action.HALT, BUNDLE)
    world.publish_root(FIRST.rotate(DIRECTIVE))
    world.power_cycle()
    world.connect()

    order = world.agent._situation.directives.order(CAMPAIGN, BUNDLE.manifest_digest)

    assert order.action is Action.HOLD


def test_a_welcome_by_a_session_key_that_dies_holds_no_longer(world: TrustWorld) -> None:
    world.answers_hello = False
    world.publish_root(FIRST.rotate(SESSION))
    world.offer(BUNDLE)
    world.pass_time(5)
    assert world.reports == []

    world.answers_hello = True
    world.pass_time(80)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert world.hellos[-1].root_version == 2


def test_a_welcome_by_a_dead_key_is_refused(world: TrustWorld) -> None:
    world.publish_root(FIRST.rotate(SESSION))
    world.answers_hello = False
    world.disconnect()
    world.connect()
    world.hold_blobs(BUNDLE)
    world.direct(Action.OFFER, BUNDLE)

    world.welcome(signer=FIRST.keys.session)
    world.pass_time(100)

    assert Reason.BAD_SIGNATURE in world.refusals
    assert world.reports == []


def test_nothing_starts_while_the_welcome_knows_a_newer_root(world: TrustWorld) -> None:
    second = FIRST.next()
    world.told_root = 2
    world.welcome()
    world.offer(BUNDLE)
    world.pass_time(3 * ASK_AGAIN_S)
    assert world.outcome == (State.DUE, Reason.TRUST_BEHIND)
    assert not world.did(Install)

    world.retained[root_topic(2)] = second.sealed
    world.pass_time(61 + ASK_AGAIN_S)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


# --- the status ---


BAD_STATUSES: dict[str, tuple[Callable[[Authority], bytes], Reason]] = {
    "the directive key has signed it": (lambda first: first.status(signer=first.keys.directive), Reason.BAD_SIGNATURE),
    "the session key has signed it": (lambda first: first.status(signer=first.keys.session), Reason.BAD_SIGNATURE),
    "a release key has signed it": (lambda first: first.status(signer=first.keys.release[0]), Reason.BAD_SIGNATURE),
    "another fleet's key has signed it": (lambda _: authority("thief").status(), Reason.BAD_SIGNATURE),
    "it is of another fleet": (lambda first: first.status(fleet=bytes(16)), Reason.WRONG_AUDIENCE),
    "it is of an epoch that has not begun": (lambda first: first.status(epoch=2), Reason.REPLAYED),
    "it is a root": (lambda first: first.sealed, Reason.BAD_SIGNATURE),
    "it is garbage": (lambda _: b"\xff", Reason.MALFORMED),
}


@pytest.mark.parametrize("name", BAD_STATUSES)
def test_a_status_is_refused_and_not_kept_when(world: TrustWorld, name: str) -> None:
    make, reason = BAD_STATUSES[name]

    world.retain(STATUS_TOPIC, make(FIRST))
    world.power_cycle()

    assert world.refusals == [reason]
    assert world.status_version == 0
    assert world.agent.state.status == b""


def test_a_status_is_known_after_a_restart_and_told_in_hello(world: TrustWorld) -> None:
    world.publish_status(7)
    world.retained.clear()
    world.power_cycle()

    world.connect()

    assert (world.hellos[-1].root_version, world.hellos[-1].status_version) == (1, 7)


def test_an_older_status_is_a_replay(world: TrustWorld) -> None:
    world.publish_status(7, revoked_digests=frozenset({BUNDLE.manifest_digest}))

    world.retain(STATUS_TOPIC, FIRST.status(6))

    assert world.refusals == [Reason.REPLAYED]
    assert world.status_version == 7


def test_a_version_is_signed_once(world: TrustWorld) -> None:
    world.publish_status(7)

    world.retain(STATUS_TOPIC, FIRST.status(7, revoked_digests=frozenset({bytes(32)})))

    assert world.refusals == [Reason.REPLAYED]


def test_the_same_status_again_is_not_stored_again(world: TrustWorld) -> None:
    world.publish_status(7)
    count = sum(isinstance(effect, Persist) for effect in world.effects)

    world.publish_status(7)

    assert world.refusals == []
    assert sum(isinstance(effect, Persist) for effect in world.effects) == count


def test_the_status_of_a_new_epoch_may_count_from_one(world: TrustWorld) -> None:
    world.publish_status((1 << 63) - 1)
    world.publish_root(FIRST.rotate(STATUS))
    world.publish_status(1)

    assert world.status_version == 1
    assert world.hellos[-1].status_version == 0


def test_a_status_that_comes_before_its_root_is_not_lost(world: TrustWorld) -> None:
    second = FIRST.rotate(STATUS)
    world.retain(STATUS_TOPIC, second.status(3))

    world.publish_root(second)

    assert world.status_version == 3


def test_a_status_that_died_with_its_key_lets_nothing_start_until_the_next_one(world: TrustWorld) -> None:
    world.publish_status(5)
    world.publish_root(FIRST.rotate(STATUS, stolen=False))
    world.told_status = 0
    world.welcome()
    world.offer(BUNDLE)
    world.pass_time(3 * ASK_AGAIN_S)
    assert world.outcome == (State.DUE, Reason.TRUST_BEHIND)

    world.publish_status(6)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_a_fleet_without_a_status_needs_none(world: TrustWorld) -> None:
    world.offer(BUNDLE)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


@pytest.mark.parametrize("role", [DIRECTIVE, SESSION, RELEASE])
def test_the_status_takes_back_a_key_of(world: TrustWorld, role: RoleName) -> None:
    world.publish_status(1, revoked_kids=frozenset({FIRST.signers[role][0].public.kid}))

    world.offer(BUNDLE)
    world.pass_time(100)

    assert not world.did(Install)
    expected = {DIRECTIVE: [], SESSION: [], RELEASE: [State.DOWNLOADING, State.REJECTED]}
    assert world.states == expected[role]


def test_the_status_takes_back_no_root_key(world: TrustWorld) -> None:
    """Who holds the status key must not be able to keep out the root that replaces it."""
    world.publish_status(1, revoked_kids=frozenset(key.public.kid for key in FIRST.signers[RoleName.ROOT]))

    world.publish_root(FIRST.rotate(STATUS))

    assert world.root_version == 2


def test_nothing_starts_until_the_status_that_an_order_names_has_come(world: TrustWorld) -> None:
    world.publish_status(1)
    sealed = FIRST.status(2)
    named = StatusRef(2, digest_of(sealed))
    world.offer(BUNDLE, status=named)
    world.pass_time(5)
    assert world.reports == []
    world.pass_time(2 * ASK_AGAIN_S)
    assert world.outcome == (State.DUE, Reason.TRUST_BEHIND)

    world.retain(STATUS_TOPIC, sealed)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_another_text_under_the_version_that_an_order_names_is_not_enough(world: TrustWorld) -> None:
    world.publish_status(2)

    world.offer(BUNDLE, status=StatusRef(2, bytes(32)))
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.TRUST_BEHIND)


def test_an_order_may_name_an_older_status(world: TrustWorld) -> None:
    world.publish_status(3)

    world.offer(BUNDLE, status=StatusRef(2, bytes(32)))
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_a_written_release_waits_for_the_status_that_a_renewed_offer_names(world: TrustWorld) -> None:
    written(world)
    world.direct(Action.OFFER, BUNDLE, status=StatusRef(1, digest_of(FIRST.status(1))))
    world.answers_reports = True
    world.pass_time(100)
    assert not world.did(Activate)

    world.publish_status(1)
    world.pass_time(100)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


@pytest.mark.parametrize("action", [Action.HALT, Action.ROLLBACK])
def test_an_order_to_stop_waits_for_no_status(world: TrustWorld, action: Action) -> None:
    on_trial(world)

    world.direct(action, BUNDLE, status=StatusRef(99, bytes(32)))
    world.pass_time(5)

    assert world.outcome == (State.ROLLED_BACK, Reason.HALTED if action is Action.HALT else Reason.ROLLED_BACK)


def test_a_retained_status_is_asked_for_again(world: TrustWorld) -> None:
    world.retained[STATUS_TOPIC] = FIRST.status(4)
    world.told_status = 4
    world.welcome()

    world.pass_time(2 * ASK_AGAIN_S)

    assert Subscribe((STATUS_TOPIC,)) in world.effects
    assert world.status_version == 4


# --- what trust documents do to an update at work ---


def downloading(world: TrustWorld) -> None:
    world.disconnect()
    world.offer(BUNDLE)
    world.withhold(BUNDLE)
    world.connect()
    world.pass_time(1)
    assert world.last.state is State.DOWNLOADING


def written(world: TrustWorld) -> None:
    world.answers_reports = False
    world.offer(BUNDLE)
    world.pass_time(1)
    assert world.last.state is State.REBOOTING


def on_trial(world: TrustWorld) -> None:
    world.offer(BUNDLE)
    world.pass_time(5)
    assert world.last.state is State.TRIAL


def confirmed(world: TrustWorld) -> None:
    world.offer(BUNDLE)
    world.pass_time(100)
    assert world.last.state is State.CONFIRMED


def revoke(world: TrustWorld) -> None:
    world.publish_status(1, revoked_digests=frozenset({BUNDLE.manifest_digest}))


def revoke_a_signer(world: TrustWorld) -> None:
    world.publish_status(1, revoked_kids=frozenset({FIRST.keys.release[0].public.kid}))


def raise_the_floor(world: TrustWorld) -> None:
    world.publish_status(1, floors={OWN_CLASS: 2})


def raise_the_roots_floor(world: TrustWorld) -> None:
    world.publish_root(FIRST.next(floors={OWN_CLASS: 2}))


def steal_a_release_key(world: TrustWorld) -> None:
    world.publish_root(FIRST.rotate(RELEASE))


def retire_a_release_key(world: TrustWorld) -> None:
    world.publish_root(FIRST.rotate(RELEASE, stolen=False))


AT_WORK = {
    "the release is revoked": (revoke, Reason.REVOKED, True),
    "a key that signed it is revoked": (revoke_a_signer, Reason.REVOKED, True),
    "a key that signed it is dead": (steal_a_release_key, Reason.REVOKED, True),
    "a key that signed it has retired": (retire_a_release_key, Reason.BAD_SIGNATURE, False),
    "the status raises the floor above it": (raise_the_floor, Reason.OLDER_SEQUENCE, False),
    "the root raises the floor above it": (raise_the_roots_floor, Reason.OLDER_SEQUENCE, False),
}


@pytest.mark.parametrize("name", AT_WORK)
@pytest.mark.parametrize("stage", [downloading, written, on_trial, confirmed], ids=lambda stage: stage.__name__)
def test_an_update_at_work_when(world: TrustWorld, name: str, stage: Callable[[TrustWorld], None]) -> None:
    change, reason, ends_a_trial = AT_WORK[name]
    stage(world)

    change(world)
    world.settle()
    before_the_end = world.outcome
    world.answers_reports = True
    world.pass_time(100)

    if stage in {downloading, written}:
        assert (State.CANCELLED, reason) in {(report.state, report.reason) for report in world.reports}
        assert not world.did(Activate)
    elif stage is on_trial and ends_a_trial:
        assert before_the_end == (State.ROLLED_BACK, reason)
        assert world.booted == "a"
    else:
        assert world.outcome == (State.CONFIRMED, Reason.NONE)
        assert world.booted == "b"


@pytest.mark.parametrize("stage", [written, on_trial], ids=lambda stage: stage.__name__)
def test_who_signed_is_known_after_a_restart(world: TrustWorld, stage: Callable[[TrustWorld], None]) -> None:
    stage(world)
    world.power_cycle()
    world.connect()

    revoke_a_signer(world)
    world.settle()
    world.answers_reports = True
    world.pass_time(100)

    assert Reason.REVOKED in {report.reason for report in world.reports}
    assert world.booted == "a"


@pytest.mark.parametrize("change", [revoke, raise_the_floor, raise_the_roots_floor], ids=lambda one: one.__name__)
def test_an_offer_is_rejected_before_anything_is_fetched_when(
    world: TrustWorld, change: Callable[[TrustWorld], None]
) -> None:
    change(world)

    world.offer(BUNDLE)
    world.pass_time(100)

    reason = Reason.REVOKED if change is revoke else Reason.OLDER_SEQUENCE
    assert world.outcome == (State.REJECTED, reason)
    assert world.states == [State.REJECTED]
    assert world.fetched == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_release_at_the_floor_may_run(world: TrustWorld, number: int) -> None:
    world.publish_status(1, floors={OWN_CLASS: 2, bytes(16): 99})

    world.offer(bundle_by(FIRST, number, f"1.{number}.0"))
    world.pass_time(61)

    assert world.last.state is (State.REJECTED if number == 1 else State.CONFIRMED)


def test_a_rollback_never_goes_to_a_release_that_was_revoked_or_is_below_the_floor(world: TrustWorld) -> None:
    confirmed(world)
    newer = bundle_by(FIRST, 2, "1.2.0")
    world.offer(newer, campaign=OTHER_CAMPAIGN)
    world.pass_time(100)
    revoke(world)

    world.direct(Action.ROLLBACK, newer, campaign=OTHER_CAMPAIGN)
    world.pass_time(10)

    assert world.outcome == (State.CONFIRMED, Reason.NO_WAY_BACK)
    assert world.slots.slots()[1 if world.booted == "b" else 0].version == "1.2.0"


# --- expiry blocks starting and activating, and nothing else ---


def root_that_expires(world: TrustWorld, expires: int) -> None:
    world.publish_root(FIRST.next(expires=expires))


def status_that_expires(world: TrustWorld, expires: int) -> None:
    world.publish_status(1, expires=expires)


EXPIRING = {"root": root_that_expires, "status": status_that_expires}


@pytest.mark.parametrize("name", EXPIRING)
def test_nothing_starts_once_it_has_expired(world: TrustWorld, name: str) -> None:
    EXPIRING[name](world, world.server_now + 50)
    world.pass_time(51)

    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.EXPIRED)
    assert not world.did(Install)


@pytest.mark.parametrize("name", EXPIRING)
def test_nothing_is_activated_once_it_has_expired(world: TrustWorld, name: str) -> None:
    EXPIRING[name](world, world.server_now + 50)
    written(world)
    world.pass_time(51)
    world.answers_reports = True
    world.pass_time(100)

    assert not world.did(Activate)
    assert world.last.state is State.REBOOTING


@pytest.mark.parametrize("name", EXPIRING)
def test_a_trial_finishes_although_it_has_expired(world: TrustWorld, name: str) -> None:
    EXPIRING[name](world, world.server_now + 10)
    on_trial(world)
    world.pass_time(100)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


@pytest.mark.parametrize("name", EXPIRING)
@pytest.mark.parametrize("action", [Action.HALT, Action.ROLLBACK])
def test_an_order_to_stop_is_obeyed_although_it_has_expired(world: TrustWorld, name: str, action: Action) -> None:
    EXPIRING[name](world, world.server_now + 10)
    on_trial(world)
    world.pass_time(11)

    world.direct(action, BUNDLE, issued=EPOCH, expires=EPOCH + 1)
    world.pass_time(1)

    assert world.last.state is State.ROLLED_BACK


@pytest.mark.parametrize("name", EXPIRING)
def test_a_hold_is_obeyed_although_it_has_expired(world: TrustWorld, name: str) -> None:
    written(world)
    EXPIRING[name](world, world.server_now + 10)
    world.direct(Action.HOLD, BUNDLE, issued=EPOCH, expires=EPOCH + 1)
    world.answers_reports = True
    world.pass_time(30)

    assert not world.did(Activate)
    assert world.slot_states()["b"] == "bootable"


@pytest.mark.parametrize("name", EXPIRING)
def test_a_signed_end_is_obeyed_although_it_has_expired(world: TrustWorld, name: str) -> None:
    written(world)
    EXPIRING[name](world, world.server_now + 10)
    world.pass_time(11)

    world.direct(Action.NONE, issued=EPOCH, expires=EPOCH + 1)

    assert world.outcome == (State.CANCELLED, Reason.CAMPAIGN_ENDED)


@pytest.mark.parametrize("name", EXPIRING)
def test_a_fresh_one_lets_go_on_what_an_expired_one_stopped(world: TrustWorld, name: str) -> None:
    EXPIRING[name](world, world.server_now + 10)
    world.pass_time(11)
    world.offer(BUNDLE)
    world.pass_time(5)
    assert world.outcome == (State.DUE, Reason.EXPIRED)

    if name == "root":
        world.publish_root(world.authority.next(expires=EPOCH + 400 * DAY))
    else:
        world.publish_status(2)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


# --- the clock ---


def test_a_status_tells_a_device_that_its_server_lives_in_the_past(world: TrustWorld) -> None:
    world.publish_status(1, issued=EPOCH + 10 * DAY)

    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.EXPIRED)


def test_what_has_expired_in_this_boot_stays_so_in_a_session_that_turns_the_clock_back(world: TrustWorld) -> None:
    world.pass_time(5000)
    world.welcome()
    world.settle()
    world.answers_hello = False
    world.disconnect()
    world.connect()
    world.welcome(server_time=EPOCH)

    world.offer(BUNDLE, issued=EPOCH, expires=EPOCH + 2000)
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.EXPIRED)


def test_the_orders_of_a_device_tell_it_the_time_at_least(world: TrustWorld) -> None:
    world.direct(Action.NONE, audience=DeviceAudience(EU, world.device_id), issued=EPOCH + 50_000)

    world.offer(BUNDLE, audience=CohortAudience(EU, MAIN), expires=EPOCH + 40_000)
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.EXPIRED)


def test_a_clock_that_was_wrong_by_accident_is_right_again_after_a_reboot(world: TrustWorld) -> None:
    world.welcome(server_time=EPOCH + 5 * 365 * DAY)
    world.settle()
    world.power_cycle()
    world.connect()

    world.offer(BUNDLE)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_the_time_by_a_key_that_died_is_forgotten(world: TrustWorld) -> None:
    world.welcome(server_time=EPOCH + 5 * 365 * DAY)
    world.settle()

    world.publish_root(FIRST.rotate(SESSION))
    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


# --- saved before acted on ---


def test_a_root_is_saved_before_the_hello_that_tells_of_it(world: TrustWorld) -> None:
    count = len(world.effects)
    world.publish_root(FIRST.rotate(SESSION))
    world.pass_time(20)

    kinds = [type(effect) for effect in world.effects[count:] if isinstance(effect, Persist | Publish | Subscribe)]
    assert kinds[0] is Persist
