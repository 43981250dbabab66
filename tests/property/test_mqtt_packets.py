"""What the link decodes past paho is what paho would have decoded, wherever the network cuts the bytes."""

import socket
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from firmware_store.errors import InvalidInputError
from server.mqtt.packets import Incoming, encode_publication
from server.mqtt.stream import LONGEST_PUBLICATION_BYTES, Stream, TransportContext

TOPICS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="+#\0"), min_size=1, max_size=40)
SIZES = st.one_of(st.integers(0, 200), st.sampled_from([16_370, 16_384, 65_500, 65_536, 70_000, 200_000]))
OTHER_PACKETS = [b"\xd0\x00", b"\x90\x03\x00\x01\x00", b"\x40\x02\x00\x01"]  # PINGRESP, SUBACK, PUBACK


def remaining_length(length: int) -> bytes:
    encoded = bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*encoded, length])


def publish_packet(message: Incoming, *, dup: bool = False) -> bytes:
    topic = message.topic.encode()
    body = len(topic).to_bytes(2, "big") + topic
    if message.qos:
        body += message.mid.to_bytes(2, "big")
    body += message.payload
    first = 0x30 | dup << 3 | message.qos << 1 | message.retain
    return bytes([first]) + remaining_length(len(body)) + body


@st.composite
def messages(draw: st.DrawFn) -> Incoming:
    qos = draw(st.sampled_from([0, 1]))
    mid = draw(st.integers(1, 65535)) if qos else 0
    return Incoming(draw(TOPICS), draw(st.binary(max_size=3)) * draw(SIZES), qos, draw(st.booleans()), mid)


class PahoOnStream:
    """A paho client whose socket is a stream over a socket pair, as the link has it, but without an event loop."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        near.setblocking(False)
        self.stream = Stream(near)
        self.by_paho: list[Incoming] = []
        self.received: list[Incoming] = []
        self.client = Client(CallbackAPIVersion.VERSION2, manual_ack=True, reconnect_on_failure=False)
        self.client._sock = self.stream  # the test's only liberty: no server to connect to
        self.client.on_message = self._on_message
        self.rc = MQTTErrorCode.MQTT_ERR_SUCCESS

    def _on_message(self, _client: Client, _userdata: object, m: MQTTMessage) -> None:
        message = Incoming(m.topic, bytes(m.payload), m.qos, m.retain, m.mid)
        self.by_paho.append(message)
        self.received.append(message)

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.far.send(view[:65536]) :]
            self.stream.fill()
            self.read()

    def read(self) -> None:
        while True:
            taken = self.stream.take(8)
            self.received += taken
            if self.stream.has_more_for_paho:
                self.rc = self.client.loop_read()
                if self.rc:
                    return
            elif not taken:
                return

    def close(self) -> None:
        self.far.close()
        self.stream.abort()
        self.client.loop_read()  # paho finds the end, and lets go of the socket


@given(
    st.lists(st.one_of(messages(), st.sampled_from(OTHER_PACKETS)), max_size=12),
    st.lists(st.integers(1, 300), max_size=30),
)
def test_every_message_arrives_once_whole_and_in_order_however_the_bytes_are_cut(sequence, cuts) -> None:
    data = b"".join(p if isinstance(p, bytes) else publish_packet(p) for p in sequence)
    expected = [packet for packet in sequence if not isinstance(packet, bytes)]
    with closing(PahoOnStream()) as reader:
        for cut in cuts:
            reader.feed(data[:cut])
            data = data[cut:]
        reader.feed(data)

        assert reader.rc == MQTTErrorCode.MQTT_ERR_SUCCESS
        assert reader.received == expected
        assert all(len(m.payload) > LONGEST_PUBLICATION_BYTES - 300 for m in reader.by_paho)


@given(messages(), st.booleans())
def test_the_short_way_and_paho_decode_the_same(message, dup) -> None:
    packet = publish_packet(message, dup=dup)
    with closing(PahoOnStream()) as short, closing(PahoOnStream()) as plain:
        short.feed(packet)
        plain.client._sock = plain.stream._socket  # paho on the system's socket
        for at in range(0, len(packet), 65536):
            plain.far.sendall(packet[at : at + 65536])
            plain.client.loop_read()

        assert short.received == plain.by_paho == [message]


@given(st.binary(max_size=400))
def test_garbage_never_raises_and_never_stalls_in_a_loop(garbage) -> None:
    with closing(PahoOnStream()) as reader:
        reader.feed(garbage)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\x30\x00", id="no topic at all"),
        pytest.param(b"\x30\x01\x00", id="half a topic length"),
        pytest.param(b"\x30\x03\x00\x00x", id="an empty topic"),
        pytest.param(b"\x30\x04\x00\x09ab", id="a topic longer than the packet"),
        pytest.param(b"\x32\x04\x00\x01t\x00", id="half a packet id"),
        pytest.param(b"\x36\x05\x00\x01t\x00\x01", id="QoS 3"),
        pytest.param(b"\x30\xff\xff\xff\xff\x01", id="a length of five bytes"),
    ],
)
def test_a_malformed_publish_is_left_to_paho_which_refuses_it(packet) -> None:
    with closing(PahoOnStream()) as reader:
        reader.feed(packet)

        assert reader.received == []
        assert reader.rc == MQTTErrorCode.MQTT_ERR_PROTOCOL


@given(TOPICS, st.binary(max_size=3), SIZES, st.booleans())
def test_what_we_encode_is_read_back(topic, part, size, retain) -> None:
    payload = part * size
    with closing(PahoOnStream()) as reader:
        reader.feed(encode_publication(topic, payload, retain=retain))

        assert reader.received == [Incoming(topic, payload, 0, retain, 0)]


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "\ud800", "x" * 65_536])
def test_what_is_no_topic_to_publish_on_is_refused(topic) -> None:
    with pytest.raises(InvalidInputError):
        encode_publication(topic, b"", retain=False)


def test_a_context_without_tls_gives_a_stream_that_closes_its_socket() -> None:
    near, far = socket.socketpair()
    stream = TransportContext(None).wrap_socket(near)
    stream.send(b"last words")
    stream.close()
    stream.close()

    assert far.recv(100) == b"last words"
    assert stream.fileno() == -1
    far.close()
