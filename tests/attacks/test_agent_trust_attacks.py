"""Attacks on what a device trusts: roots, status documents, keys that have died, time. Each test is named after one.

The attacker owns the broker, and what each test says besides; the device installs nothing that the release keys of its
own fleet have not signed, or that they have taken back.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from device_sim.agent.events import Activate, Install
from device_sim.agent.state import AgentState, decode_state, encode_state
from device_sim.agent.storage import STATE_FILE
from firmware_store.documents import Kind, seal
from firmware_store.roles import RoleName
from server.domain.execution import State
from server.protocol.messages import Counter
from server.protocol.orders import Action, StatusRef, directive_map
from server.protocol.reasons import Reason
from tests.agent_world import EPOCH, EU, MAIN, PowerCutError
from tests.trust_world import DAY, OWN_CLASS, Authority, TrustWorld, authority, bundle_by

FIRST = authority()
THIEF = authority("thief")
BUNDLE = bundle_by(FIRST, 5, "1.5.0")
COHORT_TOPIC = "tg/1/eu/cohort/main/directive"
STATUS_TOPIC = "tg/1/trust/status"
ROOT, RELEASE, STATUS = RoleName.ROOT, RoleName.RELEASE, RoleName.STATUS
DIRECTIVE, SESSION = RoleName.DIRECTIVE, RoleName.SESSION


@pytest.fixture
def world(tmp_path: Path) -> TrustWorld:
    world = TrustWorld(tmp_path)
    world.connect()
    return world


def assert_nothing_installed(world: TrustWorld) -> None:
    assert not world.did(Activate)
    assert world.booted == "a"
    assert world.slot_states()["b"] in {"empty", "installing", "unbootable"}


def usurp(first: Authority) -> Authority:
    """The thief's keys in every role of the fleet's next root; who signs it is up to the test."""
    root = replace(THIEF.root, version=first.root.version + 1, fleet=first.root.fleet)
    return Authority(root, THIEF.sealed, THIEF.signers)


def offer_as(world: TrustWorld, thief: Authority) -> None:
    """The thief offers a release of their own, in a session of their own."""
    world.authority, world.keys = thief, replace(thief.keys, root=FIRST.root)
    world.welcome()
    world.offer(bundle_by(thief, 66, "6.6.6"))
    world.pass_time(100)


# --- the root ---


@pytest.mark.parametrize("kept_over_a_restart", [False, True])
@pytest.mark.parametrize(
    ("signed_by", "reason"),
    [
        ((), Reason.MALFORMED),
        (THIEF.signers[ROOT], Reason.BAD_SIGNATURE),
        (FIRST.signers[ROOT], Reason.BAD_SIGNATURE),
        (FIRST.signers[ROOT][:1] + THIEF.signers[ROOT], Reason.BAD_SIGNATURE),
        (FIRST.signers[RELEASE] + THIEF.signers[ROOT], Reason.BAD_SIGNATURE),
        (FIRST.signers[DIRECTIVE] + FIRST.signers[SESSION] + THIEF.signers[ROOT], Reason.BAD_SIGNATURE),
    ],
    ids=["nobody", "the new keys only", "the old keys only", "one old key and the new", "release keys", "online keys"],
)
def test_a_root_of_the_thiefs_own_signed_by(
    world: TrustWorld, *, signed_by: tuple, reason: Reason, kept_over_a_restart: bool
) -> None:
    usurper = usurp(FIRST)
    sealed = seal(Kind.ROOT, usurper.root.payload(), signed_by)
    world.retain("tg/1/trust/root/2", sealed)
    assert world.refusals == [reason]
    if kept_over_a_restart:
        world.power_cycle()
        world.connect()
        world.settle()

    offer_as(world, usurper)

    assert world.root_version == 1
    assert world.agent.state.root == b""
    assert_nothing_installed(world)


def test_a_bad_root_slipped_into_the_state_file_is_not_the_factorys(world: TrustWorld) -> None:
    """Even who can write the file gains nothing by another fleet's root, or by garbage."""
    path = world.directory / STATE_FILE
    for bad in (THIEF.next().sealed, b"garbage", usurp(FIRST).sealed):
        state = decode_state(path.read_bytes()) if path.exists() else AgentState(EU, MAIN)
        path.write_bytes(encode_state(replace(state, root=bad, status=b"garbage")))

        world.power_cycle()

        assert world.root_version == 1
        assert world.status_version == 0


def test_a_root_that_skips_a_step(world: TrustWorld) -> None:
    third = FIRST.follow(replace(FIRST.root, version=3))

    world.retain("tg/1/trust/root/2", third.sealed)
    world.retain("tg/1/trust/root/3", third.sealed)
    world.power_cycle()

    assert world.refusals == [Reason.BAD_SUCCESSION]
    assert world.root_version == 1


def test_a_root_of_another_fleet(world: TrustWorld) -> None:
    """Two fleets of one vendor, with the same root keys."""
    foreign = FIRST.follow(replace(FIRST.root, version=2, fleet=bytes(16)))

    world.retain("tg/1/trust/root/2", foreign.sealed)

    assert world.refusals == [Reason.WRONG_AUDIENCE]
    assert world.root_version == 1


def test_an_older_root_shown_to_a_device_that_has_gone_on(world: TrustWorld) -> None:
    second = FIRST.rotate(RELEASE)
    third = second.rotate(ROOT)
    world.publish_root(second)
    world.publish_root(third)

    for topic in ("tg/1/trust/root/2", "tg/1/trust/root/4"):
        world.retain(topic, second.sealed)
    world.power_cycle()

    assert world.root_version == 3
    assert world.agent.state.root == third.sealed


def test_a_root_that_brings_a_dead_key_back(world: TrustWorld) -> None:
    second = FIRST.rotate(RELEASE)
    world.publish_root(second)
    revived = second.follow(replace(FIRST.root, version=3))

    world.retain("tg/1/trust/root/3", revived.sealed)

    assert world.refusals == [Reason.BAD_SUCCESSION]
    assert world.root_version == 2


def test_a_thousand_roots_of_the_far_future(world: TrustWorld) -> None:
    """Unverified documents wait in memory: a bounded number of bounded size, and the next one still comes through."""
    for version in range(1000, 3, -1):
        world.retain(f"tg/1/trust/root/{version}", bytes(16_000))
    world.retain("tg/1/trust/root/999999999999999999999", b"x")
    second = FIRST.next()

    world.retain("tg/1/trust/root/2", second.sealed)

    assert len(world.agent._situation.store._ahead) <= 16
    assert world.root_version == 2


# --- keys of other roles, and keys that have died ---


@pytest.mark.parametrize("role", [role for role in RoleName if role is not STATUS])
def test_a_status_by_a_key_of_another_role(world: TrustWorld, role: RoleName) -> None:
    world.retain(STATUS_TOPIC, FIRST.status(9, signer=FIRST.signers[role][0]))

    assert world.refusals == [Reason.BAD_SIGNATURE]
    assert world.status_version == 0


@pytest.mark.parametrize("role", [role for role in RoleName if role is not DIRECTIVE])
def test_a_directive_by_a_key_of_another_role(world: TrustWorld, role: RoleName) -> None:
    world.hold_blobs(BUNDLE)
    order = world.make_directive(Action.OFFER, BUNDLE)

    world.retain(COHORT_TOPIC, world.seal_directive(order, FIRST.signers[role][0]))
    world.pass_time(100)

    assert world.refusals == [Reason.BAD_SIGNATURE]
    assert_nothing_installed(world)


@pytest.mark.parametrize("role", [role for role in RoleName if role is not SESSION])
def test_a_welcome_by_a_key_of_another_role(tmp_path: Path, role: RoleName) -> None:
    world = TrustWorld(tmp_path)
    world.answers_hello = False
    world.offer(BUNDLE)
    world.connect()

    world.welcome(signer=FIRST.signers[role][0])
    world.pass_time(100)

    assert world.refusals == [Reason.BAD_SIGNATURE]
    assert_nothing_installed(world)


@pytest.mark.parametrize("role", [role for role in RoleName if role is not RELEASE])
def test_a_release_by_keys_of_another_role(world: TrustWorld, role: RoleName) -> None:
    signers = (FIRST.signers[role][0], FIRST.signers[RELEASE][0])

    world.offer(bundle_by(FIRST, 6, "1.6.0", release=signers))
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.BAD_SIGNATURE)
    assert_nothing_installed(world)


def test_one_document_moved_to_another_kinds_topic(world: TrustWorld) -> None:
    """One key in two roles would not help either: the kind is in what is signed."""
    payload = directive_map(world.make_directive(Action.OFFER, BUNDLE))

    world.retain(STATUS_TOPIC, FIRST.sealed)
    world.retain("tg/1/trust/root/2", FIRST.status())
    world.retain(COHORT_TOPIC, FIRST.status())
    world.retain(STATUS_TOPIC, seal(Kind.DIRECTIVE, payload, FIRST.signers[STATUS]))

    assert world.refusals == [Reason.BAD_SIGNATURE] * 4
    assert (world.root_version, world.status_version) == (1, 0)


def test_a_directive_by_a_dead_key(world: TrustWorld) -> None:
    """Stolen, and replaced: the thief's orders are worth nothing, whatever counter and epoch they carry."""
    world.publish_root(FIRST.rotate(DIRECTIVE))
    world.hold_blobs(BUNDLE)

    for counter in (Counter(1, 1 << 62), Counter(2, 1 << 62), Counter(3, 1)):
        stolen = world.make_directive(Action.OFFER, BUNDLE, counter=counter)
        world.retain(COHORT_TOPIC, world.seal_directive(stolen, FIRST.keys.directive))
    world.pass_time(100)

    assert world.refusals == [Reason.BAD_SIGNATURE] * 3
    assert_nothing_installed(world)


def test_an_order_that_a_dead_key_left_behind(world: TrustWorld) -> None:
    """It was accepted while the key lived; nothing starts on its strength afterwards, not after a restart either."""
    world.hold_blobs(BUNDLE)
    sealed = world.seal_directive(world.make_directive(Action.OFFER, BUNDLE, expires=EPOCH + 10 * DAY))
    world.held = True
    world.welcome()
    world.retain(COHORT_TOPIC, sealed)
    world.settle()
    world.publish_root(FIRST.rotate(DIRECTIVE))
    world.held = False
    world.power_cycle()
    world.connect()
    world.pass_time(1000)

    assert not world.did(Install)
    assert_nothing_installed(world)


def test_a_release_by_a_key_that_was_stolen_and_replaced(world: TrustWorld) -> None:
    """One stolen key is one too few; both the dead one and the living one together are, too."""
    world.publish_root(FIRST.rotate(RELEASE))

    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.BAD_SIGNATURE)
    assert_nothing_installed(world)


# --- the status ---


def test_an_old_status_from_before_the_revocation(world: TrustWorld) -> None:
    world.publish_status(1)
    world.publish_status(2, revoked_digests=frozenset({BUNDLE.manifest_digest}))
    world.power_cycle()
    world.connect()

    world.retain(STATUS_TOPIC, FIRST.status(1))
    world.offer(BUNDLE)
    world.pass_time(100)

    assert Reason.REPLAYED in world.refusals
    assert world.outcome == (State.REJECTED, Reason.REVOKED)
    assert_nothing_installed(world)


def test_a_revoked_bundle(world: TrustWorld) -> None:
    world.publish_status(1, revoked_digests=frozenset({BUNDLE.manifest_digest}))

    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.REVOKED)
    assert_nothing_installed(world)


def test_a_revoked_bundle_named_by_another_digest(world: TrustWorld) -> None:
    """A thief of the directive key may name what they like; the envelope says what it is."""
    world.publish_status(1, revoked_digests=frozenset({BUNDLE.manifest_digest}))

    world.offer(BUNDLE, manifest_digest=bytes(32))
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.REVOKED)
    assert_nothing_installed(world)


def test_a_revocation_that_is_withheld(world: TrustWorld) -> None:
    """The broker hides the status that the honest server has signed its order under: the device waits for it."""
    world.publish_status(1)
    world.offer(BUNDLE, status=StatusRef(2, bytes(32)))
    world.pass_time(1000)

    assert world.outcome == (State.DUE, Reason.TRUST_BEHIND)
    assert_nothing_installed(world)


def test_a_status_that_is_withheld_until_it_has_expired(world: TrustWorld) -> None:
    """The freeze attack by somebody who has the online keys: a status lives for days, not longer."""
    world.publish_status(1, expires=EPOCH + 7 * DAY)
    world.disconnect()
    world.now += 7 * DAY
    world.connect()

    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.EXPIRED)
    assert_nothing_installed(world)


def test_two_status_documents_under_one_version(world: TrustWorld) -> None:
    world.publish_status(2, revoked_digests=frozenset({BUNDLE.manifest_digest}))

    world.retain(STATUS_TOPIC, FIRST.status(2))
    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.refusals[0] is Reason.REPLAYED
    assert_nothing_installed(world)


@pytest.mark.parametrize("by_root", [False, True])
def test_a_sequence_number_below_the_floor(world: TrustWorld, *, by_root: bool) -> None:
    """An old release with a hole in it, well signed in its day, on a device that has never run a newer one."""
    if by_root:
        world.publish_root(FIRST.next(floors={OWN_CLASS: 6}))
    else:
        world.publish_status(1, floors={OWN_CLASS: 6})

    world.offer(BUNDLE)
    world.pass_time(100)
    world.offer(BUNDLE, sequence_number=7)
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.OLDER_SEQUENCE)
    assert_nothing_installed(world)


# --- time ---


def test_a_clock_set_back_without_the_nonce(world: TrustWorld) -> None:
    """A recorded welcome from when the offer was fresh: it is for another session."""
    world.publish_status(1, expires=EPOCH + 7 * DAY)
    recorded = world.nonce
    world.now += 8 * DAY
    world.disconnect()
    world.answers_hello = False
    world.connect()
    world.offer(BUNDLE, issued=EPOCH, expires=EPOCH + DAY)

    world.welcome(nonce=recorded, server_time=EPOCH + 1000)
    world.pass_time(100)

    assert Reason.REPLAYED in world.refusals
    assert world.reports == []
    assert_nothing_installed(world)


@pytest.mark.parametrize("reboots", [False, True])
def test_a_clock_set_back_with_the_nonce(world: TrustWorld, *, reboots: bool) -> None:
    """A thief of the session key says that it is last year: the status that the device holds knows better."""
    world.publish_status(1, issued=EPOCH + 40 * DAY, expires=EPOCH + 47 * DAY)
    if reboots:
        world.power_cycle()
    else:
        world.disconnect()
    world.answers_hello = False
    world.connect()
    world.offer(BUNDLE, issued=EPOCH, expires=EPOCH + DAY)

    world.welcome(server_time=EPOCH + 1000)
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.EXPIRED)
    assert_nothing_installed(world)


def test_an_expired_root_with_the_clock_set_back_within_one_boot(world: TrustWorld) -> None:
    world.publish_root(FIRST.next(expires=world.server_now + DAY))
    world.now += 2 * DAY
    world.welcome()
    world.settle()
    world.disconnect()
    world.answers_hello = False
    world.connect()
    world.offer(BUNDLE, issued=EPOCH, expires=EPOCH + 100 * DAY)

    world.welcome(server_time=EPOCH + 1000)
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.EXPIRED)
    assert_nothing_installed(world)


# --- power cuts between saving and acting ---


def revoked_on_trial(world: TrustWorld) -> None:
    """Two rotations, a status, an update, and the revocation of what is on trial."""
    second = FIRST.rotate(DIRECTIVE)
    third = second.rotate(SESSION)
    world.retained["tg/1/trust/root/2"] = second.sealed
    world.publish_root(third)
    named = world.publish_status(1)
    world.offer(BUNDLE, status=named)
    world.connect()
    world.pass_time(10)
    world.publish_status(2, revoked_digests=frozenset({BUNDLE.manifest_digest}))
    world.pass_time(10)


def test_a_power_cut_between_saving_and_acting(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = TrustWorld(tmp_path / "whole")
    revoked_on_trial(whole)
    assert whole.outcome == (State.ROLLED_BACK, Reason.REVOKED)

    for cut in range(len(whole.effects)):
        directory = tmp_path / str(cut)
        directory.mkdir()
        world = TrustWorld(directory)
        world.cut_at = cut
        with pytest.raises(PowerCutError):
            revoked_on_trial(world)
        world.cut_at = None
        told_root, told_status = world.root_version_told, world.status_version_told

        world.power_cycle()

        assert world.root_version >= told_root, f"cut before effect {cut}: the root fell"
        assert world.status_version >= told_status, f"cut before effect {cut}: the status fell"
        world.publish_status(2, revoked_digests=frozenset({BUNDLE.manifest_digest}))
        world.connect()
        world.pass_time(200)
        assert world.booted == "a"
        assert world.slot_states()["b"] not in {"trial", "confirmed"}
        assert (world.root_version, world.status_version) == (3, 2)
