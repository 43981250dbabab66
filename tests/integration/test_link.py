"""The MQTT link against real brokers, and against servers that do not keep the protocol."""

import asyncio
import contextlib
import datetime as dt
import gc
import ipaddress
import itertools
import shutil
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from firmware_store.errors import BrokerUnavailableError, ForbiddenError, InvalidInputError
from server.mqtt import connection
from server.mqtt.link import Incoming, MqttLink, Will
from server.mqtt.stream import Stream, TransportContext
from tests.brokers import Broker, mosquitto, nats
from tests.ports import free_port

PATIENCE_S = 10
CONNACK = b"\x20\x02\x00\x00"
DISCONNECT = b"\xe0\x00"


without_mosquitto = pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not installed")


@pytest.fixture(params=[nats, pytest.param(mosquitto, marks=[pytest.mark.peer, without_mosquitto])])
def any_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    broker = request.param(tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def start_nats(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    started: list[Broker] = []

    def start(**config: str) -> Broker:
        broker = nats(tmp_path, **config)
        broker.start()
        started.append(broker)
        return broker

    yield start
    for broker in started:
        broker.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


class Peer:
    """A link that runs, and what came to it."""

    def __init__(self, port: int, client_id: str, *, topics: list[tuple[str, int]] | None = None, **options) -> None:
        self.messages: list[Incoming] = []
        self.ups: list[bool] = []
        self.downs: list[str] = []
        self._topics = topics or []
        self.link = MqttLink(
            **{
                "host": "127.0.0.1",
                "port": port,
                "client_id": client_id,
                "on_message": self.messages.append,
                "on_up": self._on_up,
                "on_down": self.downs.append,
                "reconnect_min_s": 0.02,
                "reconnect_max_s": 0.1,
                **options,
            }
        )
        self.running = asyncio.create_task(self.link.run(), name=f"link {client_id}")

    def _on_up(self, session_present: bool) -> None:
        self.ups.append(session_present)
        if self._topics:
            self.link.subscribe(self._topics)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., object]]:
    """Start a link and wait until it is up (and, through a round trip, subscribed)."""
    peers: list[Peer] = []

    async def connect_one(broker: Broker, client_id: str, *, wait: bool = True, **options) -> Peer:
        peer = Peer(broker.port, client_id, **options)
        peers.append(peer)
        if wait:
            await until(lambda: peer.link.connected)
            if peer._topics:
                await peer.link.subscribe_acked(peer._topics)
        return peer

    yield connect_one
    for peer in peers:
        await peer.link.close()
        await peer.running


Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(converse: Conversation) -> AsyncIterator[int]:
    """A server of our own on a port of its own; what its conversations hold is closed before the test ends."""
    conversations: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.append(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError):
                await reader.read(100)  # CONNECT
                await converse(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
    for conversation in conversations:
        conversation.cancel()
    await asyncio.gather(*conversations, return_exceptions=True)


def answering(*answers: bytes) -> contextlib.AbstractAsyncContextManager[int]:
    """A server that answers each connection's CONNECT with these bytes and then says nothing."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            writer.write(answer)
        while await reader.read(1024):
            pass

    return serving(converse)


# --- acknowledgement -----------------------------------------------------------------------------------------------


async def test_a_report_that_was_not_acknowledged_comes_again_after_a_reconnect(any_broker, connect) -> None:
    options = {"topics": [("t/report", 1)], "clean_session": False, "manual_ack": True}
    device = await connect(any_broker, "device")
    server = await connect(any_broker, "server", **options)
    await device.link.publish_acked("t/report", b"committed")
    await device.link.publish_acked("t/report", b"not yet")
    await until(lambda: len(server.messages) == 2)
    server.link.ack(server.messages[0])
    await server.link.close()

    successor = await connect(any_broker, "server", **options)
    await device.link.publish_acked("t/report", b"next")
    await until(lambda: len(successor.messages) >= 2)

    assert successor.ups == [True]
    assert {b"not yet", b"next"} == set(successor.payloads)


async def test_acknowledging_a_message_of_an_earlier_connection_acknowledges_nothing(any_broker, connect) -> None:
    options = {"topics": [("t/report", 1)], "clean_session": False, "manual_ack": True}
    device = await connect(any_broker, "device")
    server = await connect(any_broker, "server", **options)
    await device.link.publish_acked("t/report", b"report")
    await until(lambda: server.messages)
    any_broker.stop()
    await until(lambda: not server.link.connected)
    any_broker.start()
    await until(lambda: len(server.messages) == 2)

    server.link.ack(server.messages[0])
    await server.link.close()
    successor = await connect(any_broker, "server", **options)
    await until(lambda: successor.messages)

    assert successor.payloads == [b"report"]


async def test_what_on_message_fails_on_stays_unacknowledged_and_the_link_lives(any_broker, connect) -> None:
    seen = []

    def fail_on_poison(message: Incoming) -> None:
        seen.append(message.payload)
        if message.payload == b"poison":
            raise LookupError("a bug")

    device = await connect(any_broker, "device")
    server = await connect(
        any_broker, "server", topics=[("t/report", 1)], clean_session=False, on_message=fail_on_poison
    )
    await device.link.publish_acked("t/report", b"poison")
    await device.link.publish_acked("t/report", b"wholesome")
    await until(lambda: b"wholesome" in seen)
    assert server.link.connected
    assert server.downs == []
    await server.link.close()

    successor = await connect(any_broker, "server", topics=[("t/report", 1)], clean_session=False)
    await until(lambda: successor.messages)

    assert successor.payloads == [b"poison"]


async def test_a_message_is_acknowledged_once_however_often_it_is_asked() -> None:
    acks = bytearray()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK + b"\x32\x07\x00\x01t\x00\x05hi")
        while data := await reader.read(100):
            acks.extend(data)

    async with serving(converse) as port:
        peer = Peer(port, "device", manual_ack=True)
        await until(lambda: peer.messages)
        peer.link.ack(peer.messages[0])
        peer.link.ack(peer.messages[0])
        await peer.link.close()
        await until(lambda: acks.endswith(DISCONNECT))

    assert acks == b"\x40\x02\x00\x05" + DISCONNECT


# --- connection lost and found -------------------------------------------------------------------------------------


async def test_a_link_comes_back_after_the_broker_restarts_and_subscribes_again(any_broker, connect) -> None:
    observer = await connect(any_broker, "observer", topics=[("t/+", 0)])
    any_broker.stop()
    await until(lambda: not observer.link.connected)
    any_broker.start()
    await until(lambda: len(observer.ups) == 2)

    await observer.link.publish_acked("t/1", b"again")
    await until(lambda: observer.messages)

    assert observer.ups == [False, False]
    assert observer.link.last_error is None


async def test_links_that_lost_their_broker_together_do_not_come_back_together() -> None:
    attempts: dict[int, list[float]] = {}
    loop = asyncio.get_running_loop()
    closed_port = free_port()
    peers = [
        Peer(closed_port, f"d{n}", on_down=lambda _, n=n: attempts.setdefault(n, []).append(loop.time()))
        for n in range(16)
    ]
    await until(lambda: len(attempts) == 16 and all(len(times) >= 5 for times in attempts.values()))
    for peer in peers:
        await peer.link.close()
        await peer.running

    waits = [[b - a for a, b in itertools.pairwise(times)] for times in attempts.values()]

    assert min(min(of_one) for of_one in waits) >= 0.02
    fourth = [of_one[3] for of_one in waits]  # uniform from 0.02 to 0.1 s
    assert max(fourth) - min(fourth) > 0.02


async def test_publishing_and_subscribing_while_down_raise_and_queue_nothing(any_broker, connect) -> None:
    peer = await connect(any_broker, "device", topics=[("t/#", 0)])
    any_broker.stop()
    await until(lambda: not peer.link.connected)

    with pytest.raises(BrokerUnavailableError):
        peer.link.publish_nowait("t/1", b"lost")
    with pytest.raises(BrokerUnavailableError):
        peer.link.publish("t/1", b"lost", qos=1)
    with pytest.raises(BrokerUnavailableError):
        await peer.link.publish_acked("t/1", b"lost")
    with pytest.raises(BrokerUnavailableError):
        peer.link.subscribe([("t/2", 0)])
    any_broker.start()
    await until(lambda: len(peer.ups) == 2)
    await peer.link.publish_acked("t/1", b"fresh")
    await until(lambda: peer.messages)

    assert peer.payloads == [b"fresh"]


async def test_a_publication_under_way_fails_when_the_connection_ends() -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        await reader.read(100)  # PUBLISH, never answered

    async with serving(converse) as port:
        peer = Peer(port, "device")
        await until(lambda: peer.link.connected)
        confirmed = peer.link.publish("t/1", b"unknown", qos=1)

        with pytest.raises(BrokerUnavailableError, match="ended before the broker answered"):
            await confirmed
        await peer.link.close()


async def test_a_will_is_published_when_the_link_drops_and_not_when_it_closes(any_broker, connect) -> None:
    observer = await connect(any_broker, "observer", topics=[("gone/+", 1)])
    for client_id in ("closes", "drops"):
        peer = await connect(any_broker, client_id, will=Will(f"gone/{client_id}", b"gone"))
        await peer.link.close(graceful=client_id == "closes")
    await until(lambda: observer.messages)
    await observer.link.publish_acked("gone/last", b"")
    await until(lambda: observer.messages[-1].topic == "gone/last")

    assert [message.topic for message in observer.messages] == ["gone/drops", "gone/last"]


async def test_a_link_that_was_dropped_is_silent(any_broker, connect) -> None:
    sender = await connect(any_broker, "sender")
    device = await connect(any_broker, "device", topics=[("t/1", 0)])
    device.link.drop()
    await device.running
    await sender.link.publish_acked("t/1", b"too late")

    assert not device.link.connected
    assert (device.messages, device.downs) == ([], [])
    with pytest.raises(BrokerUnavailableError):
        device.link.publish_nowait("t/1", b"")


async def test_a_link_that_its_own_callback_drops_delivers_no_more() -> None:
    seen = []

    def drop(message: Incoming) -> None:
        seen.append(message.payload)
        device.link.drop()

    async with answering(CONNACK + b"\x30\x04\x00\x01t1\x30\x04\x00\x01t2") as port:
        device = Peer(port, "device", on_message=drop)
        async with asyncio.timeout(PATIENCE_S):
            await device.running

    assert seen == [b"1"]


async def test_nothing_is_delivered_before_the_broker_has_accepted() -> None:
    async with answering(b"\x30\x04\x00\x01t1" + CONNACK + b"\x30\x04\x00\x01t2") as port:
        device = Peer(port, "device")
        await until(lambda: device.messages)
        await device.link.close()

    assert device.payloads == [b"2"]


async def test_packets_leave_in_the_order_they_were_made() -> None:
    received = bytearray()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        while data := await reader.read(1024):
            received.extend(data)

    async with serving(converse) as port:
        peer = Peer(port, "device")
        await until(lambda: peer.link.connected)
        peer.link.publish_nowait("t/1", b"A")
        confirmed = peer.link.publish("t/1", b"B", qos=1)
        peer.link.publish_nowait("t/1", b"C")
        peer.link.subscribe([("t/1", 0)])
        peer.link.publish_nowait("t/1", b"D")
        await peer.link.close()
        await until(lambda: received.endswith(DISCONNECT))

    positions = [received.index(part) for part in (b"A", b"B", b"C", b"\x82", b"D")]
    assert positions == sorted(positions)
    assert isinstance(confirmed.exception(), BrokerUnavailableError)


async def test_a_graceful_close_sends_what_was_published_before_it() -> None:
    received = bytearray()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CONNACK)
        while data := await reader.read(65536):
            received.extend(data)

    async with serving(converse) as port:
        peer = Peer(port, "device")
        await until(lambda: peer.link.connected)
        for _ in range(128):
            peer.link.publish_nowait("t/1", bytes(65536))  # far more than the system buffers
        await peer.link.close()
        await until(lambda: received.endswith(DISCONNECT))

    assert received.count(b"t/1") == 128


# --- refusals ------------------------------------------------------------------------------------------------------

ACCOUNTS = """
authorization { users: [ { user: "device", password: "right",
    permissions: { publish: ["t.up", "$MQTT.>"], subscribe: ["t.down", "$MQTT.sub.>"] } } ] }
"""


async def test_rejected_credentials_are_visible(start_nats, connect) -> None:
    broker = start_nats(accounts=ACCOUNTS)
    right = await connect(broker, "device", username="device", password="right")
    wrong = await connect(broker, "intruder", wait=False, username="device", password="wrong")
    await until(lambda: any("Not authorized" in reason for reason in wrong.downs))

    assert right.link.connected
    assert not wrong.link.connected
    assert "refused" in wrong.link.last_error


async def test_a_refused_subscription_raises_and_the_allowed_one_works(start_nats, connect) -> None:
    broker = start_nats(accounts=ACCOUNTS)
    device = await connect(broker, "device", username="device", password="right")

    with pytest.raises(ForbiddenError, match="t/other"):
        await device.link.subscribe_acked([("t/other", 0)])
    await device.link.subscribe_acked([("t/down", 0)])

    assert device.link.connected


@pytest.mark.parametrize("topic", ["t/+", "t/#", ""])
async def test_publishing_on_what_is_no_topic_is_refused(topic, start_nats, connect) -> None:
    peer = await connect(start_nats(), "device")

    with pytest.raises(InvalidInputError):
        peer.link.publish_nowait(topic, b"")
    with pytest.raises(InvalidInputError):
        peer.link.subscribe([("t/#/x", 0)])


# --- load ----------------------------------------------------------------------------------------------------------


async def test_two_hundred_links_share_one_process(any_broker, connect) -> None:
    observer = await connect(any_broker, "observer", topics=[("up/+", 0)])
    devices = [await connect(any_broker, f"d{n}", wait=False, topics=[(f"down/{n}", 0)]) for n in range(200)]
    await until(lambda: all(device.link.connected for device in devices))
    await asyncio.gather(
        *(device.link.publish_acked(f"up/{n}", f"hello {n}".encode()) for n, device in enumerate(devices))
    )
    for n in range(200):
        observer.link.publish_nowait(f"down/{n}", f"welcome {n}".encode())
    await until(lambda: len(observer.messages) == 200 and all(device.messages for device in devices))

    assert {f"hello {n}".encode() for n in range(200)} == set(observer.payloads)
    assert [[f"welcome {n}".encode()] for n in range(200)] == [device.payloads for device in devices]


async def test_large_payloads_arrive_whole_and_in_order(any_broker, connect) -> None:
    payloads = [n.to_bytes(4, "big") * 16384 for n in range(100)]  # 64 KiB each
    sender = await connect(any_broker, "sender")
    receiver = await connect(any_broker, "receiver", topics=[("blob", 1)])

    await asyncio.gather(*(sender.link.publish_acked("blob", payload) for payload in payloads))
    await until(lambda: len(receiver.messages) == len(payloads))

    assert payloads == receiver.payloads


async def test_a_broker_that_does_not_read_is_not_waited_for_with_unbounded_memory() -> None:
    reading = asyncio.Event()
    received = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        writer.write(CONNACK)
        await reading.wait()
        while data := await reader.read(1 << 20):
            received += len(data)

    payload = bytes(65536)
    async with serving(converse) as port:
        peer = Peer(port, "sender")
        await until(lambda: peer.link.connected)
        taken = 0

        async def publish_for_ever() -> None:
            nonlocal taken
            while True:
                peer.link.publish_nowait("blob", payload)
                taken += len(payload)
                await asyncio.sleep(0)

        with pytest.raises(BrokerUnavailableError, match="does not keep up"):
            await publish_for_ever()

        assert taken < connection.MAX_UNSENT_BYTES * 2
        reading.set()
        await until(lambda: received >= taken)
        peer.link.publish_nowait("blob", payload)
        await until(lambda: received >= taken + len(payload))
        await peer.link.close()


# --- servers that do not keep the protocol --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
        pytest.param(b"\x20\x02\x00\x01", id="wrong protocol version"),
        pytest.param(CONNACK + b"\x30\xff\xff\xff\xff\xff", id="a length of five bytes"),
        pytest.param(CONNACK + b"\x30\x02\x00\x09", id="a topic beyond the packet"),
        pytest.param(CONNACK + b"\x90\x03\x00\x01\x07", id="a SUBACK code that does not exist"),
        pytest.param(CONNACK + b"\x40\x01\x00", id="half a PUBACK"),
        pytest.param(CONNACK + CONNACK + b"\xf0\x00", id="a packet type that does not exist"),
    ],
)
async def test_a_broker_that_talks_garbage_is_left_and_tried_again(garbage, monkeypatch) -> None:
    monkeypatch.setattr(connection, "CONNACK_TIMEOUT_S", 0.1)
    async with answering(garbage) as port:
        peer = Peer(port, "device")
        await until(lambda: len(peer.downs) >= 2)
        await peer.link.close()

    assert peer.messages == []


async def test_a_topic_that_is_not_utf8_is_dropped_and_the_link_lives() -> None:
    async with answering(CONNACK, b"\x30\x04\x00\x01\xffx", b"\x30\x04\x00\x01tx") as port:
        peer = Peer(port, "device")
        await until(lambda: peer.messages)
        await peer.link.close()

    assert peer.payloads == [b"x"]


async def test_no_connack_in_time_ends_the_attempt(monkeypatch) -> None:
    monkeypatch.setattr(connection, "CONNACK_TIMEOUT_S", 0.05)
    async with answering() as port:
        peer = Peer(port, "device")
        await until(lambda: peer.downs)
        await peer.link.close()

    assert "no CONNACK" in peer.downs[0]


async def test_a_peer_that_fell_silent_is_noticed_by_the_keep_alive() -> None:
    async with answering(CONNACK) as port:
        peer = Peer(port, "device", keepalive_s=1)
        await until(lambda: peer.downs)
        await peer.link.close()

    assert peer.downs == ["Keep alive timeout"]


async def test_closing_does_not_wait_for_a_connect_that_hangs(monkeypatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.3)
    async with answering() as port:  # never answers the TLS handshake
        peer = Peer(port, "device", tls=ssl.create_default_context())
        await until(_open_tls_sockets)
        async with asyncio.timeout(0.2):
            await peer.link.close()
        await peer.running
        await until(lambda: not _open_tls_sockets())


def _open_tls_sockets() -> list[ssl.SSLSocket]:
    return [thing for thing in gc.get_objects() if isinstance(thing, ssl.SSLSocket) and thing.fileno() != -1]


async def test_a_connection_that_comes_about_after_the_close_is_closed(monkeypatch) -> None:
    entered, released = threading.Event(), threading.Event()
    wrapped: list[Stream] = []
    wrap_socket = TransportContext.wrap_socket

    def wrap_slowly(self, *args, **kwargs) -> Stream:
        entered.set()
        released.wait(PATIENCE_S)
        wrapped.append(wrap_socket(self, *args, **kwargs))
        return wrapped[0]

    monkeypatch.setattr(TransportContext, "wrap_socket", wrap_slowly)
    async with answering(CONNACK) as port:
        peer = Peer(port, "device")
        await until(entered.is_set)
        await peer.link.close()
        await peer.running
        released.set()
        await until(lambda: wrapped and wrapped[0].fileno() == -1)

    assert peer.ups == []


# --- life and death ------------------------------------------------------------------------------------------------


async def test_cancelling_run_closes_the_socket(start_nats) -> None:
    peer = Peer(start_nats().port, "device")
    await until(lambda: peer.link.connected)
    peer.running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await peer.running

    assert not peer.link.connected
    await peer.link.close()


def test_a_loop_that_ends_leaves_no_socket_open(tmp_path) -> None:
    broker = nats(tmp_path)
    broker.start()

    async def leave_it_running() -> None:
        for n in range(3):
            Peer(broker.port, f"device{n}")
        peer = Peer(broker.port, "device")
        await until(lambda: peer.link.connected)

    try:
        asyncio.run(leave_it_running())
        gc.collect()  # an unclosed socket is a ResourceWarning here, and so a failure
    finally:
        broker.stop()


async def test_closing_before_run_means_that_run_does_nothing() -> None:
    link = MqttLink(host="127.0.0.1", port=free_port(), client_id="d", on_message=print)
    await link.close()

    async with asyncio.timeout(PATIENCE_S):
        await link.run()

    with pytest.raises(RuntimeError):
        await link.run()


# --- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1 that is its own authority; the key lies beside it as key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


async def test_messages_of_every_size_pass_through_tls(start_nats, connect, certificate) -> None:
    broker = start_nats(mqtt=f', tls {{ cert_file: "{certificate}", key_file: "{certificate.parent}/key.pem" }}')
    tls = ssl.create_default_context(cafile=certificate)
    peer = await connect(broker, "device", topics=[("t/1", 1)], tls=tls)
    payloads = [bytes([n]) * size for n, size in enumerate((0, 1, 16384, 65536, 200_000, 16383))]

    await asyncio.gather(*(peer.link.publish_acked("t/1", payload) for payload in payloads))
    await until(lambda: len(peer.messages) == len(payloads))

    assert payloads == peer.payloads


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_of_nobody_we_trust_or_of_another_host_is_refused(
    host, start_nats, connect, certificate
) -> None:
    broker = start_nats(mqtt=f', tls {{ cert_file: "{certificate}", key_file: "{certificate.parent}/key.pem" }}')
    trusted = certificate if host == "localhost" else None
    peer = await connect(broker, "device", wait=False, host=host, tls=ssl.create_default_context(cafile=trusted))
    await until(lambda: any("CERTIFICATE_VERIFY_FAILED" in reason for reason in peer.downs))
    gc.collect()

    assert peer.ups == []
