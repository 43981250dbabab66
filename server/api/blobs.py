"""``/v1/blobs`` and ``/v1/images``: what devices fetch over HTTP, by digest. ``/v1/tickets``: what lets them in."""

import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import hdrs, web
from pydantic import BaseModel

from firmware_store.blob_places import Method
from firmware_store.errors import InvalidInputError
from server.api.delivery import deliver
from server.api.ranges import find_part, is_known
from server.api.routing import Call, Media, route
from server.services.tokens import Right

_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

# Private: a cache that others share would give it to whoever has no ticket.
_KEPT: Final = "private, max-age=31536000, immutable"

PRESIGNED: Final = timedelta(seconds=60)
"""So long a URL of S3 is good for; a withdrawal cannot end it sooner."""

BYTES: Final = Media("application/octet-stream", "the bytes")
PART: Final = Media("application/octet-stream", "those that were asked for")

_Read = Callable[[int, int], AsyncIterable[bytes]]


class TicketView(BaseModel):
    """A ticket for devices that get no directives, such as those on a desk."""

    ticket: str
    expires_at: datetime


@route("POST", "/v1/tickets", right=Right.READ)
async def issue_ticket(call: Call[None]) -> TicketView:
    """Get a ticket, which lets a device fetch blobs."""
    ticket = call.context.tickets.current(time.time())
    return TicketView(ticket=ticket.text, expires_at=datetime.fromtimestamp(ticket.expires_at, UTC))


@route(
    "GET",
    "/v1/blobs/{sha256}",
    right=Right.READ,
    fetched=True,
    gives=BYTES,
    also={206: PART, 302: None, 304: None},
    problems=(410, 416),
)
async def get_blob(call: Call[None]) -> web.StreamResponse:
    """Fetch a blob, or a range of it."""
    request, blobs = call.request, call.context.blobs
    digest = _digest(request)
    await call.context.catalogue.check_blob(digest)
    if _has_it(request, digest):
        return _unchanged(digest)
    method: Method = "HEAD" if request.method == hdrs.METH_HEAD else "GET"
    url = await blobs.presign(digest, method=method, valid=PRESIGNED)
    if url is not None:
        return web.Response(status=302, headers={hdrs.LOCATION: url, hdrs.CACHE_CONTROL: "no-store"})
    data = await blobs.get(digest)

    async def read(first: int, end: int) -> AsyncIterator[bytes]:
        yield data[first:end]

    return await _answer(request, digest, len(data), read)


@route(
    "GET",
    "/v1/images/{sha256}",
    right=Right.READ,
    fetched=True,
    gives=BYTES,
    also={206: PART, 304: None},
    problems=(410, 416),
)
async def get_image(call: Call[None]) -> web.StreamResponse:
    """Fetch an image, or a range of it, put together from its chunks."""
    digest = _digest(call.request)
    reader = await call.context.catalogue.find_image(digest)
    if _has_it(call.request, digest):
        return _unchanged(digest)
    return await _answer(call.request, digest, reader.size, reader.read)


def _has_it(request: web.Request, digest: bytes) -> bool:
    return is_known(_tag(digest), request.headers.get(hdrs.IF_NONE_MATCH))


def _unchanged(digest: bytes) -> web.StreamResponse:
    return web.Response(status=304, headers=_headers(digest))


async def _answer(request: web.Request, digest: bytes, size: int, read: _Read) -> web.StreamResponse:
    """Answer with the whole, or with a part of it."""
    headers = _headers(digest)
    part = None
    if request.method == hdrs.METH_GET:  # a Range has a meaning for GET alone (RFC 9110 14.2)
        asked, condition = request.headers.get(hdrs.RANGE), request.headers.get(hdrs.IF_RANGE)
        part = find_part(size, _tag(digest), range_header=asked, if_range=condition)
    if part is not None:
        headers[hdrs.CONTENT_RANGE] = f"bytes {part.first}-{part.end - 1}/{size}"
    first, end = part or (0, size)
    response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
    response.content_type = "application/octet-stream"
    response.content_length = end - first
    if request.method == hdrs.METH_HEAD:
        return response
    return await deliver(request, response, read(first, end))


def _headers(digest: bytes) -> dict[str, str]:
    return {hdrs.ETAG: _tag(digest), hdrs.CACHE_CONTROL: _KEPT, hdrs.ACCEPT_RANGES: "bytes"}


def _tag(digest: bytes) -> str:
    """Return the strong entity tag: the bytes are what their name says."""
    return f'"{digest.hex()}"'


def _digest(request: web.Request) -> bytes:
    text = request.match_info["sha256"]
    if not _DIGEST.fullmatch(text):
        raise InvalidInputError("A digest is 64 hexadecimal digits, in lower case.")
    return bytes.fromhex(text)
