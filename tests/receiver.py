"""A real HTTP server on this machine that takes what webhooks are sent, and answers as a test wants."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Taken:
    """One request."""

    body: bytes
    headers: Mapping[str, str]


@dataclass
class Receiver:
    """``answers``: the statuses of the next requests; after them 204. ``may_answer``: it waits for that."""

    url: str = ""
    taken: list[Taken] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    answer_headers: dict[str, str] = field(default_factory=dict)
    may_answer: asyncio.Event | None = None
    has_news: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        self.taken.append(Taken(await request.read(), dict(request.headers)))
        self.has_news.set()
        if self.may_answer is not None:
            await self.may_answer.wait()
        status = self.answers.pop(0) if self.answers else 204
        return web.Response(status=status, headers=self.answer_headers)

    async def until(self, count: int, within_s: float = 20) -> None:
        """Wait for so many requests."""
        async with asyncio.timeout(within_s):
            while len(self.taken) < count:
                self.has_news.clear()
                await self.has_news.wait()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Listen for the block on 127.0.0.1, on a free port."""
    receiver = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", receiver.take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()
