"""The server's own session at the broker: what the services publish goes out here, what devices say comes in.

The session is persistent with a fixed client id, so that reports wait at the broker while the server is away. It is
subscribed to what only the server publishes, too: what the broker retains is compared with what it should.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from firmware_store.errors import BrokerUnavailableError, CodecError, TidegateError
from server.mqtt.link import Incoming, MqttLink
from server.protocol.topics import Topics
from server.services.wire import Retained

log = structlog.get_logger(__name__)

RECONCILE_S: Final = 60.0
SETTLE_S: Final = 2.0
"""How long retained messages may take to arrive after a subscription; a broker has no way to say "that was all"."""

SAMPLE_S: Final = 2.0
"""How long blobs that are looked for may take to arrive."""

Repair = Callable[[Retained], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BrokerAccess:
    """How the server reaches its broker."""

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None


class ServerSession:
    """``run()`` keeps it up; it is the services' ``Wire``."""

    def __init__(
        self,
        access: BrokerAccess,
        *,
        topics: Topics,
        on_up: Callable[[], None] | None = None,
        may_speak: Callable[[], bool] = lambda: True,
    ) -> None:
        """While ``may_speak`` says no, nothing is published, and a session that has ended is not taken back."""
        self._topics = topics
        self._may_speak = may_speak
        self._up_since: float | None = None
        self._ever_up = asyncio.Event()
        self._due_to_compare = asyncio.Event()
        self._retained: Retained | None = None
        self._sample: dict[str, bytes | None] = {}
        self._sampled = asyncio.Event()
        self._own = (*topics.all_directives, *topics.all_trust)
        self.on_message: Callable[[Incoming], None] = self.ack
        self.on_up = on_up
        self._link = MqttLink(
            host=access.host,
            port=access.port,
            client_id=access.client_id,
            username=access.username,
            password=access.password,
            tls=access.tls,
            clean_session=False,
            manual_ack=True,
            on_message=self._receive,
            on_up=self._up,
            on_down=self._down,
            reconnect_max_s=5,
            may_connect=may_speak,
        )

    @property
    def up_since(self) -> float | None:
        """Unix seconds since when the session is up, or None while it is down."""
        return self._up_since if self._link.connected and self._may_speak() else None

    async def publish_retained(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 1, retained, and return when the broker has it. Raises: BrokerUnavailableError."""
        self._check_may_speak()
        await self._link.publish_acked(topic, payload, retain=True)

    async def read_retained(self, topics: Collection[str]) -> Mapping[str, bytes]:
        """Return what the broker retains on some blobs' topics; what it has not sent in time is left out.

        One caller at a time. Raises: BrokerUnavailableError, ForbiddenError.
        """
        if not topics:
            return {}
        self._sample = dict.fromkeys(topics)
        self._sampled.clear()
        try:
            await self._link.subscribe_acked([(topic, 0) for topic in topics])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAMPLE_S):
                    await self._sampled.wait()
            self._link.unsubscribe(list(topics))
            return {topic: payload for topic, payload in self._sample.items() if payload is not None}
        finally:
            self._sample = {}

    def publish_nowait(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0. Raises: BrokerUnavailableError."""
        self._check_may_speak()
        self._link.publish_nowait(topic, payload)

    def _check_may_speak(self) -> None:
        if not self._may_speak():
            raise BrokerUnavailableError("This node may not hold the lease any more: it publishes nothing.")

    def ack(self, incoming: Incoming) -> None:
        """Tell the broker that a QoS 1 message has been dealt with."""
        if incoming.qos:
            self._link.ack(incoming)

    async def run(self) -> None:
        """Serve for ever."""
        await self._link.run()

    def restart(self) -> None:
        """End the session and begin it again: nobody is judged by what was not heard before."""
        self._link.restart()

    async def close(self) -> None:
        """End it; what is still to be sent is dropped if it may not be said any more."""
        await self._link.close(graceful=self._may_speak())

    async def wait_up(self, timeout_s: float) -> None:
        """Raises: BrokerUnavailableError: not up in time; the reason is the broker's last word."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ever_up.wait()
        except TimeoutError as exc:
            raise BrokerUnavailableError(f"No session at the broker: {self._link.last_error}.") from exc

    async def reconcile(self, repair: Repair) -> None:
        """Serve for ever: at each connect and each minute, hand over what the broker retains of ours."""
        while True:
            await self._due_to_compare.wait()
            self._due_to_compare.clear()
            try:
                await repair(await self._read_retained())
            except TidegateError as exc:  # whatever it is, the next comparison may mend it; the server goes on
                log.warning("retained_not_compared", reason=str(exc))
            try:
                async with asyncio.timeout(RECONCILE_S):
                    await self._due_to_compare.wait()
            except TimeoutError:
                self._due_to_compare.set()

    async def _read_retained(self) -> Retained:
        retained = Retained()
        self._retained = retained
        try:
            await self._link.subscribe_acked([(topic, 0) for topic in self._own])
            await asyncio.sleep(SETTLE_S)
        finally:
            self._retained = None
        return retained

    def _up(self, session_present: bool) -> None:
        log.info("broker_up", session_present=session_present)
        self._link.subscribe([(self._topics.all_up, 1)])
        self._up_since = time.time()
        self._ever_up.set()
        self._due_to_compare.set()
        if self.on_up is not None:
            self.on_up()

    def _down(self, reason: str) -> None:
        self._up_since = None
        log.warning("broker_down", reason=reason)

    def _receive(self, incoming: Incoming) -> None:
        if self._is_own(incoming.topic):
            self._note_own(incoming)
            self.ack(incoming)
        elif self._topics.is_blob(incoming.topic):
            self._note_sample(incoming)
            self.ack(incoming)
        else:
            self.on_message(incoming)

    def _note_sample(self, incoming: Incoming) -> None:
        if incoming.topic in self._sample:
            self._sample[incoming.topic] = incoming.payload
            if None not in self._sample.values():
                self._sampled.set()

    def _is_own(self, topic: str) -> bool:
        return self._topics.is_trust(topic) or (topic.endswith("/directive") and not topic.endswith("/up/directive"))

    def _note_own(self, incoming: Incoming) -> None:
        retained = self._retained
        if retained is None:
            return
        # Live or not: what is published on these topics is retained, so the last of each is what the broker has.
        try:
            if not self._topics.is_trust(incoming.topic):
                retained.directives[self._topics.parse_directive(incoming.topic)] = incoming.payload
            elif incoming.topic == self._topics.trust_status:
                retained.status = incoming.payload
            else:
                retained.roots[self._topics.parse_trust_root(incoming.topic)] = incoming.payload
        except CodecError as exc:
            log.warning("foreign_topic", topic=incoming.topic, reason=str(exc))
