"""Blobs from retained messages: the window, resuming, seeds, and everything a broker can get wrong."""

import hashlib
import random
from pathlib import Path

import pytest

from device_sim.agent.events import LinkDown, Received, Seal, StepFailed, Subscribe, Unsubscribe, Write
from device_sim.agent.events import Step as Work
from device_sim.agent.fetcher import TIMEOUT_S, WINDOW_MOST, WINDOW_START, Arrival, Fetcher
from firmware_store.suit_values import ChunkProfile
from server.domain.execution import State
from server.domain.gate import FULL, Ramp, height
from server.protocol.orders import Action, Deadlines
from server.protocol.reasons import Reason
from tests.agent_world import (
    CAMPAIGN,
    DEVICE,
    OTHER_CAMPAIGN,
    World,
    chunk_digests,
    make_bundle,
    picture,
)

BUNDLE = make_bundle()
NOISE = random.Random(4).randbytes(400_000)
CHUNKS = chunk_digests(BUNDLE)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def blob(number: int) -> bytes:
    return (number + 1).to_bytes(4, "big") * 50


def digest(number: int) -> bytes:
    return hashlib.sha256(blob(number)).digest()


def fetcher_of(count: int) -> Fetcher:
    fetcher = Fetcher()
    for number in range(count):
        fetcher.want(digest(number), 200)
    return fetcher


# --- the fetcher ---


def test_a_window_of_blobs_is_asked_for_and_no_more() -> None:
    assert len(fetcher_of(100).requests(0).subscribe) == WINDOW_START


def test_nothing_is_asked_for_twice() -> None:
    fetcher = fetcher_of(100)
    fetcher.want(digest(0), 200)
    first = fetcher.requests(0)

    assert fetcher.requests(1).subscribe == ()
    assert len(set(first.subscribe)) == WINDOW_START


def test_a_fast_line_widens_the_window_to_its_limit() -> None:
    fetcher = fetcher_of(1000)
    asked, most = [], 0
    for step in range(400):
        asked += fetcher.requests(step * 0.01).subscribe
        most = max(most, len(asked))
        if asked:
            at = asked.pop(0)
            assert fetcher.take(at, next(blob(n) for n in range(1000) if digest(n) == at), step * 0.01) is Arrival.GOOD

    assert most == WINDOW_MOST


def test_a_slow_line_gets_one_blob_at_a_time() -> None:
    fetcher = fetcher_of(30)
    asked, now = list(fetcher.requests(0).subscribe), 0.0
    for number in range(20):
        now += 2.0  # each blob takes two seconds
        fetcher.take(digest(number), blob(number), now)
        asked.remove(digest(number))
        asked += fetcher.requests(now).subscribe

    assert len(asked) == 1


def test_topics_of_blobs_that_came_are_left_with_the_next_subscription() -> None:
    fetcher = fetcher_of(4)
    fetcher.requests(0)
    for number in range(4):
        fetcher.take(digest(number), blob(number), 0.1)

    assert set(fetcher.requests(0.1).leave) == {digest(number) for number in range(4)}


def test_a_blob_that_does_not_come_is_asked_for_again() -> None:
    fetcher = fetcher_of(1)
    fetcher.requests(0)

    assert fetcher.next_at == TIMEOUT_S
    assert fetcher.requests(TIMEOUT_S) == ((digest(0),), (digest(0),))


def test_on_a_slow_line_a_blob_is_waited_for_as_long_as_blobs_take() -> None:
    """At 1 KiB a second 16 KiB take 16 s: the first blob is asked for twice, the others once."""
    fetcher, now, asked = Fetcher(), 0.0, 0
    for number in range(6):
        fetcher.want(digest(number), 200)
        due = now + 16.0
        while now < due:
            asked += len(fetcher.requests(now).subscribe)
            now = due if fetcher.next_at is None else min(fetcher.next_at, due)
        assert fetcher.take(digest(number), blob(number), now) is Arrival.GOOD

    assert asked == 7


def test_a_blob_that_was_asked_for_in_vain_too_often_makes_the_fetcher_stuck() -> None:
    fetcher, asked_at = fetcher_of(1), []
    for now in range(200):
        if fetcher.requests(now).subscribe:
            asked_at.append(now)

    assert asked_at == [0, 10, 30, 70, 150]
    assert fetcher.is_stuck
    assert fetcher.take(digest(0), blob(0), 200) is Arrival.GOOD
    assert not fetcher.is_stuck


def test_a_late_blob_is_as_good_as_any() -> None:
    fetcher = fetcher_of(8)
    fetcher.requests(0)
    fetcher.requests(TIMEOUT_S)

    assert fetcher.take(digest(3), blob(3), TIMEOUT_S + 1) is Arrival.GOOD


@pytest.mark.parametrize(
    ("payload", "arrival"),
    [
        (b"", Arrival.UNASKED),
        (b"\x00", Arrival.WITHDRAWN),
        (blob(0)[:-1], Arrival.WRONG),
        (blob(0) + b"x", Arrival.WRONG),
        (bytes(200), Arrival.WRONG),
        (blob(0), Arrival.GOOD),
    ],
    ids=["cleared", "tombstone", "too short", "too long", "other bytes", "good"],
)
def test_a_message_on_a_blobs_topic_is(payload: bytes, arrival: Arrival) -> None:
    fetcher = fetcher_of(1)
    fetcher.requests(0)

    assert fetcher.take(digest(0), payload, 0.1) is arrival


def test_a_blob_of_one_byte_is_not_a_tombstone() -> None:
    fetcher = Fetcher()
    fetcher.want(hashlib.sha256(b"x").digest(), 1)
    fetcher.requests(0)

    assert fetcher.take(hashlib.sha256(b"x").digest(), b"x", 0) is Arrival.GOOD


def test_a_blob_nobody_asked_for_is_ignored() -> None:
    assert Fetcher().take(digest(0), blob(0), 0) is Arrival.UNASKED


def test_a_blob_that_is_always_wrong_is_given_up_after_three_times() -> None:
    fetcher = fetcher_of(1)
    arrivals = []
    for now in (0.0, 2.0, 4.0):
        assert fetcher.requests(now).subscribe == (digest(0),)
        arrivals.append(fetcher.take(digest(0), bytes(200), now))

    assert arrivals == [Arrival.WRONG, Arrival.WRONG, Arrival.SPENT]


def test_after_a_lost_line_everything_is_asked_for_again_in_order() -> None:
    fetcher = fetcher_of(10)
    first = fetcher.requests(0).subscribe

    fetcher.link_lost()

    assert fetcher.requests(1).subscribe == first


# --- on a device ---


def test_a_device_starts_when_the_level_passes_its_height(world: World) -> None:
    own = height(CAMPAIGN, DEVICE)
    t0 = world.server_now + 100
    world.offer(BUNDLE, ramp=Ramp(t0, 0, t0 + 1000, FULL))
    world.connect()

    due_in_s = 100 + 1000 * own / FULL
    world.pass_time(due_in_s - 1)
    assert world.reports == []
    world.pass_time(2)

    assert State.DOWNLOADING in world.states


def test_a_level_that_stops_below_a_device_does_not_start_it(world: World) -> None:
    own = height(CAMPAIGN, DEVICE)
    world.offer(BUNDLE, ramp=Ramp(world.server_now, 0, world.server_now + 60, own))
    world.connect()

    world.pass_time(5000)

    assert world.reports == []


def test_an_interrupted_download_goes_on_where_it_was(world: World) -> None:
    world.offer(BUNDLE)
    world.withhold(BUNDLE, 3)
    world.connect()
    world.settle()
    world.disconnect()
    world.hold_blobs(BUNDLE)
    world.fetched.clear()

    world.pass_time(100)
    world.connect()
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert set(world.fetched) & set(CHUNKS) == set(CHUNKS[-3:])
    assert world.last.attempt == 1


def test_a_download_goes_on_after_a_loss_of_power(world: World) -> None:
    world.offer(BUNDLE)
    world.withhold(BUNDLE, 3)
    world.connect()
    world.settle()
    world.power_cycle()
    world.hold_blobs(BUNDLE)
    world.fetched.clear()

    world.connect()
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert set(world.fetched) & set(CHUNKS) == set(CHUNKS[-3:])
    assert {report.attempt for report in world.reports} == {1}


def test_chunks_of_the_running_release_do_not_travel_again(world: World) -> None:
    world.offer(make_bundle(1, "1.1.0", seed=7))
    world.connect()
    world.pass_time(61)
    world.fetched.clear()
    next_release = make_bundle(2, "1.2.0", seed=7, sizes=(("app", 56_384), ("rootfs", 100_000)))

    world.offer(next_release, campaign=OTHER_CAMPAIGN)
    world.pass_time(61)

    travelled = set(world.fetched) & set(chunk_digests(next_release))
    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert len(travelled) == 2  # the last chunk of the old app has grown, and another one has been added
    assert world.image("a", "app") == picture(7, 56_384)


def test_chunks_cut_by_content_are_found_where_they_lie_now(world: World) -> None:
    before = make_bundle(1, "1.1.0", contents=(("app", NOISE),), profile=ChunkProfile.CDC)
    moved = b"one line more in front. " * 40 + NOISE[:60_000] + NOISE[90_000:] + NOISE[60_000:90_000]
    after = make_bundle(2, "1.2.0", contents=(("app", moved),), profile=ChunkProfile.CDC)
    world.offer(before)
    world.connect()
    world.pass_time(61)
    world.fetched.clear()

    world.offer(after, campaign=OTHER_CAMPAIGN)
    world.pass_time(61)

    new = set(chunk_digests(after)) - set(chunk_digests(before))
    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert set(world.fetched) & set(chunk_digests(after)) == new
    assert 0 < len(new) < len(chunk_digests(after)) / 2
    assert world.image("a", "app") == moved


def test_chunks_that_occur_twice_are_fetched_once_and_written_twice(world: World) -> None:
    blank = make_bundle(sizes=(("app", 5 * 16_384),), blank=True)

    world.offer(blank)
    world.connect()
    world.pass_time(61)

    assert world.image("b", "app") == b"\xff" * 5 * 16_384
    assert [digest for digest in world.fetched if digest in set(chunk_digests(blank))] == chunk_digests(blank)[:1]


def test_a_lost_delivery_is_repaired(world: World) -> None:
    world.offer(BUNDLE)
    world.withhold(BUNDLE, 2)
    world.connect()
    world.settle()
    world.hold_blobs(BUNDLE)

    world.pass_time(TIMEOUT_S + 61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_a_chunk_that_is_wrong_once_is_fetched_again(world: World) -> None:
    world.offer(BUNDLE)
    topic = world.topics.blob(CHUNKS[2])
    good, world.retained[topic] = world.retained[topic], b"\x01" * 100
    world.connect()
    world.settle()
    world.retained[topic] = good

    world.pass_time(70)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_a_chunk_that_stays_wrong_ends_the_attempt(world: World) -> None:
    world.offer(BUNDLE)
    world.retained[world.topics.blob(CHUNKS[2])] = b"\x01" * 100
    world.connect()
    world.pass_time(10)

    assert world.outcome == (State.FAILED, Reason.CHUNK_MISMATCH)
    assert world.slot_states()["b"] == "installing"


def test_a_withdrawn_chunk_ends_the_attempt(world: World) -> None:
    world.offer(BUNDLE)
    world.retained[world.topics.blob(CHUNKS[2])] = b"\x00"
    world.connect()
    world.settle()

    assert world.outcome == (State.FAILED, Reason.WITHDRAWN)


def test_an_attempt_that_takes_too_long_fails(world: World) -> None:
    world.offer(BUNDLE, deadlines=Deadlines(download_s=200, trial_s=10, confirm_s=100))
    world.withhold(BUNDLE)
    world.connect()

    world.pass_time(201)

    assert world.outcome == (State.FAILED, Reason.DOWNLOAD_DEADLINE)


def test_the_deadline_counts_over_restarts(world: World) -> None:
    world.offer(BUNDLE, deadlines=Deadlines(download_s=100, trial_s=10, confirm_s=100))
    world.withhold(BUNDLE)
    world.connect()
    world.pass_time(60)
    world.power_cycle()
    world.connect()

    world.pass_time(50)

    assert world.reports[-1].reason is Reason.DOWNLOAD_DEADLINE


def test_a_failed_attempt_is_tried_again_later_and_three_times_at_most(world: World) -> None:
    world.offer(
        BUNDLE, expires=world.server_now + 10**6, deadlines=Deadlines(download_s=100, trial_s=10, confirm_s=100)
    )
    world.withhold(BUNDLE)
    world.connect()

    world.pass_time(20_000)

    assert world.states == [State.DOWNLOADING, State.FAILED] * 3
    assert world.last.attempt == 3


def test_a_failed_attempt_may_be_followed_by_a_good_one(world: World) -> None:
    world.offer(BUNDLE)
    topic = world.topics.blob(CHUNKS[2])
    good, world.retained[topic] = world.retained[topic], b"\x00"
    world.connect()
    world.settle()
    world.retained[topic] = good

    world.pass_time(200)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert world.last.attempt == 2


@pytest.mark.parametrize("step", ["Install", "Write", "Seal"])
@pytest.mark.parametrize("reason", [Reason.STORAGE_FULL, Reason.STORAGE_ERROR])
def test_a_medium_that_fails_ends_the_attempt(world: World, step: str, reason: Reason) -> None:
    world.fail_step[step] = StepFailed(Work(step.lower()), reason, "no", world.slots.slots())
    world.offer(BUNDLE)
    world.connect()
    world.settle()

    assert world.outcome == (State.FAILED, reason)
    assert world.slot_states()["b"] in {"empty", "installing"}


def test_an_image_that_changed_between_check_and_use_is_not_booted(world: World) -> None:
    world.answers_reports = False
    world.offer(BUNDLE)
    world.connect()
    world.settle()
    path = world.directory / "slots/b/rootfs.img"
    path.write_bytes(b"evil" + path.read_bytes()[4:])

    world.ack(world.last.sequence)
    world.settle()

    assert world.outcome == (State.FAILED, Reason.IMAGE_MISMATCH)
    assert (world.booted, world.slot_states()["b"]) == ("a", "unbootable")


def test_blobs_that_come_after_the_end_of_a_session_do_no_harm(world: World) -> None:
    world.offer(BUNDLE)
    world.withhold(BUNDLE, 2)
    world.connect()
    world.settle()

    world.feed(LinkDown(), Received(world.topics.blob(CHUNKS[-1]), BUNDLE.blobs[CHUNKS[-1]]))
    world.hold_blobs(BUNDLE)
    world.connect()
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_every_blob_topic_is_left_again(world: World) -> None:
    world.offer(BUNDLE)
    world.answers_reports = False
    world.connect()
    world.settle()

    assert [topic for topic in world.subscribed if "/blob/" in topic] == []


def test_blobs_are_asked_for_many_in_a_packet(world: World) -> None:
    big = make_bundle(2, "1.2.0", sizes=(("rootfs", 200 * 16_384),))
    world.offer(big)
    world.connect()
    world.settle()

    packets = [effect for effect in world.effects if isinstance(effect, Subscribe)]
    assert sum(len(packet.topics) for packet in packets) > 200
    assert len(packets) < 60


def test_a_halt_stops_the_very_next_request(world: World) -> None:
    big = make_bundle(2, "1.2.0", sizes=(("rootfs", 200 * 16_384),))
    world.offer(big)
    world.withhold(big, 100)
    world.connect()
    world.settle()
    world.direct(Action.HALT, big)
    world.fetched.clear()

    world.pass_time(1000)

    assert world.fetched == []


def blobs_under_way(world: World, count: int) -> list[Received]:
    """Begin a large download, and hold back the answers to its first requests."""
    big = make_bundle(2, "1.2.0", sizes=(("rootfs", 200 * 16_384),))
    world.withhold(big, 200)
    world.offer(big)
    world.withhold(big, 200)
    world.connect()
    world.settle()
    under_way = [world.topics.blob(one) for one in chunk_digests(big) if world.topics.blob(one) in world.subscribed]
    assert len(under_way) >= count
    return [Received(topic, big.blobs[world.topics.parse_blob(topic)]) for topic in under_way[:count]]


def test_while_blob_comes_after_blob_the_next_ones_are_asked_for_once(world: World) -> None:
    first, second, third = blobs_under_way(world, 3)

    for event, then in ((first, second), (second, third)):
        assert world.agent.handle(event, world.now, then=then) == []
    effects = world.agent.handle(third, world.now)
    assert [type(effect) for effect in effects] == [Write, Unsubscribe, Subscribe]
    assert isinstance(effects[0], Write)
    assert len(effects[0].parts) == 3


def test_an_order_behind_blobs_is_obeyed_when_its_turn_comes(world: World) -> None:
    first, second, third = blobs_under_way(world, 3)
    directive = world.make_directive(Action.HALT, make_bundle(2, "1.2.0", sizes=(("rootfs", 200 * 16_384),)))
    halt = Received(world.topics.directive(directive.audience), world.seal_directive(directive))

    world.agent.handle(first, world.now, then=second)
    world.agent.handle(second, world.now, then=halt)
    effects = world.agent.handle(halt, world.now, then=third)
    assert any(isinstance(effect, Unsubscribe) for effect in effects)
    assert not any(isinstance(effect, Subscribe) for effect in effects)
    assert world.agent.handle(third, world.now) == []


def test_where_the_last_blobs_cannot_be_written_the_slot_is_not_sealed(world: World) -> None:
    big = make_bundle(2, "1.2.0", sizes=(("rootfs", 3 * 16_384),))
    world.offer(big)
    world.fail_step["Write"] = StepFailed(Work.WRITE, Reason.STORAGE_ERROR, "no", world.slots.slots())

    world.connect()

    kinds = [type(effect) for effect in world.effects]
    assert Write in kinds
    assert Seal not in kinds
    assert [topic for topic in world.subscribed if "/blob/" in topic] == []
    world.pass_time(300)
    assert world.outcome == (State.CONFIRMED, Reason.NONE)  # the next attempt
