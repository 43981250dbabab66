"""Bodies on their way to clients that read slowly, or not at all: over a real connection, with small buffers."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from structlog.testing import capture_logs

from firmware_store.errors import DigestError
from server.api.delivery import PIECE_BYTES, deliver
from server.api.routing import errors

SIZE = 64 * PIECE_BYTES
WAIT_S = 20


class Source:
    """``SIZE`` bytes, and how many of them were asked for; ``breaks_at``: then the store is found to be damaged."""

    def __init__(self, breaks_at: int = SIZE) -> None:
        self.given = 0
        self.breaks_at = breaks_at

    async def pieces(self) -> AsyncIterator[bytes]:
        while self.given < SIZE:
            if self.given >= self.breaks_at:
                raise DigestError("a damaged chunk")
            self.given += PIECE_BYTES
            yield bytes(PIECE_BYTES)


@asynccontextmanager
async def connected(
    source: Source, *, stall_s: float = WAIT_S, narrow: bool = False
) -> AsyncIterator[tuple[socket.socket, asyncio.Event]]:
    """A client that has asked; ``narrow``: with little room in its kernel. The event: the request is over."""
    done = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(SIZE)})
        try:
            return await deliver(request, response, source.pieces(), stall_s=stall_s)
        finally:
            done.set()

    application = web.Application(middlewares=[errors])
    application.router.add_get("/", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        with socket.socket() as client:
            if narrow:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, runner.addresses[0][:2])
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            yield client, done
    finally:
        await runner.cleanup()


async def read_all(client: socket.socket) -> bytes:
    data = bytearray()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_S):
        try:
            while len(data) < SIZE + 1000 and (piece := await loop.sock_recv(client, 1 << 16)):
                data += piece
                if data.count(b"\r\n\r\n") and len(data) - data.index(b"\r\n\r\n") - 4 >= SIZE:
                    break
        except ConnectionResetError:
            pass
    return bytes(data)


async def test_whoever_reads_gets_it_all() -> None:
    source = Source()
    async with connected(source) as (client, done):
        data = await read_all(client)
        await done.wait()

    assert data.startswith(b"HTTP/1.1 200 OK")
    assert len(data.partition(b"\r\n\r\n")[2]) == SIZE


async def test_a_client_that_takes_nothing_is_dropped_and_holds_little_until_then() -> None:
    source = Source()
    with capture_logs() as logs:
        async with connected(source, stall_s=0.2, narrow=True) as (client, done):
            async with asyncio.timeout(WAIT_S):
                await done.wait()
            data = await read_all(client)

    assert [entry["event"] for entry in logs] == ["client_stalled"]
    assert len(data) < SIZE
    assert source.given < SIZE


async def test_damage_found_on_the_way_breaks_the_connection_and_says_nothing_more() -> None:
    source = Source(breaks_at=SIZE // 2)
    with capture_logs() as logs:
        async with connected(source) as (client, done):
            data = await read_all(client)
            await done.wait()

    assert [entry["event"] for entry in logs] == ["delivery_broken_off"]
    assert data.count(b"HTTP/1.1") == 1
    assert len(data) < SIZE


async def test_damage_found_at_once_is_a_problem_document() -> None:
    async with connected(Source(breaks_at=0)) as (client, done):
        async with asyncio.timeout(WAIT_S):
            await done.wait()
            data = await asyncio.get_running_loop().sock_recv(client, 1 << 16)

    assert data.startswith(b"HTTP/1.1 422")
    assert b"application/problem+json" in data
