"""What the broker retains of the server's own, as the server's session reads it."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from server.domain.identity import Cohort, Region
from server.embedded import EmbeddedBroker
from server.mqtt import session as session_module
from server.mqtt.session import BrokerAccess, ServerSession
from server.protocol.topics import CohortAudience, Topics
from server.services.wire import Retained

WAIT_S = 20
_numbers = itertools.count(1)
MAIN = CohortAudience(Region("eu"), Cohort("main"))


@pytest.fixture
def topics() -> Topics:
    """A root of its own below the one that the server may use: what is retained here is nobody else's."""
    return Topics(f"tg/t{os.getpid()}-{next(_numbers)}")


@pytest.fixture
async def session(
    broker: EmbeddedBroker, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ServerSession]:
    monkeypatch.setattr(session_module, "SETTLE_S", 0.3)
    own = broker.server_credential
    access = BrokerAccess(
        broker.mqtt_host,
        broker.mqtt_port,
        f"{own.client_id}-{topics.root.replace('/', '-')}",
        own.username,
        own.password,
    )
    running = ServerSession(access, topics=topics)
    task = asyncio.create_task(running.run())
    await running.wait_up(WAIT_S)
    yield running
    for topic in (topics.trust_root(2), topics.trust_root(3), topics.trust_status, topics.directive(MAIN)):
        await running.publish_retained(topic, b"")
    await running.close()
    await task


async def read(session: ServerSession) -> Retained:
    """The first comparison after connecting."""
    seen: list[Retained] = []
    done = asyncio.Event()

    async def repair(retained: Retained) -> None:
        seen.append(retained)
        done.set()

    task = asyncio.create_task(session.reconcile(repair))
    async with asyncio.timeout(WAIT_S):
        await done.wait()
    task.cancel()
    return seen[0]


async def test_roots_status_and_directives_are_read_each_into_its_place(session: ServerSession, topics: Topics) -> None:
    await session.publish_retained(topics.trust_root(2), b"two")
    await session.publish_retained(topics.trust_root(3), b"three")
    await session.publish_retained(topics.trust_status, b"status")
    await session.publish_retained(topics.directive(MAIN), b"order")

    assert await read(session) == Retained({MAIN: b"order"}, {2: b"two", 3: b"three"}, b"status")


async def test_where_nothing_is_retained_there_is_nothing(session: ServerSession) -> None:
    assert await read(session) == Retained()


@pytest.mark.parametrize("level", ["0", "x", "2147483648x"])
async def test_a_topic_that_is_no_roots_is_passed_over(session: ServerSession, topics: Topics, level: str) -> None:
    topic = f"{topics.root}/trust/root/{level}"
    await session.publish_retained(topic, b"foreign")
    try:
        assert await read(session) == Retained()
    finally:
        await session.publish_retained(topic, b"")


async def test_trust_documents_never_reach_the_ingest(session: ServerSession, topics: Topics) -> None:
    taken: list[Any] = []
    take: Callable[[Any], None] = taken.append
    session.on_message = take
    await session.publish_retained(topics.trust_status, b"status")

    await read(session)

    assert taken == []


async def test_blobs_that_are_looked_for_are_read_and_never_reach_the_ingest(
    session: ServerSession, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "SAMPLE_S", 0.3)
    taken: list[Any] = []
    take: Callable[[Any], None] = taken.append
    session.on_message = take
    here, missing = topics.blob(b"h" * 32), topics.blob(b"m" * 32)
    await session.publish_retained(here, b"a blob")
    try:
        assert await session.read_retained([here]) == {here: b"a blob"}
        assert await session.read_retained([here, missing]) == {here: b"a blob"}
        assert await session.read_retained([]) == {}
    finally:
        await session.publish_retained(here, b"")

    assert taken == []
