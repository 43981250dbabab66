"""A link that passes everything on to another one: those in between say for themselves what they do otherwise."""

import asyncio

from device_sim.agent.device import Link


class PassingLink:
    """See ``Link``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def connected(self) -> bool:
        return self._link.connected

    async def run(self) -> None:
        await self._link.run()

    async def close(self, *, graceful: bool = True) -> None:
        await self._link.close(graceful=graceful)

    def drop(self) -> None:
        self._link.drop()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> asyncio.Future[None] | None:
        return self._link.publish(topic, payload, qos=qos, retain=retain)

    def subscribe(self, topics: list[tuple[str, int]]) -> None:
        self._link.subscribe(topics)

    def unsubscribe(self, topics: list[str]) -> None:
        self._link.unsubscribe(topics)
