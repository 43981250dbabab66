"""Deltas, HTTP and whole images: the cheapest way is taken, and whatever fails is made up for by another one."""

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.agent.events import Answer, Got, Make, Seal, StepFailed, StopGets
from device_sim.agent.events import Step as Work
from device_sim.agent.fetcher import LATE_MOST, TIMEOUT_S, Arrival
from device_sim.agent.http_fetcher import FAILED_MOST, PARALLEL_MOST, HttpFetcher, Want
from device_sim.agent.image_fetch import PART_BYTES
from device_sim.agent.pace import FLOOR_OVER_S
from firmware_store.deltas import Codec
from server.domain.execution import State
from server.protocol.orders import Action
from server.protocol.reasons import Reason
from server.protocol.sources import Transport
from tests.agent_world import HTTP, OTHER_CAMPAIGN, Bundle, PowerCutError, World, chunk_digests, delta, make_bundle

OLD = make_bundle(1, "1.1.0", sizes=(("app", 120_000),), seed=3)
"""What runs. In the next release every chunk has changed a little, so that a delta is small and chunks are not."""


def patched(bundle: Bundle) -> bytes:
    data = bytearray(bundle.images["app"])
    for at in range(100, len(data), 9000):
        data[at] ^= 0xFF
    return bytes(data)


NEW = make_bundle(2, "1.2.0", sizes=(("app", 120_000),), contents=(("app", patched(OLD)),))
DELTA, DELTA_BLOBS = delta(OLD, NEW)
CHUNKS = chunk_digests(NEW)
PREFER_HTTP = HTTP._replace(prefer=Transport.HTTP)
DONE = (State.CONFIRMED, Reason.NONE)


def updated(world: World) -> World:
    """Bring the old release to a device; what follows is an update from it."""
    world.offer(OLD)
    world.connect()
    world.pass_time(61)
    assert world.outcome == DONE
    world.fetched.clear()
    world.effects.clear()
    return world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return updated(World(tmp_path))


def offer_new(world: World, *, damaged: Mapping[bytes, bytes] = MappingProxyType({}), **changes: object) -> None:
    """Offer the new release; some blobs are damaged at the broker."""
    world.hold_delta(DELTA_BLOBS)
    world.hold_blobs(NEW)
    for digest, payload in damaged.items():
        world.retained[world.topics.blob(digest)] = payload
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, **changes)


def ways(world: World) -> list[str]:
    return [note.detail.split(":")[0] for note in world.notes if note.event == "fetching"][1:]


# --- deltas ---


def test_a_delta_that_costs_less_than_the_index_is_taken_without_reading_it(world: World) -> None:
    offer_new(world, deltas=(DELTA,))
    world.pass_time(61)

    assert world.outcome == DONE
    assert world.image("a", "app") == NEW.images["app"]
    assert set(world.fetched) == {NEW.named.digest, *DELTA_BLOBS}
    assert ways(world) == ["app, delta (zstd)"]


def test_a_delta_that_costs_more_than_the_index_is_taken_when_more_is_missing(world: World) -> None:
    dear = DELTA._replace(wire_bytes=30_000)

    offer_new(world, deltas=(dear,))
    world.pass_time(61)

    assert world.outcome == DONE
    assert set(world.fetched) & set(CHUNKS) == set()
    assert NEW.blobs.keys() & set(world.fetched) > {NEW.named.digest}  # the index had to be read


def test_missing_chunks_are_taken_when_they_cost_less(world: World) -> None:
    grown = make_bundle(2, "1.2.0", sizes=(("app", 0),), contents=(("app", OLD.images["app"] + b"more"),))
    offered, blobs = delta(OLD, grown)
    world.hold_delta(blobs)

    world.offer(grown, campaign=OTHER_CAMPAIGN, deltas=(offered._replace(wire_bytes=60_000),))
    world.pass_time(61)

    assert world.outcome == DONE
    assert len(set(world.fetched) & set(chunk_digests(grown))) == 1
    assert set(world.fetched) & blobs.keys() == set()


def test_an_image_that_has_not_changed_costs_nothing_at_all(world: World) -> None:
    same = make_bundle(2, "1.2.0", sizes=(("app", 120_000),), seed=3)

    world.offer(same, campaign=OTHER_CAMPAIGN)
    world.pass_time(61)

    assert world.outcome == DONE
    assert world.fetched == [same.named.digest]


@pytest.mark.parametrize(
    "change",
    [
        {"codec": "bsdiff"},
        {"source_digest": bytes(32)},
        {"target_digest": bytes(32)},
        {"component": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_delta_that_is_not_for_this_device_is_left_alone(world: World, change: dict[str, object]) -> None:
    offer_new(world, deltas=(DELTA._replace(**change),))  # type: ignore[arg-type]
    world.pass_time(61)

    assert world.outcome == DONE
    assert set(world.fetched) & DELTA_BLOBS.keys() == set()
    assert world.image("a", "app") == NEW.images["app"]


OTHER_TARGET = make_bundle(3, "1.3.0", sizes=(("app", 120_000),), seed=99)
LIES = {
    "no delta at all": delta(OLD, NEW, made=random.Random(1).randbytes(3000)),
    "the target of somebody else": delta(OLD, OTHER_TARGET),
}


@pytest.mark.parametrize("name", LIES)
def test_a_delta_that_does_not_make_the_image_is_made_up_for_by_chunks(world: World, name: str) -> None:
    offered, blobs = LIES[name]
    world.hold_delta(blobs)
    offer_new(world, deltas=(offered._replace(target_digest=DELTA.target_digest),))
    world.pass_time(61)

    assert world.did(Make)
    assert world.outcome == DONE
    assert world.image("a", "app") == NEW.images["app"]
    assert world.last.attempt == 1
    assert ways(world) == ["app, delta (zstd)", "app, chunks"]


@pytest.mark.parametrize("blob", DELTA_BLOBS, ids=["chunk", "index", "page"])
@pytest.mark.parametrize("payload", [b"\x00", b"wrong", bytes(70_000)], ids=["withdrawn", "truncated", "endless"])
def test_a_delta_whose_blobs_are_not_to_be_had_is_made_up_for_by_chunks(
    world: World, blob: bytes, payload: bytes
) -> None:
    offer_new(world, deltas=(DELTA,), damaged={blob: payload})
    world.pass_time(90)

    assert world.outcome == DONE
    assert world.image("a", "app") == NEW.images["app"]
    assert ways(world) == ["app, delta (zstd)", "app, chunks"]


def test_a_delta_for_which_there_is_no_room_is_made_up_for_by_chunks(world: World) -> None:
    world.fail_step["Stage"] = StepFailed(Work.STAGE, Reason.STORAGE_FULL, "full", world.slots.slots())

    offer_new(world, deltas=(DELTA,))
    world.pass_time(90)

    assert world.outcome == DONE
    assert set(world.fetched) & set(CHUNKS) == set(CHUNKS)


def test_the_other_codec_works_as_well(world: World) -> None:
    offered, blobs = delta(OLD, NEW, codec=Codec.HDIFFPATCH)
    world.hold_delta(blobs)

    world.offer(NEW, campaign=OTHER_CAMPAIGN, deltas=(offered,))
    world.pass_time(61)

    assert world.outcome == DONE
    assert set(world.fetched) == {NEW.named.digest, *blobs}


def test_a_staged_delta_is_gone_when_the_slot_is_sealed(world: World) -> None:
    offer_new(world, deltas=(DELTA,))
    world.pass_time(61)

    assert [path.name for path in (world.directory / "slots").iterdir() if path.name != "a"] == ["b"]


LARGE_DELTA = delta(OLD, OTHER_TARGET)
"""Of several chunks."""


def test_a_delta_goes_on_after_a_loss_of_power(world: World) -> None:
    offered, blobs = LARGE_DELTA
    world.hold_delta(blobs)
    pieces = [digest for digest in blobs if digest != offered.index_digest]
    missing = pieces[1]
    world.retained.pop(world.topics.blob(missing))
    world.offer(OTHER_TARGET, campaign=OTHER_CAMPAIGN, deltas=(offered._replace(wire_bytes=50),))
    world.settle()
    had = set(world.fetched) - {missing}
    world.power_cycle()
    world.hold_delta(blobs)
    world.fetched.clear()

    world.connect()
    world.pass_time(61)

    assert world.outcome == DONE
    chunks = {digest for digest in had if len(blobs.get(digest, b"")) > 1000}
    assert len(chunks) >= 2
    assert chunks & set(world.fetched) == set()


# --- HTTP ---


def test_with_nothing_at_the_broker_everything_comes_over_http(world: World) -> None:
    world.serve_blobs(NEW)

    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=PREFER_HTTP)
    world.pass_time(61)

    assert world.outcome == DONE
    assert world.fetched == []
    assert {get.ticket for get in world.gets} == {HTTP.ticket}
    assert world.image("a", "app") == NEW.images["app"]


def test_a_device_without_http_takes_no_notice_of_it(tmp_path: Path) -> None:
    world = updated(World(tmp_path, has_http=False))

    offer_new(world, http=PREFER_HTTP)
    world.pass_time(61)

    assert world.outcome == DONE
    assert world.gets == []


@pytest.mark.parametrize("payload", [b"\x00", b"wrong"], ids=["withdrawn", "wrong"])
def test_what_the_broker_has_no_more_is_fetched_over_http(world: World, payload: bytes) -> None:
    world.serve_blobs(NEW)
    offer_new(world, http=HTTP, damaged={CHUNKS[3]: payload})
    world.pass_time(70)

    assert world.outcome == DONE
    assert f"/v1/blobs/{CHUNKS[3].hex()}" in {get.url.removeprefix(HTTP.base_url) for get in world.gets}


def test_a_broker_that_brings_nothing_is_given_up_for_http_after_a_while(world: World) -> None:
    world.serve_blobs(NEW)
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=HTTP)

    world.pass_time(TIMEOUT_S * (2**LATE_MOST - 1) - 1)
    assert world.gets == []
    world.pass_time(70)

    assert world.outcome == DONE


@pytest.mark.parametrize("answer", [Answer.FAILED, Answer.GONE, Answer.BODY])
def test_an_http_server_that_fails_is_given_up_for_the_broker(world: World, answer: Answer) -> None:
    world.answers_get = lambda get: Got(get.number, answer, b"nonsense")

    offer_new(world, http=PREFER_HTTP)
    world.pass_time(90)

    assert world.outcome == DONE
    assert 1 <= len(world.gets) <= 3 * PARALLEL_MOST


def test_an_http_server_that_never_answers_is_given_up_for_the_broker(world: World) -> None:
    world.answers_get = lambda _get: None

    offer_new(world, http=PREFER_HTTP)
    world.pass_time(700)

    assert world.outcome == DONE


@pytest.mark.parametrize(
    "damage",
    [lambda body: body[:-1], lambda body: b"\x01" + body[1:], lambda _body: b""],
    ids=["truncated", "flipped", "empty"],
)
def test_a_blob_that_is_wrong_everywhere_ends_the_attempt(world: World, damage: Callable[[bytes], bytes]) -> None:
    world.serve_blobs(NEW)
    world.served[f"/v1/blobs/{CHUNKS[1].hex()}"] = damage(NEW.blobs[CHUNKS[1]])
    offer_new(world, http=HTTP, damaged={CHUNKS[1]: b"wrong"})
    world.pass_time(29)

    assert world.outcome == (State.FAILED, Reason.CHUNK_MISMATCH)
    assert world.slot_states()["a"] == "installing"


def test_what_is_withdrawn_everywhere_ends_the_attempt(world: World) -> None:
    offer_new(world, http=HTTP, damaged={CHUNKS[1]: b"\x00"})
    world.settle()

    assert world.outcome == (State.FAILED, Reason.WITHDRAWN)


def test_a_line_below_the_floor_is_tried_over_both_transports_and_then_given_up(world: World) -> None:
    world.answers_get = lambda _get: None
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=HTTP)

    world.pass_time(FLOOR_OVER_S + 1)
    assert world.last.state is State.DOWNLOADING
    world.pass_time(FLOOR_OVER_S)

    assert world.outcome == (State.FAILED, Reason.TOO_SLOW)


def test_time_without_a_session_is_not_slowness(world: World) -> None:
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN)
    world.pass_time(FLOOR_OVER_S - 20)
    world.disconnect()
    world.pass_time(1000)
    world.connect()
    world.pass_time(FLOOR_OVER_S - 20)

    assert world.last.state is State.DOWNLOADING


def test_a_halt_ends_every_request_and_makes_no_more(world: World) -> None:
    world.answers_get = lambda _get: None
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=PREFER_HTTP)
    world.settle()
    assert world.gets
    assert not world.did(StopGets)

    world.direct(Action.HALT, NEW, campaign=OTHER_CAMPAIGN)
    asked = len(world.gets)
    world.pass_time(1000)

    assert world.outcome == (State.CANCELLED, Reason.HALTED)
    assert world.did(StopGets)
    assert len(world.gets) == asked
    assert [topic for topic in world.subscribed if "/blob/" in topic] == []


def test_without_a_session_nothing_is_asked_for(world: World) -> None:
    world.answers_get = lambda _get: None
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=PREFER_HTTP)
    world.settle()

    world.disconnect()
    asked = len(world.gets)
    world.pass_time(1000)
    assert world.did(StopGets)
    assert len(world.gets) == asked

    world.serve_blobs(NEW)
    world.answers_get = world.serve
    world.connect()
    world.pass_time(61)
    assert world.outcome == DONE


def test_on_hold_a_download_goes_on_where_it_was_told_to_fetch(world: World) -> None:
    world.serve_blobs(NEW)
    world.answers_get = lambda _get: None
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=PREFER_HTTP)
    world.settle()
    world.direct(Action.HOLD, NEW, campaign=OTHER_CAMPAIGN)
    world.answers_get = world.serve

    world.pass_time(200)

    assert world.last.state is State.INSTALLING
    assert world.fetched == []


def test_an_offer_that_names_no_server_any_more_leads_back_to_the_broker(world: World) -> None:
    world.answers_get = lambda _get: None
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=PREFER_HTTP)
    world.settle()

    offer_new(world)
    world.pass_time(61)

    assert world.outcome == DONE


def test_the_newest_ticket_is_used(world: World) -> None:
    world.answers_get = lambda get: world.serve(get) if get.ticket == "new" else Got(get.number, Answer.FAILED)
    world.serve_blobs(NEW)
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=PREFER_HTTP)
    world.settle()

    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=PREFER_HTTP._replace(ticket="new"))
    world.pass_time(200)

    assert world.outcome == DONE
    assert (world.gets[0].ticket, world.gets[-1].ticket) == (HTTP.ticket, "new")


# --- whole images ---

WHOLE = make_bundle(2, "1.2.0", sizes=(("app", 2 * PART_BYTES + 5000),), seed=5)


def offer_whole(world: World) -> None:
    """Chunks are nowhere; the envelope is at the broker, and the whole image at the server."""
    if not world.served:
        world.serve_images(WHOLE)
    world.hold_blobs(WHOLE)
    for digest in WHOLE.blobs.keys() - {WHOLE.named.digest}:
        world.retained[world.topics.blob(digest)] = b"\x00"
    world.direct(Action.OFFER, WHOLE, campaign=OTHER_CAMPAIGN, http=HTTP)


def test_where_chunks_are_gone_the_whole_image_is_fetched_in_parts(world: World) -> None:
    offer_whole(world)
    world.pass_time(61)

    assert world.outcome == DONE
    assert world.image("a", "app") == WHOLE.images["app"]
    assert [get.first for get in world.gets if get.first is not None] == [0, PART_BYTES, 2 * PART_BYTES]


def test_a_whole_image_goes_on_where_it_was(world: World) -> None:
    world.answers_get = lambda get: world.serve(get) if (get.first or 0) < PART_BYTES else None
    offer_whole(world)
    world.settle()
    world.power_cycle()
    world.gets.clear()
    world.answers_get = world.serve

    world.connect()
    world.pass_time(61)

    assert world.outcome == DONE
    assert [get.first for get in world.gets if get.first is not None] == [PART_BYTES, 2 * PART_BYTES]


def test_a_whole_image_that_is_another_one_never_gets_into_the_slot(world: World) -> None:
    world.serve_images(WHOLE)
    for path, image in world.served.items():
        world.served[path] = b"evil" + image[4:]
    offer_whole(world)
    world.pass_time(29)

    assert world.outcome == (State.FAILED, Reason.WITHDRAWN)
    assert world.slot_states() == {"a": "installing", "b": "confirmed"}


def test_a_server_that_stops_in_the_middle_of_an_image_is_given_up(world: World) -> None:
    world.answers_get = lambda get: (
        world.serve(get) if (get.first or 0) < PART_BYTES else Got(get.number, Answer.FAILED)
    )
    offer_whole(world)
    world.pass_time(29)

    assert world.outcome == (State.FAILED, Reason.WITHDRAWN)
    assert sum(get.first == PART_BYTES for get in world.gets) == FAILED_MOST


# --- all of it, cut anywhere ---


def by_delta(world: World) -> None:
    offer_new(world, deltas=(DELTA,))


def by_a_bad_delta(world: World) -> None:
    offered, blobs = LIES["no delta at all"]
    world.hold_delta(blobs)
    offer_new(world, deltas=(offered,))


def by_http(world: World) -> None:
    world.serve_blobs(NEW)
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=PREFER_HTTP)


def by_both(world: World) -> None:
    world.serve_blobs(NEW)
    offer_new(world, http=HTTP, damaged={CHUNKS[2]: b"\x00"})


def by_whole(world: World) -> None:
    world.serve_images(NEW)
    world.hold_blobs(NEW)
    for digest in NEW.blobs.keys() - {NEW.named.digest}:
        world.retained[world.topics.blob(digest)] = b"\x00"
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, http=HTTP)


STORIES = {story.__name__: story for story in (by_delta, by_a_bad_delta, by_http, by_both, by_whole)}


def copy_of(world: World, directory: Path) -> World:
    """Another device with the same past."""
    shutil.copytree(world.directory, directory)
    copy = World(directory)
    copy.now, copy.counter, copy.counters = world.now, world.counter, dict(world.counters)
    copy.connect()
    copy.effects.clear()
    return copy


def until_cut(world: World, name: str) -> None:
    STORIES[name](world)
    world.pass_time(61)


@pytest.mark.parametrize("name", STORIES)
def test_a_power_cut_before_any_effect_of_a_download_changes_nothing_in_the_end(tmp_path: Path, name: str) -> None:
    (tmp_path / "before").mkdir()
    before = updated(World(tmp_path / "before"))
    whole = copy_of(before, tmp_path / "whole")
    until_cut(whole, name)
    assert whole.outcome == DONE

    sealed_at = next(number for number, effect in enumerate(whole.effects) if isinstance(effect, Seal))
    for cut in range(sealed_at + 2):
        world = copy_of(before, tmp_path / str(cut))
        world.cut_at = cut
        with pytest.raises(PowerCutError):
            until_cut(world, name)
        world.cut_at = None
        assert world.image("b", "app") == OLD.images["app"], "the running slot has been written to"

        world.power_cycle()
        STORIES[name](world)
        world.connect()
        world.pass_time(200)

        assert (cut, world.outcome, world.booted) == (cut, DONE, "a")
        assert world.image("a", "app") == NEW.images["app"]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), prefer=st.sampled_from(Transport), with_delta=st.booleans())
def test_whatever_fails_now_and_then_the_image_is_the_right_one_or_the_attempt_has_failed(
    tmp_path_factory: pytest.TempPathFactory, seed: int, prefer: Transport, with_delta: bool
) -> None:
    world = updated(World(tmp_path_factory.mktemp("device")))
    rng = random.Random(seed)
    world.serve_blobs(NEW)
    world.serve_images(NEW)
    for path in list(world.served):
        if rng.random() < 0.2:
            del world.served[path]
    world.answers_get = lambda get: rng.choice(
        [world.serve(get), world.serve(get), Got(get.number, rng.choice(list(Answer)), b"wrong"), None]
    )
    world.hold_blobs(NEW)
    world.hold_delta(DELTA_BLOBS)
    for digest in (*CHUNKS, *DELTA_BLOBS):
        if rng.random() < 0.2:
            world.retained[world.topics.blob(digest)] = rng.choice([b"\x00", b"wrong", bytes(70_000)])
    deltas = (DELTA,) if with_delta else ()
    world.direct(Action.OFFER, NEW, campaign=OTHER_CAMPAIGN, deltas=deltas, http=HTTP._replace(prefer=prefer))

    world.pass_time(3000)

    assert world.last.state in {State.CONFIRMED, State.FAILED}
    if world.last.state is State.CONFIRMED:
        assert world.image("a", "app") == NEW.images["app"]


# --- the HTTP fetcher ---


def wanted(number: int) -> Want:
    body = (number + 1).to_bytes(4, "big") * 10
    return Want(hashlib.sha256(body).digest(), 40)


@pytest.fixture
def numbers() -> Iterator[int]:
    return count()


def test_no_more_than_a_few_requests_are_under_way(numbers: Iterator[int]) -> None:
    fetcher = HttpFetcher(numbers)
    for number in range(10):
        fetcher.want(wanted(number))

    gets = fetcher.requests(0, HTTP)
    assert [get.url.rpartition("/")[2] for get in gets] == [wanted(number).digest.hex() for number in range(4)]
    assert fetcher.requests(0, HTTP) == []


def test_after_a_failure_there_is_a_pause_that_grows(numbers: Iterator[int]) -> None:
    fetcher = HttpFetcher(numbers)
    fetcher.want(wanted(0))
    pauses, now = [], 0.0
    for _ in range(9):
        (get,) = fetcher.requests(now, HTTP)
        fetcher.take(Got(get.number, Answer.FAILED), now)
        assert fetcher.next_at is not None
        pauses.append(fetcher.next_at - now)
        now = fetcher.next_at

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert fetcher.is_stuck


def test_an_answer_that_nobody_waits_for_is_ignored(numbers: Iterator[int]) -> None:
    fetcher = HttpFetcher(numbers)
    fetcher.want(wanted(0))
    (get,) = fetcher.requests(0, HTTP)
    fetcher.drop(wanted(0))

    assert fetcher.take(Got(get.number, Answer.BODY, b"\0\0\0\1" * 10), 1) is None
    assert fetcher.take(Got(99, Answer.BODY), 1) is None


def test_a_body_is_judged_by_its_digest(numbers: Iterator[int]) -> None:
    fetcher = HttpFetcher(numbers)
    arrivals = []
    for body in (b"wrong" * 8, b"\0\0\0\1" * 9, b"\0\0\0\1" * 10):
        fetcher.want(wanted(0))
        (get,) = fetcher.requests(2.0 * len(arrivals), HTTP)
        taken = fetcher.take(Got(get.number, Answer.BODY, body), 2.0 * len(arrivals))
        assert taken is not None
        arrivals.append(taken.arrival)

    assert arrivals == [Arrival.WRONG, Arrival.WRONG, Arrival.GOOD]
