"""A device on a real broker whose every request is counted, and whose power a test can cut."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from device_sim.agent.bootloader import boot
from device_sim.agent.device import Connect, DeviceConfig, Link, connect_mqtt
from device_sim.agent.events import Get, Got, Note
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.http_client import Http
from device_sim.agent.runner import Outcome, Runner
from server.mqtt.link import Incoming, Will

WAIT_S = 20.0


class CountedDevice:
    """``requests`` are what it asks for, blob topics and URLs; ``facts`` the events of its notes."""

    def __init__(self, config: DeviceConfig, *, http: Http | None = None, connect: Connect = connect_mqtt) -> None:
        self.config = config
        self.delivered: Counter[str] = Counter()
        """Blob messages that the broker has sent, by topic."""
        self.requests: list[str] = []
        self.facts: list[str] = []
        self.asked_after_halt: list[str] = []
        self._http = http
        self._connect = connect
        self._news = asyncio.Event()

    @asynccontextmanager
    async def powered(self) -> AsyncIterator[None]:
        """Live, over reboots; at the end of the block the power is cut, in the middle of whatever goes on."""
        task = asyncio.create_task(self._live(), name=f"counted {self.config.device_id}")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def image(self, slot: str, name: str) -> bytes:
        return (self.config.directory / "slots" / slot / f"{name}.img").read_bytes()

    async def get(self, request: Get) -> Got:
        """Stand before the HTTP client that it was given."""
        assert self._http is not None
        self._asks(request.url)
        return await self._http.get(request)

    async def _live(self) -> None:
        directory = self.config.directory
        provision(directory, durable=False)
        while True:
            assert boot(directory, durable=False).slot is not None
            slots = FileSlots(directory, durable=False)
            http = None if self._http is None else self
            runner = Runner(self.config, slots, observe=self._noted, connect=self._counting, http=http)
            if await runner.run() is not Outcome.REBOOT:
                return

    def _noted(self, note: Note) -> None:
        self.facts.append(note.event)
        self._news.set()

    def _asks(self, what: str) -> None:
        self.requests.append(what)
        if "halt_received" in self.facts:
            self.asked_after_halt.append(what)
        self._news.set()

    def _counting(
        self, config: DeviceConfig, *, will: Will, on_message: Callable[[Incoming], None], **callbacks: Any
    ) -> Link:
        def count(message: Incoming) -> None:
            if "/blob/" in message.topic:
                self.delivered[message.topic] += 1
                self._news.set()
            on_message(message)

        return _CountedLink(self._connect(config, will=will, on_message=count, **callbacks), self._asks)


class _CountedLink:
    def __init__(self, link: Link, asks: Callable[[str], None]) -> None:
        self._link = link
        self._asks = asks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def subscribe(self, topics: list[tuple[str, int]]) -> None:
        for topic, _ in topics:
            if "/blob/" in topic:
                self._asks(topic)
        self._link.subscribe(topics)
