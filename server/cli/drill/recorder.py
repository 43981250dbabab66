"""A device that only listens: whoever owns one can record every order that its cohort is given, and play it again."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from firmware_store.documents import Kind
from firmware_store.errors import TidegateError
from firmware_store.root import Root
from server.domain.identity import Cohort, Region
from server.mqtt.link import Incoming, MqttLink
from server.protocol.orders import Directive, read_directive
from server.protocol.topics import CohortAudience, Topics

WAIT_S: Final = 20.0


class Recorder:
    """``async with`` it; it hears the directives of one cohort in some regions."""

    def __init__(
        self, credential: Mapping[str, Any], *, root: Root, cohort: Cohort, regions: Collection[Region]
    ) -> None:
        self._topics = [Topics().directive(CohortAudience(region, cohort)) for region in regions]
        self._root = root
        self._heard: list[tuple[str, bytes, Directive]] = []
        self._news = asyncio.Event()
        self._link = MqttLink(
            host=credential["host"],
            port=credential["port"],
            client_id=credential["client_id"],
            username=credential["username"],
            password=credential["password"],
            on_message=self._take,
            on_up=lambda _: self._link.subscribe([(topic, 0) for topic in self._topics]),
        )
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._link.run(), name="recorder")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()
        if self._running is not None:
            await self._running

    async def record(self, wanted: Callable[[Directive], bool]) -> dict[str, bytes]:
        """Wait until such a directive was heard in every region; return their bytes by topic.

        Raises:
            TimeoutError: there was none.
        """
        async with asyncio.timeout(WAIT_S):
            while len(found := {topic: body for topic, body, order in self._heard if wanted(order)}) < len(
                self._topics
            ):
                self._news.clear()
                await self._news.wait()
        return found

    def _take(self, message: Incoming) -> None:
        with suppress(TidegateError):
            directive = read_directive(self._root.unseal(Kind.DIRECTIVE, message.payload).value)
            self._heard.append((message.topic, message.payload, directive))
            self._news.set()
