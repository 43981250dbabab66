"""What an attacker may own, and what a device then does: installs nothing that the release keys did not sign.

Each test is named after its attack. "Says why" means a report where the order was authentic, and else the device's own
log and its error counter: a forged order must not be able to make a fleet report about a real campaign.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from device_sim.agent.events import Activate, Received
from device_sim.agent.fetcher import TIMEOUT_S
from firmware_store.cose import sign1
from firmware_store.documents import Kind, seal
from firmware_store.suit import _join, open_envelope
from server.domain.execution import State
from server.domain.identity import Cohort, DeviceId, Region
from server.embedded import EmbeddedBroker
from server.protocol.messages import Counter
from server.protocol.orders import Action, Deadlines, directive_map, welcome_map
from server.protocol.reasons import Family, Reason
from server.protocol.topics import CohortAudience
from tests.agent_world import (
    EPOCH,
    EU,
    OTHER_CAMPAIGN,
    Bundle,
    World,
    chunk_digests,
    dev_keys,
    make_bundle,
)
from tests.lab_devices import Lab
from tests.lab_server import LabServer

BUNDLE = make_bundle(5, "1.5.0")
COHORT_TOPIC = "tg/1/eu/cohort/main/directive"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.connect()
    return world


def assert_nothing_installed(world: World) -> None:
    assert not world.did(Activate)
    assert world.booted == "a"
    assert world.slot_states()["a"] == "confirmed"
    assert world.slot_states()["b"] in {"empty", "installing", "unbootable"}


# --- somebody owns the broker -----------------------------------------------------------------------------------------


def test_a_directive_signed_with_a_wrong_key(world: World) -> None:
    world.hold_blobs(BUNDLE)
    forged = world.seal_directive(world.make_directive(Action.OFFER, BUNDLE), dev_keys("thief").directive)

    world.retain(COHORT_TOPIC, forged)
    world.pass_time(100)

    assert world.refusals == [Reason.BAD_SIGNATURE]
    assert world.reports == []
    assert_nothing_installed(world)


def test_a_replayed_directive(world: World) -> None:
    old = world.direct(Action.OFFER, BUNDLE)
    world.direct(Action.HALT, BUNDLE)
    world.hold_blobs(BUNDLE)
    world.pass_time(1)

    world.retain(COHORT_TOPIC, old)
    world.pass_time(100)

    assert world.refusals[-1] is Reason.REPLAYED
    assert_nothing_installed(world)


def test_another_cohorts_directive(world: World) -> None:
    world.hold_blobs(BUNDLE)
    theirs = world.make_directive(Action.OFFER, BUNDLE, audience=CohortAudience(EU, Cohort("beta")))

    world.retain(COHORT_TOPIC, world.seal_directive(theirs))
    world.pass_time(100)

    assert world.refusals == [Reason.WRONG_AUDIENCE]
    assert_nothing_installed(world)


def test_an_expired_offer(world: World) -> None:
    world.offer(BUNDLE, issued=EPOCH - 100, expires=EPOCH)
    world.pass_time(100)

    assert world.outcome == (State.DUE, Reason.EXPIRED)
    assert_nothing_installed(world)


def test_a_frozen_fleet_whose_old_offer_is_shown_for_ever(world: World) -> None:
    """The broker withholds every newer directive: the welcome's counter gives it away."""
    offer = world.make_directive(Action.OFFER, BUNDLE)
    world.hold_blobs(BUNDLE)
    world.counters["cohort"] = Counter(1, 50)
    world.welcome()

    world.retain(COHORT_TOPIC, world.seal_directive(offer))
    world.pass_time(10_000)

    assert world.reports == []
    assert_nothing_installed(world)


def test_a_recorded_session_played_back_to_a_new_one(world: World) -> None:
    world.disconnect()
    world.offer(BUNDLE)
    world.withhold(BUNDLE)
    world.connect()
    world.settle()
    recorded = seal(Kind.WELCOME, welcome_map(world.make_welcome()), [world.keys.session])
    world.power_cycle()
    world.answers_hello = False
    world.connect()
    world.hold_blobs(BUNDLE)

    world.feed(Received(f"tg/1/eu/device/{world.device_id}/down/welcome", recorded))
    world.pass_time(200)

    assert Reason.REPLAYED in world.refusals
    assert not world.did(Activate)
    assert world.booted == "a"


def test_a_flipped_chunk(world: World) -> None:
    world.disconnect()
    world.offer(BUNDLE)
    topic = world.topics.blob(chunk_digests(BUNDLE)[3])
    chunk = bytearray(world.retained[topic])
    chunk[len(chunk) // 2] ^= 1
    world.retained[topic] = bytes(chunk)
    world.connect()
    world.pass_time(20)

    assert world.outcome == (State.FAILED, Reason.CHUNK_MISMATCH)
    assert_nothing_installed(world)


@pytest.mark.parametrize("spoil", ["flipped", "truncated", "endless", "swapped", "tombstone", "index for a page"])
def test_a_spoilt_blob_of_every_kind(tmp_path: Path, spoil: str) -> None:
    """Envelope, index, page and chunk in turn: the slot never becomes bootable, whichever it is."""
    for number, digest in enumerate(BUNDLE.blobs):
        directory = tmp_path / str(number)
        directory.mkdir()
        world = World(directory)
        world.offer(BUNDLE)
        world.retained[world.topics.blob(digest)] = spoilt(BUNDLE, digest, spoil)
        world.connect()
        world.pass_time(20)

        assert world.last.state is State.FAILED
        assert world.last.reason in {Reason.CHUNK_MISMATCH, Reason.WITHDRAWN}
        assert_nothing_installed(world)


def spoilt(bundle: Bundle, digest: bytes, how: str) -> bytes:
    data = bundle.blobs[digest]
    others = [blob for other, blob in bundle.blobs.items() if other != digest]
    return {
        "flipped": bytes([data[0] ^ 1]) + data[1:],
        "truncated": data[:-1],
        "endless": data + bytes(1_000_000),
        "swapped": others[0],
        "tombstone": b"\x00",
        "index for a page": max(others, key=len),
    }[how]


def test_a_download_of_one_chunk_in_a_long_time(world: World) -> None:
    world.disconnect()
    world.offer(BUNDLE, deadlines=Deadlines(download_s=300, trial_s=10, confirm_s=100))
    chunks = chunk_digests(BUNDLE)
    world.withhold(BUNDLE, len(chunks))
    world.connect()
    for digest in chunks[:3]:
        world.pass_time(95)
        world.retained[world.topics.blob(digest)] = BUNDLE.blobs[digest]
    world.pass_time(50)

    assert Reason.DOWNLOAD_DEADLINE in {report.reason for report in world.reports}
    assert_nothing_installed(world)


def test_a_flood_of_blobs_nobody_asked_for(world: World) -> None:
    rng = random.Random(1)
    for _ in range(200):
        junk = rng.randbytes(100)
        world.deliver(world.topics.blob(hashlib.sha256(junk).digest()), junk)
    world.settle()

    assert world.reports == []
    assert_nothing_installed(world)


def test_a_forged_acknowledgement_of_rebooting(world: World) -> None:
    """It only makes the device reboot into what was signed, offered and fresh."""
    world.answers_reports = False
    world.offer(BUNDLE)
    world.pass_time(1)
    world.direct(Action.HOLD, BUNDLE)

    world.ack(1 << 62)
    world.pass_time(100)

    assert not world.did(Activate)
    assert world.booted == "a"


# --- somebody owns the directive key, or the session key, or the whole server -----------------------------------------


@pytest.mark.parametrize("signatures", [0, 1])
def test_a_stolen_server_offers_a_bundle_without_the_release_keys(world: World, signatures: int) -> None:
    own = make_bundle(6, "6.6.6", signatures=signatures)

    world.offer(own)
    world.pass_time(2000)

    assert world.outcome == (State.REJECTED, Reason.BAD_SIGNATURE)
    assert world.last.reason.family is Family.SIGNATURE
    assert_nothing_installed(world)


def test_a_stolen_server_signs_a_bundle_with_the_keys_it_has(world: World) -> None:
    bundle = make_bundle(6, "6.6.6", signatures=0)
    envelope = with_signatures(bundle, [world.keys.directive, world.keys.session])

    world.offer(envelope)
    world.pass_time(2000)

    assert world.outcome == (State.REJECTED, Reason.BAD_SIGNATURE)
    assert_nothing_installed(world)


def test_a_bundle_signed_twice_by_one_release_key(world: World) -> None:
    bundle = make_bundle(6, "6.6.6", signatures=0)
    envelope = with_signatures(bundle, [world.keys.release[0], world.keys.release[0]])

    world.offer(envelope)
    world.pass_time(2000)

    assert world.outcome == (State.REJECTED, Reason.BAD_SIGNATURE)
    assert_nothing_installed(world)


def with_signatures(bundle: Bundle, signers: list) -> Bundle:
    opened = open_envelope(bundle.envelope)
    blocks = tuple(sign1(signer, opened.signed, typ=None) for signer in signers)
    envelope = _join(replace(opened, blocks=blocks))
    blobs = {**bundle.blobs, hashlib.sha256(envelope).digest(): envelope}
    return replace(bundle, envelope=envelope, blobs=blobs)


def test_an_older_sequence_number(world: World) -> None:
    world.offer(BUNDLE)
    world.pass_time(61)
    assert world.booted == "b"

    world.offer(make_bundle(4, "1.4.0"), campaign=OTHER_CAMPAIGN)
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.OLDER_SEQUENCE)
    assert world.booted == "b"
    assert world.slot_states() == {"a": "confirmed", "b": "confirmed"}


def test_an_old_bundle_offered_under_a_new_sequence_number(world: World) -> None:
    world.offer(BUNDLE)
    world.pass_time(61)

    world.offer(make_bundle(4, "1.4.0"), campaign=OTHER_CAMPAIGN, sequence_number=9)
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.OLDER_SEQUENCE)
    assert world.slot_states()["a"] == "confirmed"


def test_a_wrong_class(world: World) -> None:
    world.offer(make_bundle(6, "1.6.0", hardware=("gw200-rev-a",)))
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.WRONG_CLASS)
    assert_nothing_installed(world)


def test_a_wrong_vendor(world: World) -> None:
    world.offer(make_bundle(6, "1.6.0", vendor="evil.example"))
    world.pass_time(100)

    assert world.outcome == (State.REJECTED, Reason.WRONG_VENDOR)
    assert_nothing_installed(world)


def test_a_welcome_that_moves_a_device_to_an_attackers_cohort(world: World) -> None:
    """Who owns the session key may move a device; it still takes orders from the directive key alone."""
    world.region, world.cohort = Region("nowhere"), Cohort("prey")
    world.welcome(server_time=world.server_now + 1)
    world.settle()
    world.hold_blobs(BUNDLE)
    audience = CohortAudience(Region("nowhere"), Cohort("prey"))
    forged = seal(
        Kind.DIRECTIVE,
        directive_map(world.make_directive(Action.OFFER, BUNDLE, audience=audience)),
        [world.keys.session],
    )

    world.retain("tg/1/nowhere/cohort/prey/directive", forged)
    world.pass_time(100)

    assert Reason.BAD_SIGNATURE in world.refusals
    assert_nothing_installed(world)


def test_a_counter_pushed_to_its_end_does_not_outlive_the_epoch(world: World) -> None:
    """A stolen directive key may burn counters; the next root raises the epoch, and counting begins anew."""
    world.direct(Action.HALT, BUNDLE, counter=Counter(1, (1 << 63) - 1))
    burnt = world.direct(Action.HALT, BUNDLE, counter=Counter(2, (1 << 63) - 1))

    world.retain(COHORT_TOPIC, burnt)

    assert world.refusals[-1] is Reason.REPLAYED
    assert world.agent.state.held["cohort/eu/main"].counter.epoch == 1


# --- on a real broker -------------------------------------------------------------------------------------------------


async def test_a_device_of_another_fleet_installs_nothing(
    broker: EmbeddedBroker, region: Region, tmp_path: Path, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    lab = Lab(broker, region, tmp_path)
    async with LabServer(broker, region, keys=dev_keys("thief")) as thief:
        await thief.offer(make_bundle(2, "1.2.0", signers="thief"))
        async with lab.fleet(device):
            await lab.until_fact(device, "refused")

    assert thief.states(device) == []
    assert lab.booted_version(device) == "1.0.0"


async def test_a_chunk_of_a_million_bytes_on_a_real_broker(
    broker: EmbeddedBroker, region: Region, tmp_path: Path, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    bundle = make_bundle(2, "1.2.0", seed=99)
    lab = Lab(broker, region, tmp_path)
    async with LabServer(broker, region) as server:
        await server.hold_blobs(bundle)
        await server.retain(server.topics.blob(chunk_digests(bundle)[0]), bytes(1_000_000))
        await server.direct(Action.OFFER, bundle)
        async with lab.fleet(device):
            await server.until(lambda: State.FAILED in server.states(device), within_s=TIMEOUT_S + 20)

    assert server.reports[device][-1].reason is Reason.CHUNK_MISMATCH
    assert lab.booted_version(device) == "1.0.0"
