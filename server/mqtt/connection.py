"""One MQTT connection: a paho client on the running event loop, from its TCP connect to its end.

paho is driven by its documented calls for foreign event loops: ``loop_read``, ``loop_write`` and ``loop_misc``, the
socket callbacks, ``manual_ack`` and ``ack``. Its ``connect()`` blocks, so it runs in threads that all connections
share; from then on everything happens on the event loop's thread. A connection is never revived: the next one has a
new client, so that nothing (packet ids, queued messages, half a packet) gets into it from the one before.

paho keeps the session: connect, subscribe, publications at QoS 1, keep-alive, end. Messages that come, and PUBACKs and
messages of QoS 0 that go, take the short way of `server.mqtt.packets` past it, in order with paho's packets.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, cast

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from firmware_store.errors import BrokerUnavailableError, ForbiddenError, InvalidInputError
from server.mqtt.packets import Incoming, encode_puback, encode_publication
from server.mqtt.pump import Pump
from server.mqtt.stream import Stream, TransportContext

CONNECT_TIMEOUT_S: Final = 5.0  # TCP, and once more for TLS
CONNACK_TIMEOUT_S: Final = 10.0
DRAIN_TIMEOUT_S: Final = 2.0  # for the unsent bytes of a graceful end
CONNECT_THREADS: Final = 16  # for all links of the process
MAX_UNCONFIRMED: Final = 4096  # QoS 1 publications without a PUBACK; packet ids end at 65,535
MAX_UNSENT_BYTES: Final = 16 * 1024 * 1024

log = structlog.get_logger(__name__)

_connectors = ThreadPoolExecutor(CONNECT_THREADS, thread_name_prefix="mqtt-connect")


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes in the client's name when the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to connect, and as whom."""

    host: str
    port: int
    client_id: str
    username: str | None
    password: str | None = field(repr=False)
    transport: TransportContext
    clean_session: bool
    keepalive_s: int
    will: Will | None


class Connection:
    """``await open()``, then wait for ``ended``, a future that gets the reason as text.

    ``on_up`` and ``on_message`` are called on the event loop's thread; what they raise is logged, and a message whose
    callback raised stays unacknowledged.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        on_up: Callable[[bool], None],
        on_message: Callable[[Incoming], None],
        manual_ack: bool,
    ) -> None:
        self._endpoint = endpoint
        self._on_up = on_up
        self._on_message = on_message
        self._manual_ack = manual_ack
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.is_up = False
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._rejection: str | None = None
        self._pump: Pump | None = None
        self._unacknowledged: dict[int, Incoming] = {}
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._subscribing: dict[int, tuple[asyncio.Future[None], Sequence[tuple[str, int]]]] = {}
        self._client = self._build_client()

    def _build_client(self) -> Client:
        endpoint = self._endpoint
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=endpoint.client_id,
            clean_session=endpoint.clean_session,
            reconnect_on_failure=False,
            manual_ack=True,  # always: on its own paho would acknowledge what our callback failed on
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages = 0  # no limit, and no search of the queue at each PUBACK; `publish` bounds it
        if endpoint.username is not None:
            client.username_pw_set(endpoint.username, endpoint.password)
        if endpoint.will is not None:
            client.will_set(endpoint.will.topic, endpoint.will.payload, endpoint.will.qos, endpoint.will.retain)
        client.tls_set_context(cast("ssl.SSLContext", endpoint.transport))
        client.on_connect = self._connack_came
        client.on_disconnect = self._paho_ended
        client.on_message = self._message_came
        client.on_publish = self._puback_came
        client.on_subscribe = self._suback_came
        client.on_socket_register_write = self._packet_queued
        client.on_socket_close = self._socket_closing
        return client

    # --- from connect to end ---

    async def open(self) -> None:
        """Connect, and wait until the broker has accepted.

        Raises:
            BrokerUnavailableError: no connection, or the broker refused it; the connection has ended.
        """
        try:
            await self._connect()
            await asyncio.wait(
                (self._accepted, self.ended), timeout=CONNACK_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
        except BaseException:
            self.abort("the connection was given up")
            raise
        if not self._accepted.done():
            self.abort(f"no CONNACK within {CONNACK_TIMEOUT_S:g} s")
        if self.ended.done():
            raise BrokerUnavailableError(self.ended.result())

    async def _connect(self) -> None:
        endpoint = self._endpoint
        connecting = _connectors.submit(self._client.connect, endpoint.host, endpoint.port, endpoint.keepalive_s)
        connected = asyncio.wrap_future(connecting)
        adopted = False
        try:
            await asyncio.wait((connected, self.ended), return_when=asyncio.FIRST_COMPLETED)
            if not self.ended.done():
                connected.result()
                self._attach()
                adopted = True
        except (OSError, ValueError) as exc:
            self._end(f"cannot connect to {endpoint.host}:{endpoint.port}: {exc}")
        finally:
            if not adopted:  # the thread may still be at it, and bring a socket that nobody waits for
                if not connected.cancel():
                    connected.exception()  # looked at, or asyncio reports it as never retrieved
                connecting.add_done_callback(lambda _: self._close_unused())

    def _attach(self) -> None:
        stream = self._client.socket()
        assert isinstance(stream, Stream)
        self._pump = Pump(
            self._client,
            stream,
            keepalive_s=self._endpoint.keepalive_s,
            on_message=self._deliver,
            on_failure=self.abort,
        )
        self._pump.take_from_paho()  # the CONNECT, which the connecting thread has queued

    def _close_unused(self) -> None:
        stream = self._client.socket()
        if isinstance(stream, Stream):
            stream.abort()

    async def disconnect(self) -> None:
        """End in order: send what is unsent (for a bounded time), then DISCONNECT, so that no will is published."""
        await asyncio.sleep(0)  # out of any callback of paho's, whose locks a DISCONNECT needs
        if self.is_up and self._pump is not None:
            await self._pump.drain(DRAIN_TIMEOUT_S)
            self._client.disconnect()
        self.abort("closed")

    def abort(self, reason: str) -> None:
        """End at once and without a DISCONNECT; the broker publishes the will."""
        self._end(reason)
        if self._pump is not None:
            self._pump.close()

    def _end(self, reason: str) -> None:
        if self.ended.done():
            return
        self.is_up = False
        self.ended.set_result(reason)
        lost = BrokerUnavailableError(f"the connection ended before the broker answered: {reason}")
        waiting = [*self._unconfirmed.values(), *(future for future, _ in self._subscribing.values())]
        self._unconfirmed.clear()
        self._subscribing.clear()
        self._unacknowledged.clear()
        for future in waiting:
            _fail(future, lost)

    # --- what users of the connection do ---

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> asyncio.Future[None] | None:
        """Queue a message; at QoS 1 the future is done at its PUBACK.

        Raises:
            BrokerUnavailableError: not connected, or too much is waiting already; the message was not taken.
            InvalidInputError: no topic to publish on, or too long a payload.
        """
        if not self.is_up or self._pump is None:
            raise BrokerUnavailableError("not connected to the broker")
        if len(self._unconfirmed) >= MAX_UNCONFIRMED or self._pump.unsent_bytes >= MAX_UNSENT_BYTES:
            raise BrokerUnavailableError("the broker does not keep up: too many messages wait for it")
        if qos == 0:
            self._pump.send(encode_publication(topic, payload, retain=retain))
            return None
        try:
            info = self._client.publish(topic, payload, qos, retain)
        except ValueError as exc:
            raise InvalidInputError(f"cannot publish on {topic!r}: {exc}") from exc
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise BrokerUnavailableError(f"the message was not taken: {info.rc.name}")
        confirmed = self._unconfirmed[info.mid] = self._loop.create_future()
        return confirmed

    def subscribe(self, topics: Sequence[tuple[str, int]]) -> asyncio.Future[None]:
        """Ask for (topic filter, QoS) pairs; the future is done at the SUBACK.

        Raises:
            BrokerUnavailableError: not connected.
            InvalidInputError: not a topic filter.
        """
        try:
            _, mid = self._client.subscribe(list(topics))
        except ValueError as exc:
            raise InvalidInputError(f"cannot subscribe: {exc}") from exc
        if mid is None or not self.is_up:
            raise BrokerUnavailableError("not connected to the broker")
        granted: asyncio.Future[None] = self._loop.create_future()
        self._subscribing[mid] = (granted, topics)
        return granted

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Take subscriptions back.

        Raises:
            BrokerUnavailableError: not connected.
            InvalidInputError: not a topic filter.
        """
        try:
            _, mid = self._client.unsubscribe(list(topics))
        except ValueError as exc:
            raise InvalidInputError(f"cannot unsubscribe: {exc}") from exc
        if mid is None:
            raise BrokerUnavailableError("not connected to the broker")

    def ack(self, incoming: Incoming) -> None:
        """Acknowledge once; a message of an earlier connection is left alone, its id means another message here."""
        if self._unacknowledged.get(incoming.mid) is incoming:
            del self._unacknowledged[incoming.mid]
            if incoming.qos == 1 and self._pump is not None:
                self._pump.send(encode_puback(incoming.mid))
            else:
                self._client.ack(incoming.mid, incoming.qos)

    def _deliver(self, incoming: Incoming) -> None:
        if not self.is_up:  # ended by the message before
            return
        if incoming.qos:
            self._unacknowledged[incoming.mid] = incoming
        try:
            self._on_message(incoming)
        except Exception:
            log.exception("mqtt_message_callback_failed", topic=incoming.topic)
            return
        if incoming.qos and not self._manual_ack:
            self.ack(incoming)

    # --- what paho calls ---

    def _packet_queued(self, _client: Client, _userdata: Any, _socket: Any) -> None:
        if self._pump is not None:  # none yet in the connecting thread
            self._pump.take_from_paho()

    def _socket_closing(self, _client: Client, _userdata: Any, _socket: Any) -> None:
        if self._pump is not None:
            self._pump.stop()

    def _connack_came(
        self, _client: Client, _userdata: Any, flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if self.ended.done():
            return
        if reason.is_failure:
            self._rejection = f"the broker refused the connection: {reason}"
            return
        if self._accepted.done():
            self.abort("the broker sent a second CONNACK")
            return
        self.is_up = True
        self._accepted.set_result(None)
        try:
            self._on_up(flags.session_present)
        except Exception:
            log.exception("mqtt_up_callback_failed", client_id=self._endpoint.client_id)

    def _paho_ended(
        self,
        _client: Client,
        _userdata: Any,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if self._rejection is not None:
            self._end(self._rejection)
        elif self._pump is not None and self._pump.error is not None:
            self._end(f"the connection was lost: {self._pump.error}")
        elif reason.getName() == "Unspecified error":  # all that paho says of an end by the peer
            self._end(
                "the broker closed the connection" + ("" if self._accepted.done() else " instead of accepting it")
            )
        else:
            self._end(str(reason))

    def _message_came(self, client: Client, _userdata: Any, message: MQTTMessage) -> None:
        """A message that was too long or too odd for the short way."""
        try:
            topic = message.topic
        except UnicodeDecodeError:  # no broker may send it (MQTT 3.1.1, 1.5.3); left alone, it would come for ever
            log.warning("mqtt_topic_not_utf8", client_id=self._endpoint.client_id)
            client.ack(message.mid, message.qos)
            return
        self._deliver(Incoming(topic, bytes(message.payload), message.qos, message.retain, message.mid))

    def _puback_came(
        self, _client: Client, _userdata: Any, mid: int, _reason: ReasonCode, _properties: Properties | None
    ) -> None:
        confirmed = self._unconfirmed.pop(mid, None)
        if confirmed is not None and not confirmed.done():
            confirmed.set_result(None)

    def _suback_came(
        self, _client: Client, _userdata: Any, mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        granted, topics = self._subscribing.pop(mid, (None, ()))
        refused = [topic for (topic, _), reason in zip(topics, reasons, strict=False) if reason.is_failure]
        if refused:
            log.warning("mqtt_subscription_refused", client_id=self._endpoint.client_id, topics=refused)
        if granted is None or granted.done():
            return
        if refused:
            _fail(granted, ForbiddenError(f"the broker refused the subscription to {', '.join(refused)}"))
        else:
            granted.set_result(None)


def _fail(future: asyncio.Future[None], exc: Exception) -> None:
    """Fail a future that nobody may be waiting for: looked at once, it is not reported as never retrieved."""
    if not future.done():
        future.set_exception(exc)
        future.exception()
