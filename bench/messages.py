"""Counts the orders that a server publishes: what a subscriber to every directive's topic receives from the broker."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from bench.inventory_stage import Stage

WAIT_S: Final = 180.0
QUIET_S: Final = 0.5
"""What was published by one order has come when nothing has for so long."""


class Counted:
    """Messages that are not retained ones of before."""

    def __init__(self) -> None:
        self.count = 0
        self.last = time.monotonic()

    def take(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        if not message.retain:
            self.count += 1
            self.last = time.monotonic()

    async def taken(self, *, at_least: int) -> int:
        """Return how many have come, once these have and no more do. Raises: TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            while self.count < at_least or time.monotonic() - self.last < QUIET_S:
                await asyncio.sleep(0.05)
        return self.count


@asynccontextmanager
async def counting(stage: Stage) -> AsyncIterator[Counted]:
    """Listen for the block to the directives of all cohorts and devices of this fleet."""
    counted, granted = Counted(), asyncio.Event()
    loop, target = asyncio.get_running_loop(), stage.target
    client = Client(CallbackAPIVersion.VERSION2, client_id=f"bench-count-{time.monotonic_ns()}")
    client.username_pw_set(target.username, target.password)
    filters = [(f"{stage.topic_root}/+/{what}/+/directive", 1) for what in ("cohort", "device")]

    def subscribe(*_: object) -> None:
        client.subscribe(filters)

    def grant(*_: object) -> None:
        loop.call_soon_threadsafe(granted.set)

    client.on_connect = subscribe
    client.on_subscribe = grant
    client.on_message = counted.take
    client.connect(target.host, target.port)
    client.loop_start()
    try:
        async with asyncio.timeout(WAIT_S):
            await granted.wait()
        yield counted
    finally:
        await asyncio.to_thread(client.loop_stop)
        client.disconnect()
