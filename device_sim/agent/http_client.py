"""Carrying out ``Get``: a client that a whole fleet may share, and the requests that one device has under way."""

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import Final, Protocol, Self

import aiohttp
import structlog

from device_sim.agent.events import Answer, Get, Got
from device_sim.agent.http_fetcher import answer_s

CONNECTIONS_MOST: Final = 64
CONNECT_S: Final = 10.0
SILENCE_S: Final = 30.0
"""A server that says nothing for so long is not waited for."""
REDIRECTS_MOST: Final = 3
_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-", re.ASCII)

log = structlog.get_logger(__name__)


class Http(Protocol):
    """What the runner needs of ``HttpClient``; a simulator may put a slow line in between."""

    async def get(self, request: Get) -> Got: ...


class HttpClient:
    """``async with``; connections are bounded and kept. ``tls``: what to trust, instead of the system's authorities."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, connections_most: int = CONNECTIONS_MOST) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections_most, ssl=tls or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._session.close()

    async def get(self, request: Get) -> Got:
        """Return the answer; whatever a server or a line can do is one of them. Reads no more than was asked for.

        A redirect to another origin, such as a presigned URL, is followed without the ticket.
        """
        headers = {"Authorization": f"Bearer {request.ticket}"}
        if request.first is not None:
            headers["Range"] = f"bytes={request.first}-{request.first + request.size_bytes - 1}"
        try:
            # Each wait is bounded, but a server that says one byte now and then would hold a connection for ever.
            async with (
                asyncio.timeout(answer_s(request.size_bytes)),
                self._session.get(request.url, headers=headers, max_redirects=REDIRECTS_MOST) as response,
            ):
                if response.status in {404, 410}:
                    return Got(request.number, Answer.GONE)
                if not _is_what_was_asked_for(response, request.first):
                    log.debug("http_refused", url=request.url, status=response.status)
                    return Got(request.number, Answer.FAILED)
                body = await _read(response, request.size_bytes)
                return Got(request.number, Answer.BODY, body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            log.debug("http_failed", url=request.url, error=str(exc))
            return Got(request.number, Answer.FAILED)


class Gets:
    """One device's requests: each is a task that answers by ``put``, unless ``stop`` comes first."""

    def __init__(self, http: Http | None, put: Callable[[Got], None]) -> None:
        self._http = http
        self._put = put
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, request: Get) -> None:
        task = asyncio.create_task(self._carry_out(request), name=f"get {request.number}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """End them all; none of them answers any more."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """End them all, and wait until they have."""
        self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry_out(self, request: Get) -> None:
        if self._http is None:
            self._put(Got(request.number, Answer.FAILED))
        else:
            self._put(await self._http.get(request))


def _is_what_was_asked_for(response: aiohttp.ClientResponse, first: int | None) -> bool:
    """Tell whether the body begins where it should: a server may send the whole of a thing for a range of it."""
    if response.status == 200:
        return not first
    found = _RANGE.match(response.headers.get("Content-Range", ""))
    return response.status == 206 and found is not None and int(found[1]) == first


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    while len(body) < most and (piece := await response.content.read(most - len(body))):
        body += piece
    if not response.content.at_eof():
        response.close()  # there is more, which nobody has signed
    return bytes(body)
