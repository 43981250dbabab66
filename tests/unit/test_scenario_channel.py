"""What becomes of messages on a line: each fault of the catalogue does what it says, and nothing else happens."""

from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from device_sim.scenario.channel import Channel, Delivery
from device_sim.scenario.faults import TimedFault
from device_sim.scenario.model import Line

FAULT: TypeAdapter[Any] = TypeAdapter(TimedFault)
MESSAGE = bytes(range(100))


def channel(*faults: dict[str, Any], seed: int = 1, **line: Any) -> Channel:
    return Channel(Line(**line), tuple(FAULT.validate_python(fault) for fault in faults), Random(seed))


def sent(channel: Channel, count: int, *, every_s: float = 1.0, is_piece: bool = False) -> list[list[Delivery]]:
    return [channel.carry(MESSAGE, at * every_s, to_device=True, is_piece=is_piece) for at in range(count)]


def test_a_plain_line_carries_everything_at_once() -> None:
    plain = channel()

    assert plain.is_plain
    assert sent(plain, 5) == [[Delivery(0.0, MESSAGE)]] * 5


def test_latency_is_added_with_its_jitter_and_the_order_stays() -> None:
    slow = channel({"fault": "latency", "latency": "5s", "jitter": "3s"}, latency=1.0)
    arrivals = [at * 0.1 + delivery.delay_s for at, (delivery,) in enumerate(sent(slow, 200, every_s=0.1))]

    assert all(earlier < later for earlier, later in pairwise(arrivals))
    assert all(6.0 - 1e-9 <= arrival - at * 0.1 <= 9.1 for at, arrival in enumerate(arrivals))


def test_losses_have_their_share() -> None:
    lossy = channel({"fault": "loss", "loss": "30%"})

    assert 240 < sum(not deliveries for deliveries in sent(lossy, 1000)) < 360


def test_bandwidth_spreads_messages_to_the_device() -> None:
    narrow = channel({"fault": "bandwidth", "bandwidth": "10B/s"})

    assert [delivery.delay_s for (delivery,) in sent(narrow, 3, every_s=0)] == [10.0, 20.0, 30.0]
    assert narrow.carry(MESSAGE, 0, to_device=False) == [Delivery(0.0, MESSAGE)]


def test_duplicates_come_twice() -> None:
    assert sent(channel({"fault": "duplicate"}), 2) == [[Delivery(0.0, MESSAGE)] * 2] * 2


def test_what_is_late_is_passed_by_what_is_not() -> None:
    first, second = sent(channel({"fault": "late", "delay": "1h", "at": 0, "for": "500ms"}), 2)

    assert (first[0].delay_s, second[0].delay_s) == (3600.0, 0.0)


def test_reordered_messages_change_places() -> None:
    mixed = channel({"fault": "reordered"})
    arrivals = [at * 0.1 + delivery.delay_s for at, (delivery,) in enumerate(sent(mixed, 50, every_s=0.1))]

    assert arrivals != sorted(arrivals)


def test_flipped_pieces_differ_in_one_bit_and_orders_in_none() -> None:
    flipping = channel({"fault": "flipped"})
    ((piece,),) = sent(flipping, 1, is_piece=True)
    ((order,),) = sent(flipping, 1)

    assert sum((a ^ b).bit_count() for a, b in zip(piece.payload, MESSAGE, strict=True)) == 1
    assert order.payload == MESSAGE


def test_truncated_pieces_lose_their_last_half() -> None:
    ((piece,),) = sent(channel({"fault": "truncated"}), 1, is_piece=True)

    assert piece.payload == MESSAGE[:50]


def test_a_fault_acts_in_its_time_alone() -> None:
    gone = channel({"fault": "loss", "loss": "100%", "at": "2s", "for": "2s"})

    assert [bool(deliveries) for deliveries in sent(gone, 5)] == [True, True, False, False, True]


@given(st.integers(0, 2**32))
def test_the_same_seed_carries_alike(seed: int) -> None:
    faults = ({"fault": "loss", "loss": "20%"}, {"fault": "latency", "latency": "1s", "jitter": "1s"})

    assert sent(channel(*faults, seed=seed), 30) == sent(channel(*faults, seed=seed), 30)
