"""A device's link whose messages go through a channel: late, lost, doubled, out of order, damaged."""

import asyncio
from collections.abc import Callable

from device_sim.agent.device import Connect, DeviceConfig, Link
from device_sim.agent.events import Answer, Get, Got
from device_sim.agent.http_client import Http
from device_sim.delivering import Deliver, delivering
from device_sim.scenario.channel import Channel
from device_sim.wire.fleet_clock import FleetClock
from device_sim.wire.passing_link import PassingLink
from server.mqtt.link import Incoming, Will


def carried(connect: Connect, channel: Channel, clock: FleetClock) -> Connect:
    """Return a ``connect`` whose links go through ``channel``, both ways; a plain one changes nothing."""
    if channel.is_plain:
        return connect
    loop = asyncio.get_running_loop()

    def through(config: DeviceConfig, deliver: Deliver) -> Deliver:
        blobs = f"{config.topic_root}/blob/"

        def deliver_carried(message: Incoming) -> None:
            is_piece = message.topic.startswith(blobs)
            for delay_s, payload in channel.carry(message.payload, clock.now, to_device=True, is_piece=is_piece):
                arrived = message if payload is message.payload else message._replace(payload=payload)
                if delay_s > 0:
                    loop.call_later(clock.real_s(delay_s), deliver, arrived)
                else:
                    deliver(arrived)

        return deliver_carried

    received = delivering(connect, through)

    def connect_carried(
        config: DeviceConfig,
        *,
        will: Will,
        on_message: Deliver,
        on_up: Callable[[bool], None],
        on_down: Callable[[str], None],
    ) -> Link:
        link = received(config, will=will, on_message=on_message, on_up=on_up, on_down=on_down)
        return _CarriedLink(link, channel, clock)

    return connect_carried


def carried_http(http: Http, channel: Channel, clock: FleetClock) -> Http:
    """Return an HTTP client whose bodies go through ``channel``; a plain one changes nothing."""
    return http if channel.is_plain else _CarriedHttp(http, channel, clock)


class _CarriedLink(PassingLink):
    def __init__(self, link: Link, channel: Channel, clock: FleetClock) -> None:
        super().__init__(link)
        self._channel = channel
        self._clock = clock

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> asyncio.Future[None] | None:
        loop, sent = asyncio.get_running_loop(), None
        for delay_s, arriving in self._channel.carry(payload, self._clock.now, to_device=False):
            if delay_s > 0:
                loop.call_later(self._clock.real_s(delay_s), self._publish_late, topic, arriving, qos, retain)
            else:
                sent = self._link.publish(topic, arriving, qos=qos, retain=retain)
        return sent

    def _publish_late(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        if self._link.connected:
            confirmed = self._link.publish(topic, payload, qos=qos, retain=retain)
            if confirmed is not None:
                confirmed.add_done_callback(lambda done: done.cancelled() or done.exception())


class _CarriedHttp:
    def __init__(self, http: Http, channel: Channel, clock: FleetClock) -> None:
        self._http = http
        self._channel = channel
        self._clock = clock

    async def get(self, request: Get) -> Got:
        """See ``HttpClient``; a body that is lost is a request that failed."""
        got = await self._http.get(request)
        if got.answer is not Answer.BODY:
            return got
        arrived = self._channel.carry(got.payload, self._clock.now, to_device=True, is_piece=True)
        if not arrived:
            return Got(got.number, Answer.FAILED)
        await asyncio.sleep(self._clock.real_s(arrived[0].delay_s))
        return Got(got.number, Answer.BODY, arrived[0].payload)
