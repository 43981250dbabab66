"""Somebody with a device's credential, who connects in its place: the broker ends the device's own session."""

import asyncio
import secrets
from typing import Final

from device_sim.agent.device import DeviceConfig, connect_mqtt
from device_sim.agent.runner import NONCE_BYTES
from server.mqtt.link import Will
from server.protocol.messages import Gone, encode_gone
from server.protocol.topics import Topics, Up

HELD_S: Final = 0.5
"""So long the intruder keeps the session, in real seconds."""
UP_S: Final = 10.0


async def take_over(config: DeviceConfig) -> bool:
    """Connect as the device and leave again without a word; tell whether the broker has let it."""
    topics, loop = Topics(config.topic_root), asyncio.get_running_loop()
    up: asyncio.Future[None] = loop.create_future()
    nonce = secrets.token_bytes(NONCE_BYTES)
    link = connect_mqtt(
        config,
        will=Will(
            topics.up(config.region, config.device_id, Up.GONE), encode_gone(Gone(secrets.token_bytes(8), nonce))
        ),
        on_message=lambda _message: None,
        on_up=lambda _present: None if up.done() else up.set_result(None),
        on_down=lambda _reason: None,
    )
    running = asyncio.create_task(link.run(), name=f"takeover {config.device_id}")
    try:
        async with asyncio.timeout(UP_S):
            await up
        await asyncio.sleep(HELD_S)
    except TimeoutError:
        return False
    finally:
        link.drop()
        await running
    return True
