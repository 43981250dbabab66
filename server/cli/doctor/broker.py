"""Whether an MQTT broker does what the server and its devices need: tried with messages of our own, and cleared away.

Under a client id of its own: the server's would end the server's session.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from firmware_store.errors import TidegateError
from server.cli.doctor.finding import Finding, State
from server.mqtt.link import Incoming, MqttLink
from server.mqtt.session import BrokerAccess
from server.outside import external_broker
from server.protocol.topics import Topics

ANSWER_S: Final = 10.0
LARGEST_BYTES: Final = 1 << 16
"""No message of ours is larger: an index page and an envelope have this much at most."""

_GONE: Final = b""


class Probe:
    """A connection to the broker, and what it has heard."""

    def __init__(self, access: BrokerAccess, client_id: str, *, clean: bool = True) -> None:
        self.heard: list[Incoming] = []
        self.was_kept: bool | None = None
        self._news = asyncio.Event()
        self.link = MqttLink(
            host=access.host,
            port=access.port,
            client_id=client_id,
            username=access.username,
            password=access.password,
            tls=access.tls,
            clean_session=clean,
            on_message=self._hear,
            on_up=self._come_up,
        )

    def _hear(self, message: Incoming) -> None:
        self.heard.append(message)
        self._news.set()

    def _come_up(self, session_present: bool) -> None:
        self.was_kept = session_present
        self._news.set()

    async def until_up(self) -> None:
        """Raises: TimeoutError."""
        async with asyncio.timeout(ANSWER_S):
            while self.was_kept is None:
                self._news.clear()
                await self._news.wait()

    async def until_heard(self, payload: bytes) -> bool:
        """Wait for a message with this payload; False if it does not come."""
        try:
            async with asyncio.timeout(ANSWER_S):
                while not any(message.payload == payload for message in self.heard):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def connected(access: BrokerAccess, client_id: str, *, clean: bool = True) -> AsyncIterator[Probe]:
    """Connect for the block. Raises: TimeoutError: it does not let us in."""
    probe = Probe(access, client_id, clean=clean)
    running = asyncio.create_task(probe.link.run(), name="doctor's link")
    try:
        await probe.until_up()
        yield probe
    except TimeoutError as exc:
        raise TimeoutError(probe.link.last_error or "no answer") from exc
    finally:
        await probe.link.close()
        await running


async def examine(url: str, topic_root: str) -> AsyncIterator[Finding]:
    """Yield what the broker can do, one thing after another."""
    client = f"tidegate-doctor-{secrets.token_hex(4)}"
    where = "broker connection"
    try:
        access = external_broker(url, client)
    except TidegateError as exc:
        yield Finding(where, State.FAIL, str(exc), "give --broker mqtt://user:password@host:1883")
        return
    topics = Topics(topic_root)
    try:
        async with connected(access, client) as probe:
            yield Finding(where, State.OK, f"{access.host}:{access.port} lets us in")
            yield await _retained(probe, topics, b"", "broker retained", "see that retained messages are allowed")
            large = secrets.token_bytes(LARGEST_BYTES)
            remedy = f"allow messages of {LARGEST_BYTES} bytes: max_packet_size of Mosquitto, max_payload of NATS"
            yield await _retained(probe, topics, large, "broker packet size", remedy)
        yield await _sessions(access, client, topics)
    except (TidegateError, TimeoutError) as exc:
        remedy = "look at the broker's log, its user and password, TLS, and whether it lets other client ids in"
        yield Finding(where, State.FAIL, f"{access.host}:{access.port}: {exc}", remedy)


async def _retained(probe: Probe, topics: Topics, body: bytes, check: str, remedy: str) -> Finding:
    """Keep a message, and read it back as a device would that comes later."""
    payload = body or secrets.token_bytes(32)
    topic = topics.blob(hashlib.sha256(payload).digest())
    said = f"a message of {len(payload):,} bytes is kept and read back"
    try:
        await probe.link.publish_acked(topic, payload, retain=True, timeout_s=ANSWER_S)
        await probe.link.subscribe_acked([(topic, 0)], timeout_s=ANSWER_S)
        if await probe.until_heard(payload):
            return Finding(check, State.OK, said)
        return Finding(check, State.FAIL, f"a kept message of {len(payload):,} bytes does not come back", remedy)
    except TidegateError as exc:
        return Finding(check, State.FAIL, f"a message of {len(payload):,} bytes is not taken: {exc}", remedy)
    finally:
        if probe.link.connected:
            await probe.link.publish_acked(topic, _GONE, retain=True, timeout_s=ANSWER_S)


async def _sessions(access: BrokerAccess, client: str, topics: Topics) -> Finding:
    """Leave, and see whether what was published at QoS 1 meanwhile has been kept for us."""
    check = "broker sessions, QoS 1"
    payload = secrets.token_bytes(32)
    topic = topics.blob(hashlib.sha256(payload).digest())
    keeper = f"{client}-keeps"
    async with connected(access, keeper, clean=False) as first:
        await first.link.subscribe_acked([(topic, 1)], timeout_s=ANSWER_S)
    async with connected(access, client) as other:
        await other.link.publish_acked(topic, payload, timeout_s=ANSWER_S)
    async with connected(access, keeper, clean=False) as again:
        was_kept, has_come = again.was_kept, await again.until_heard(payload)
    async with connected(access, keeper):
        pass  # a clean session ends the kept one
    if was_kept and has_come:
        return Finding(check, State.OK, "a session is kept, and what came at QoS 1 meanwhile is delivered")
    what = "the message" if was_kept else "the session"
    remedy = "allow persistent sessions with queues: the server loses reports while it is away otherwise"
    return Finding(check, State.FAIL, f"{what} was not kept while we were away", remedy)
