"""Connections that say nothing, or never come to an end of their headers, are not kept."""

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from server import app
from server.config import Settings
from server.mqtt.session import BrokerAccess
from server.outside import Outside
from server.services.certificates import Certificates


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: ti"], ids=["nothing", "half a request"])
async def test_who_sends_no_whole_request_is_let_go(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "KEEP_ALIVE_S", 0.2)
    outside = Outside("unused", BrokerAccess("127.0.0.1", 1, "unused"), None, Certificates(rest=None, mqtt=None))
    async with AsyncExitStack() as stack:
        url = urlsplit(await app._listen(Settings(port=0), web.Application(), outside, stack))
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(said)

        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()
