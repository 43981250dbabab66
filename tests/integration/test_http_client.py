"""The device's HTTP client against a real server: what was asked for and no more, whatever the server does."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from device_sim.agent import http_fetcher
from device_sim.agent.events import Answer, Get, Got
from device_sim.agent.http_client import Gets, HttpClient
from tests.blob_server import TICKET, BlobServer
from tests.ports import free_port

BODY = bytes(range(256)) * 40
PATH = f"/v1/blobs/{hashlib.sha256(BODY).hexdigest()}"


@pytest.fixture
async def server() -> AsyncIterator[BlobServer]:
    async with BlobServer() as running:
        running.bodies[PATH] = BODY
        yield running


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with HttpClient() as running:
        yield running


def get(server: BlobServer, *, size: int = len(BODY), first: int | None = None, ticket: str = TICKET) -> Get:
    return Get(7, server.url + PATH, ticket, size, first)


async def test_a_blob_is_fetched_with_the_ticket(server: BlobServer, client: HttpClient) -> None:
    assert await client.get(get(server)) == Got(7, Answer.BODY, BODY)
    assert await client.get(get(server, ticket="another")) == Got(7, Answer.FAILED)


async def test_a_part_is_fetched_as_a_range(server: BlobServer, client: HttpClient) -> None:
    assert await client.get(get(server, first=1000, size=50)) == Got(7, Answer.BODY, BODY[1000:1050])


async def test_what_is_not_there_is_gone(server: BlobServer, client: HttpClient) -> None:
    server.bodies.clear()

    assert await client.get(get(server)) == Got(7, Answer.GONE)


async def test_a_server_that_is_not_there_has_failed(client: HttpClient) -> None:
    nowhere = Get(7, f"http://127.0.0.1:{free_port()}{PATH}", TICKET, 1)

    assert await client.get(nowhere) == Got(7, Answer.FAILED)


async def test_an_endless_body_is_cut_at_the_size_that_was_asked_for(server: BlobServer, client: HttpClient) -> None:
    ended = asyncio.Event()

    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
        except OSError:
            ended.set()
        return response

    server.answer = pour

    assert await client.get(get(server, size=100_000)) == Got(7, Answer.BODY, b"x" * 100_000)
    async with asyncio.timeout(10):
        await ended.wait()


async def test_a_body_that_breaks_off_has_failed(server: BlobServer, client: HttpClient) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(BODY))})
        await response.prepare(request)
        await response.write(BODY[:100])
        assert request.transport is not None
        request.transport.close()
        return response

    server.answer = break_off

    assert await client.get(get(server)) == Got(7, Answer.FAILED)


async def test_a_server_that_does_not_know_ranges_is_no_good_but_for_the_first(
    server: BlobServer, client: HttpClient
) -> None:
    async def answer_whole(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=BODY)

    server.answer = answer_whole

    assert await client.get(get(server, first=1000, size=50)) == Got(7, Answer.FAILED)
    assert await client.get(get(server, first=0, size=50)) == Got(7, Answer.BODY, BODY[:50])


async def test_another_range_than_the_one_asked_for_has_failed(server: BlobServer, client: HttpClient) -> None:
    async def answer_another(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=206, body=BODY[:50], headers={"Content-Range": "bytes 0-49/10240"})

    server.answer = answer_another

    assert await client.get(get(server, first=1000, size=50)) == Got(7, Answer.FAILED)


async def test_a_redirect_to_another_server_is_followed_without_the_ticket(
    server: BlobServer, client: HttpClient
) -> None:
    seen: list[str | None] = []

    async def note_ticket(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=BODY)

    async def redirect(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(other.url + PATH)

    async with BlobServer() as other:
        other.answer = note_ticket
        server.answer = redirect

        assert await client.get(get(server)) == Got(7, Answer.BODY, BODY)
    assert seen == [None]


async def test_requests_that_are_stopped_never_answer(server: BlobServer, client: HttpClient) -> None:
    arrived, over = asyncio.Event(), asyncio.Event()
    answers: list[Got] = []

    async def hang(_request: web.Request) -> web.StreamResponse | None:
        arrived.set()
        await over.wait()
        return None

    server.answer = hang
    gets = Gets(client, answers.append)
    gets.start(get(server))
    async with asyncio.timeout(10):
        await arrived.wait()

    await gets.close()
    over.set()

    assert answers == []


async def test_a_body_that_trickles_for_ever_is_given_up_and_its_connection_with_it(
    server: BlobServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_fetcher, "ANSWER_S", 0.2)
    ended = asyncio.Event()

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.02)
        except OSError:
            ended.set()
        return response

    server.answer = trickle

    async with asyncio.timeout(20):
        assert await client.get(get(server, size=256)) == Got(7, Answer.FAILED)
        await ended.wait()
