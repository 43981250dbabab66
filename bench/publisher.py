"""A publisher faster than any subscriber: finished QoS 1 PUBLISH packets over a raw socket, in a bounded window.

Run as a process of its own, so that it takes nothing from the process that is measured::

    BENCH_MQTT_URL=mqtt://127.0.0.1:1883 python -m bench.publisher --packets FILE [--window 512]

It prints one JSON line: ``{"messages": ..., "seconds": ...}``, from the first packet sent to the last PUBACK received.
"""

import argparse
import json
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.target import Target

PACKET_IDS: Final = 65535  # MQTT 3.1.1, 2.3.1: 1 to 65,535
BLOCK: Final = 16  # packets per send
TIMEOUT_S: Final = 30.0
_PUBLISH_QOS1: Final = 0x32
_PUBACK: Final = 0x40


def write_packets(path: Path, messages: Iterable[tuple[str, bytes]]) -> int:
    """Encode (topic, payload) pairs as QoS 1 PUBLISH packets into one file; returns how many."""
    count = 0
    with path.open("wb") as file:
        for topic, payload in messages:
            name = topic.encode()
            body = struct.pack("!H", len(name)) + name + struct.pack("!H", count % PACKET_IDS + 1) + payload
            file.write(bytes([_PUBLISH_QOS1]) + _remaining_length(len(body)) + body)
            count += 1
    return count


def read_blocks(path: Path) -> list[tuple[int, bytes]]:
    """The file's packets in blocks of (number of packets, their bytes)."""
    data = path.read_bytes()
    blocks = []
    start = at = count = 0
    while at < len(data):
        length = shift = 0
        while True:
            at += 1
            length |= (data[at] & 0x7F) << shift
            shift += 7
            if not data[at] & 0x80:
                break
        at += 1 + length
        count += 1
        if count == BLOCK or at == len(data):
            blocks.append((count, data[start:at]))
            start, count = at, 0
    return blocks


def publish(connected: socket.socket, blocks: Sequence[tuple[int, bytes]], window: int) -> tuple[int, float]:
    """Send every block with at most ``window`` packets unacknowledged; returns (messages, seconds)."""
    total = sum(count for count, _ in blocks)
    sent = acknowledged = 0
    rest = b""
    pending = iter(blocks)
    block = next(pending, None)
    started = time.perf_counter()
    while acknowledged < total:
        burst = []
        while block is not None and sent + block[0] - acknowledged <= window:
            burst.append(block[1])
            sent += block[0]
            block = next(pending, None)
        if burst:
            connected.sendall(b"".join(burst))
        data = connected.recv(65536)
        if not data:
            raise SystemExit("the broker closed the publisher's connection")
        rest += data
        whole = len(rest) // 4 * 4
        if rest[:whole:4].count(_PUBACK) * 4 != whole:
            raise SystemExit("the broker sent something else than PUBACKs")
        acknowledged += whole // 4
        rest = rest[whole:]
    return total, time.perf_counter() - started


def connect(target: Target, client_id: str) -> socket.socket:
    """Open a clean session: whatever the broker kept under this client id is gone."""
    connected = socket.create_connection((target.host, target.port), timeout=TIMEOUT_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    flags, fields = 0x02, _text(client_id)  # clean session
    if target.username is not None:
        flags |= 0x80
        fields += _text(target.username)
    if target.password is not None:
        flags |= 0x40
        fields += _text(target.password)
    body = _text("MQTT") + bytes([4, flags]) + struct.pack("!H", 600) + fields
    connected.sendall(b"\x10" + _remaining_length(len(body)) + body)
    if connected.recv(4) != b"\x20\x02\x00\x00":
        raise SystemExit("the broker refused the publisher")
    return connected


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


def _remaining_length(length: int) -> bytes:
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(encoded)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--packets", type=Path, required=True)
    parser.add_argument("--window", type=int, default=512)
    options = parser.parse_args()
    blocks = read_blocks(options.packets)
    with connect(Target.from_environment(), f"bench-publisher-{time.monotonic_ns()}") as connected:
        messages, seconds = publish(connected, blocks, options.window)
        connected.sendall(b"\xe0\x00")  # DISCONNECT
    print(json.dumps({"messages": messages, "seconds": seconds}))


if __name__ == "__main__":
    main()
