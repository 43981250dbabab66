"""A small real HTTP server with blobs and images, for devices under test; it counts, and can be told to misbehave."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from server.protocol.sources import HttpSource, Transport
from tests.agent_world import Bundle
from tests.ports import free_port

TICKET = "tk_1795086400_00ff"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""None: answer as usual."""


class BlobServer:
    """``async with``; answers ``/v1/blobs/`` and ``/v1/images/`` to whoever has the ticket."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.asked: list[tuple[float, str]] = []
        """When by the event loop's clock, and what path."""
        self.answer: Answer | None = None
        self._port = free_port()
        application = web.Application()
        application.router.add_get("/ota{path:/v1/(blobs|images)/[0-9a-f]{64}}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/ota"

    def source(self, prefer: Transport = Transport.HTTP) -> HttpSource:
        return HttpSource(prefer, self.url, TICKET)

    def hold(self, bundle: Bundle) -> None:
        self.bodies |= {f"/v1/blobs/{digest.hex()}": blob for digest, blob in bundle.blobs.items()}

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.asked.append((asyncio.get_running_loop().time(), path))
        if self.answer is not None and (answer := await self.answer(request)) is not None:
            return answer
        if request.headers.get("Authorization") != f"Bearer {TICKET}":
            return web.Response(status=401)
        body = self.bodies.get(path)
        if body is None:
            return web.Response(status=404)
        part = request.http_range
        if part.start is None:
            return web.Response(body=body)
        stop = min(part.stop or len(body), len(body))
        headers = {"Content-Range": f"bytes {part.start}-{stop - 1}/{len(body)}"}
        return web.Response(status=206, body=body[part.start : stop], headers=headers)
