"""Bytes on their way to a client, as fast as it takes them and no faster."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

import structlog
from aiohttp import web

from firmware_store.errors import TidegateError

log = structlog.get_logger(__name__)

PIECE_BYTES: Final = 1 << 16
STALL_S: Final = 60.0
"""A client that does not take PIECE_BYTES in this time is dropped: below a kilobyte a second it may come again."""


async def deliver(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterable[bytes], *, stall_s: float = STALL_S
) -> web.StreamResponse:
    """Send a body whose size the response tells; what goes wrong after its beginning breaks the connection.

    Raises:
        TidegateError: before anything was sent.
    """
    source = aiter(pieces)
    first = await anext(source, b"")
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        return response
    transport.set_write_buffer_limits(high=0)  # what was written is with the client, or at least with its network
    try:
        async for piece in _cut(first, source):
            async with asyncio.timeout(stall_s):
                await response.write(piece)
        async with asyncio.timeout(stall_s):
            await response.write_eof()
    except TimeoutError:
        log.info("client_stalled", path=request.path)
        transport.abort()
    except TidegateError as exc:
        # The status has been sent: a body that ends early is the only way left to say it.
        log.warning("delivery_broken_off", path=request.path, reason=str(exc))
        transport.abort()
    return response


async def _cut(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    data = first
    while data:
        for at in range(0, len(data), PIECE_BYTES):
            yield data[at : at + PIECE_BYTES]
        data = await anext(rest, b"")
