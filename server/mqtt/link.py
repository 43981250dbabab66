"""An MQTT client that stays connected: the paho adapter of the server and of the simulator.

It knows topics and bytes, and nothing of the server. Subscriptions are not remembered: ``on_up`` makes them again,
which is right for clean and for persistent sessions alike.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from typing import Final, Literal, overload

import structlog

from firmware_store.errors import BrokerUnavailableError
from server.mqtt.connection import Connection, Endpoint, Will
from server.mqtt.packets import Incoming
from server.mqtt.stream import TransportContext

__all__ = ["Incoming", "MqttLink", "Will"]

STABLE_S: Final = 10.0  # a connection that lived this long starts the next backoff from the beginning
CONFIRM_TIMEOUT_S: Final = 10.0
CONFIRM_WINDOW: Final = 64  # `publish_acked` calls under way at once; the others wait

log = structlog.get_logger(__name__)

_plain_transport = TransportContext(None)


class MqttLink:
    """``await run()`` keeps it connected; ``close()`` or ``drop()`` ends it for good.

    Callbacks run on the event loop's thread and must not block. ``on_up(session_present)`` comes after every CONNACK,
    ``on_down(reason)`` after every loss and after every attempt that failed. A QoS 1 message is acknowledged when
    ``on_message`` has returned, or with ``manual_ack`` by ``ack()``; if it raised, the broker sends the message again.
    ``may_connect`` is asked before each attempt.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        client_id: str,
        on_message: Callable[[Incoming], None],
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        clean_session: bool = True,
        keepalive_s: int = 30,
        will: Will | None = None,
        on_up: Callable[[bool], None] | None = None,
        on_down: Callable[[str], None] | None = None,
        manual_ack: bool = False,
        reconnect_min_s: float = 0.5,
        reconnect_max_s: float = 30,
        may_connect: Callable[[], bool] = lambda: True,
    ) -> None:
        self._endpoint = Endpoint(
            host=host,
            port=port,
            client_id=client_id,
            username=username,
            password=password,
            transport=_plain_transport if tls is None else TransportContext(tls),
            clean_session=clean_session,
            keepalive_s=keepalive_s,
            will=will,
        )
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._manual_ack = manual_ack
        self._reconnect_min_s = reconnect_min_s
        self._reconnect_max_s = reconnect_max_s
        self._may_connect = may_connect
        self._connection: Connection | None = None
        self._closing = asyncio.Event()
        self._running: asyncio.Event | None = None  # set when run() has returned
        self._window = asyncio.Semaphore(CONFIRM_WINDOW)
        self.last_error: str | None = None

    @property
    def connected(self) -> bool:
        """The broker has accepted the connection, and it has not ended."""
        return self._connection is not None and self._connection.is_up

    # --- life ---

    async def run(self) -> None:
        """Connect, and connect again after a jittered backoff, until closed; cancelling it closes as `drop` does."""
        if self._running is not None:
            raise RuntimeError("a link runs once")
        self._running = asyncio.Event()
        try:
            failures = 0
            while not self._closing.is_set():
                lived_s = await self._live_once() if self._may_connect() else 0.0
                failures = 1 if lived_s >= STABLE_S else failures + 1
                await self._pause(failures)
        finally:
            self.drop()
            self._running.set()

    async def close(self, *, graceful: bool = True) -> None:
        """End the link: in order, with a DISCONNECT, or else as `drop` does; returns when ``run()`` has ended."""
        self._closing.set()
        if graceful and self._connection is not None:
            await self._connection.disconnect()
        self.drop()
        if self._running is not None:
            await self._running.wait()

    def restart(self) -> None:
        """End the connection at once, and come again."""
        if self._connection is not None:
            self._connection.abort("restarted")

    def drop(self) -> None:
        """Close the socket at once without a DISCONNECT, as a loss of power would: the broker publishes the will."""
        self._closing.set()
        if self._connection is not None:
            self._connection.abort("dropped")

    async def _live_once(self) -> float:
        """One connection from its connect to its end; returns how many seconds it was up."""
        loop = asyncio.get_running_loop()
        connection = self._connection = Connection(
            self._endpoint, on_up=self._came_up, on_message=self._on_message, manual_ack=self._manual_ack
        )
        up_at = loop.time()
        try:
            await connection.open()
            up_at = loop.time()
            await asyncio.wait((connection.ended,))
        except BrokerUnavailableError:
            pass  # told below: ``ended`` has the reason
        finally:
            connection.abort("the link was cancelled")
        if not self._closing.is_set():
            self._went_down(connection.ended.result())
        return loop.time() - up_at

    async def _pause(self, failures: int) -> None:
        """Wait before the next attempt; a closing link does not wait.

        The bound doubles with each failure, and the wait is uniform below it: a thousand devices that lost their
        broker together do not come back together.
        """
        longest_s = min(self._reconnect_max_s, self._reconnect_min_s * 2.0 ** min(failures, 16))
        try:
            async with asyncio.timeout(random.uniform(min(self._reconnect_min_s, longest_s), longest_s)):
                await self._closing.wait()
        except TimeoutError:
            return

    def _came_up(self, session_present: bool) -> None:
        self.last_error = None
        if self._on_up is not None:
            self._on_up(session_present)

    def _went_down(self, reason: str) -> None:
        self.last_error = reason
        log.debug("mqtt_down", client_id=self._endpoint.client_id, reason=reason)
        if self._on_down is not None:
            try:
                self._on_down(reason)
            except Exception:
                log.exception("mqtt_down_callback_failed", client_id=self._endpoint.client_id)

    # --- messages ---

    @overload
    def publish(self, topic: str, payload: bytes, *, qos: Literal[0] = 0, retain: bool = False) -> None: ...
    @overload
    def publish(self, topic: str, payload: bytes, *, qos: Literal[1], retain: bool = False) -> asyncio.Future[None]: ...
    @overload
    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> asyncio.Future[None] | None: ...
    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> asyncio.Future[None] | None:
        """Hand a message to the connection; at QoS 1 the future is done when the broker has it.

        Raises:
            BrokerUnavailableError: down, or too much is waiting (there is no queue for later); not sent. From the
                future: the connection ended first, and what became of the message is unknown.
            InvalidInputError: no topic to publish on, or too long a payload.
        """
        return self._up().publish(topic, payload, qos=qos, retain=retain)

    def publish_nowait(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 0: sent once, or lost. Raises as `publish` does."""
        self._up().publish(topic, payload, qos=0, retain=retain)

    async def publish_acked(
        self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float = CONFIRM_TIMEOUT_S
    ) -> None:
        """Publish at QoS 1 and return when the broker has the message; many calls at once are paced.

        Raises:
            BrokerUnavailableError: down, lost, or no PUBACK in time; the broker may have the message all the same.
            InvalidInputError: no topic to publish on, or too long a payload.
        """
        try:
            async with asyncio.timeout(timeout_s), self._window:
                await self.publish(topic, payload, qos=1, retain=retain)
        except TimeoutError as exc:
            raise BrokerUnavailableError(f"no PUBACK within {timeout_s:g} s") from exc

    def subscribe(self, topics: Sequence[tuple[str, int]]) -> None:
        """Ask for (topic filter, QoS) pairs; a refusal is logged.

        Raises:
            BrokerUnavailableError: down.
            InvalidInputError: not a topic filter.
        """
        self._up().subscribe(topics)

    async def subscribe_acked(self, topics: Sequence[tuple[str, int]], *, timeout_s: float = CONFIRM_TIMEOUT_S) -> None:
        """Subscribe and return at the SUBACK: messages published from then on arrive.

        Raises:
            BrokerUnavailableError: down, lost, or no SUBACK in time.
            ForbiddenError: refused (though not every broker says so).
            InvalidInputError: not a topic filter.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._up().subscribe(topics)
        except TimeoutError as exc:
            raise BrokerUnavailableError(f"no SUBACK within {timeout_s:g} s") from exc

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Take subscriptions back. Raises as `subscribe` does."""
        self._up().unsubscribe(topics)

    def ack(self, incoming: Incoming) -> None:
        """Acknowledge a QoS 1 message; a message of an earlier connection is left alone, for it will come again."""
        if self._connection is not None:
            self._connection.ack(incoming)

    def _up(self) -> Connection:
        if self._connection is None or not self._connection.is_up:
            raise BrokerUnavailableError(f"not connected to the broker: {self.last_error or 'never was'}")
        return self._connection
