"""What a node does at the broker that may not speak for the fleet any more: nothing."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator

import pytest

from firmware_store.errors import BrokerUnavailableError
from server.embedded import EmbeddedBroker
from server.mqtt.session import BrokerAccess, ServerSession
from server.protocol.topics import Topics
from tests.mqtt_client import MqttClient

WAIT_S = 20
_numbers = itertools.count(1)


class Permission:
    """``asked`` is set each time that somebody asks."""

    def __init__(self) -> None:
        self.given = True
        self.asked = asyncio.Event()

    def __call__(self) -> bool:
        self.asked.set()
        return self.given


@pytest.fixture
def permission() -> Permission:
    return Permission()


@pytest.fixture
def access(broker: EmbeddedBroker) -> BrokerAccess:
    own = broker.server_credential
    client_id = f"{own.client_id}-lease-{os.getpid()}-{next(_numbers)}"
    return BrokerAccess(broker.mqtt_host, broker.mqtt_port, client_id, own.username, own.password)


@pytest.fixture
async def session(access: BrokerAccess, permission: Permission) -> AsyncIterator[ServerSession]:
    running = ServerSession(access, topics=Topics(f"tg/l{os.getpid()}-{next(_numbers)}"), may_speak=permission)
    task = asyncio.create_task(running.run())
    await running.wait_up(WAIT_S)
    yield running
    permission.given = True
    await running.close()
    await task


async def test_nothing_is_published_without_the_lease(session: ServerSession, permission: Permission) -> None:
    permission.given = False

    with pytest.raises(BrokerUnavailableError, match="lease"):
        await session.publish_retained("tg/lamp", b"on")
    with pytest.raises(BrokerUnavailableError, match="lease"):
        session.publish_nowait("tg/lamp", b"on")
    assert session.up_since is None  # nobody is judged by what it hears


async def test_a_session_that_the_next_holder_has_is_not_taken_back(
    session: ServerSession, access: BrokerAccess, permission: Permission
) -> None:
    permission.given = False
    assert access.username is not None
    assert access.password is not None

    def take_over() -> MqttClient:
        other = MqttClient(
            access.host,
            access.port,
            client_id=access.client_id,
            username=access.username,
            password=access.password,
            clean_session=False,
        )
        return other.__enter__()

    other = await asyncio.to_thread(take_over)
    try:
        async with asyncio.timeout(WAIT_S):
            while session._link.connected:
                await asyncio.sleep(0.01)
            for _ in range(3):  # it asks, is told no, and asks again
                permission.asked.clear()
                await permission.asked.wait()
        assert other.drain() == []
    finally:
        other.__exit__(None, None, None)

    permission.given = True
    async with asyncio.timeout(WAIT_S):
        while session.up_since is None:
            await asyncio.sleep(0.01)


async def test_a_session_that_is_begun_again_is_as_young_as_that(session: ServerSession) -> None:
    before = session.up_since
    assert before is not None
    session.restart()

    async with asyncio.timeout(WAIT_S):
        while (now := session.up_since) is None or now <= before:
            await asyncio.sleep(0.01)
