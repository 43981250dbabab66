"""A device's line to its broker, which may be cut and mended while the device itself runs on.

A cut closes the socket without a DISCONNECT, so that the broker publishes the last will at once; until the line is
mended, nothing connects.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from device_sim.agent.device import Connect, DeviceConfig, Link
from firmware_store.errors import BrokerUnavailableError
from server.mqtt.link import Incoming, Will

CUT: Final = "the line is cut"


class Line:
    """One device's line. Whoever cuts it mends it: it is whole when it was mended as often as it was cut."""

    def __init__(self) -> None:
        self._cuts = 0
        self._whole = asyncio.Event()
        self._whole.set()
        self._link: _CutLink | None = None

    def cut(self) -> None:
        """End the session, and let no other begin."""
        self._cuts += 1
        self._whole.clear()
        if self._link is not None:
            self._link.cut()

    def mend(self) -> None:
        """Take one cut back."""
        self._cuts -= 1
        if self._cuts == 0:
            self._whole.set()

    @property
    def is_whole(self) -> bool:
        """Whether a session may begin."""
        return self._cuts == 0

    async def until_whole(self) -> None:
        await self._whole.wait()

    def carry(self, connect: Connect) -> Connect:
        """Return a ``connect`` whose links run over this line."""

        def connect_over_line(
            config: DeviceConfig,
            *,
            will: Will,
            on_message: Callable[[Incoming], None],
            on_up: Callable[[bool], None],
            on_down: Callable[[str], None],
        ) -> Link:
            def connect_anew() -> Link:
                return connect(config, will=will, on_message=on_message, on_up=on_up, on_down=on_down)

            self._link = _CutLink(self, connect_anew, on_down)
            return self._link

        return connect_over_line


class _CutLink:
    """A link for each time that the line is whole; one that was cut before it was up makes way for the next."""

    def __init__(self, line: Line, connect_anew: Callable[[], Link], on_down: Callable[[str], None]) -> None:
        self._line = line
        self._connect_anew = connect_anew
        self._on_down = on_down
        self._inner: Link | None = None
        self._ended = False

    @property
    def connected(self) -> bool:
        return self._inner is not None and self._inner.connected

    async def run(self) -> None:
        while not self._ended:
            await self._line.until_whole()
            self._inner = self._connect_anew()
            await self._inner.run()

    async def close(self, *, graceful: bool = True) -> None:
        self._ended = True
        if self._inner is not None:
            await self._inner.close(graceful=graceful)

    def drop(self) -> None:
        self._ended = True
        if self._inner is not None:
            self._inner.drop()

    def cut(self) -> None:
        if self._inner is not None and not self._ended:
            self._inner.drop()
            self._on_down(CUT)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> asyncio.Future[None] | None:
        return self._up().publish(topic, payload, qos=qos, retain=retain)

    def subscribe(self, topics: list[tuple[str, int]]) -> None:
        self._up().subscribe(topics)

    def unsubscribe(self, topics: list[str]) -> None:
        self._up().unsubscribe(topics)

    def _up(self) -> Link:
        if self._inner is None:
            raise BrokerUnavailableError(CUT)
        return self._inner
