"""A line that carries so many bytes a second and no more, for devices on 2G or a crowded satellite."""

import asyncio
from collections.abc import Callable

from device_sim.agent.device import Connect, DeviceConfig, Link, connect_mqtt
from device_sim.agent.events import Get, Got
from device_sim.agent.http_client import Http
from server.mqtt.link import Incoming, Will

Deliver = Callable[[Incoming], None]
"""Takes what comes in."""


def delivering(connect: Connect, through: Callable[[DeviceConfig, Deliver], Deliver]) -> Connect:
    """Return a ``connect`` whose links deliver to what ``through`` makes, anew for each link, of whoever listens."""

    def connect_through(
        config: DeviceConfig,
        *,
        will: Will,
        on_message: Deliver,
        on_up: Callable[[bool], None],
        on_down: Callable[[str], None],
    ) -> Link:
        return connect(config, will=will, on_message=through(config, on_message), on_up=on_up, on_down=on_down)

    return connect_through


def slow_connect(bytes_per_s: int) -> Connect:
    """Return a ``connect`` whose links deliver what comes in no faster than ``bytes_per_s``, in order."""

    def slowed(_config: DeviceConfig, deliver: Deliver) -> Deliver:
        loop = asyncio.get_running_loop()
        free_at = loop.time()

        def deliver_in_time(message: Incoming) -> None:
            nonlocal free_at
            free_at = max(free_at, loop.time()) + len(message.payload) / bytes_per_s
            loop.call_at(free_at, deliver, message)

        return deliver_in_time

    return delivering(connect_mqtt, slowed)


class SlowHttp:
    """An HTTP client whose bodies come no faster than ``bytes_per_s``, one after the other."""

    def __init__(self, http: Http, bytes_per_s: int) -> None:
        self._http = http
        self._bytes_per_s = bytes_per_s
        self._line = asyncio.Lock()

    async def get(self, request: Get) -> Got:
        """See ``HttpClient``."""
        got = await self._http.get(request)
        async with self._line:
            await asyncio.sleep(len(got.payload) / self._bytes_per_s)
        return got
