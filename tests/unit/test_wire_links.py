"""Links of simulated devices: what is sent goes through the device's channel, and comes from the device's tongue."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from pydantic import TypeAdapter

from device_sim.agent.device import DeviceConfig
from device_sim.scenario.behaviour import Tongue
from device_sim.scenario.channel import Channel
from device_sim.scenario.faults import TimedFault
from device_sim.scenario.model import Line
from device_sim.wire.carried_link import carried
from device_sim.wire.fleet_clock import FleetClock
from device_sim.wire.speaking_link import speaking
from server.domain.execution import State
from server.domain.identity import Cohort, DeviceId, HardwareClass, Region
from server.mqtt.link import Incoming, Will
from server.protocol.messages import Report, decode_report, encode_report
from server.protocol.reasons import Reason
from tests.agent_world import CAMPAIGN

FAULT: TypeAdapter[Any] = TypeAdapter(TimedFault)
REPORT_TOPIC = "tg/1/eu/device/gw-0001/up/report"
WAIT_S = 5.0
CONFIG = DeviceConfig(
    device_id=DeviceId("gw-0001"),
    host="",
    port=0,
    username=None,
    password=None,
    vendor="",
    hardware_class=HardwareClass("rev-b"),
    root_bytes=b"",
    directory=Path(),
    region=Region("eu"),
    cohort=Cohort("main"),
)


class Broker:
    """Keeps what is published, and can say something; its links are up at once."""

    connected = True

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.say: Callable[[Incoming], None] = lambda _message: None
        self.come_up: Callable[[bool], None] = lambda _present: None

    def connect(self, _config: DeviceConfig, *, on_message: Any, on_up: Any, **_rest: Any) -> "Broker":
        self.say, self.come_up = on_message, on_up
        return self

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> asyncio.Future[None] | None:
        self.published.append((topic, payload))
        return None

    async def run(self) -> None: ...
    async def close(self, *, graceful: bool = True) -> None: ...
    def drop(self) -> None: ...
    def subscribe(self, topics: list[tuple[str, int]]) -> None: ...
    def unsubscribe(self, topics: list[str]) -> None: ...


def link_over(connect: Any, heard: list[Incoming]) -> Any:
    will = Will("tg/1/eu/device/gw-0001/up/gone", b"")
    return connect(CONFIG, will=will, on_message=heard.append, on_up=lambda _: None, on_down=lambda _: None)


def message(topic: str, payload: bytes) -> Incoming:
    return Incoming(topic, payload, 0, retain=False, mid=0)


def channel(**fault: Any) -> Channel:
    return Channel(Line(), (FAULT.validate_python({"at": 0, **fault}),), Random(1))


def begun() -> FleetClock:
    clock = FleetClock(1000)
    clock.begin()
    return clock


def failed() -> bytes:
    return encode_report(Report(1, CAMPAIGN, bytes(32), 1, State.FAILED, Reason.BOOT_FAILED))


async def test_what_is_lost_arrives_on_neither_side() -> None:
    broker, heard = Broker(), []
    link = link_over(carried(broker.connect, channel(fault="loss", loss="100%"), begun()), heard)

    link.publish("t", b"up", qos=0)
    broker.say(message("t", b"down"))

    assert (broker.published, heard) == ([], [])


async def test_what_is_doubled_arrives_twice_on_both_sides_one_after_the_other() -> None:
    broker, heard = Broker(), []
    link = link_over(carried(broker.connect, channel(fault="duplicate"), begun()), heard)

    link.publish("t", b"up", qos=0)
    broker.say(message("t", b"down"))
    async with asyncio.timeout(WAIT_S):
        while len(heard) < 2 or len(broker.published) < 2:
            await asyncio.sleep(0)

    assert broker.published == [("t", b"up")] * 2
    assert [each.payload for each in heard] == [b"down"] * 2


async def test_only_pieces_of_what_is_fetched_are_damaged() -> None:
    broker, heard = Broker(), []
    link_over(carried(broker.connect, channel(fault="truncated"), begun()), heard)

    broker.say(message("tg/1/blob/ab", b"12345678"))
    broker.say(message("tg/1/eu/cohort/main/directive", b"12345678"))
    async with asyncio.timeout(WAIT_S):
        while len(heard) < 2:
            await asyncio.sleep(0)

    assert [each.payload for each in heard] == [b"1234", b"12345678"]


async def test_a_liar_publishes_success_and_other_messages_as_they_are() -> None:
    broker, tongue = Broker(), Tongue()
    link = link_over(speaking(broker.connect, tongue, lambda: False), [])
    tongue.lies = True

    link.publish(REPORT_TOPIC, failed(), qos=1)
    link.publish("tg/1/eu/device/gw-0001/up/beat", b"beat", qos=0)
    broker.come_up(False)

    (_, said), beat = broker.published
    assert decode_report(said).state is State.CONFIRMED
    assert beat == ("tg/1/eu/device/gw-0001/up/beat", b"beat")


async def test_who_replays_says_its_past_again_in_each_session() -> None:
    broker = Broker()
    link = link_over(speaking(broker.connect, Tongue(), lambda: True), [])

    link.publish(REPORT_TOPIC, failed(), qos=1)
    for _ in range(2):
        broker.come_up(False)

    assert broker.published == [(REPORT_TOPIC, failed())] * 3
