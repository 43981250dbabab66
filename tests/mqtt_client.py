"""A plain MQTT 3.1.1 client for tests that look at what a broker answers, byte by byte; it keeps no rule itself.

Blocking, without threads; every wait is bounded. Packets are named as in MQTT 3.1.1 chapter 3.
"""

import select
import socket
import ssl
import struct
import time
from types import TracebackType
from typing import Self

PATIENCE_S = 30
CONNECT_TRIALS, CONNECT_PAUSE_S = 3, 0.4
HUNG_UP = "hung up"
REFUSED = 0x80  # SUBACK return code, 3.9.3

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK = 8, 9
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14

Message = tuple[str, bytes]


class ConnectRefusedError(Exception):
    """The broker answered CONNECT with anything but "accepted"."""


class HungUpError(Exception):
    """The broker has closed the connection."""


class MqttClient:
    """One connection, from entering the block to leaving it."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        client_id: str,
        username: str | None = None,
        password: str | None = None,
        clean_session: bool = True,
        will: tuple[str, bytes, int, bool] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address = host, port
        self._tls = tls
        self._connect = _connect_packet(client_id, username, password, will, clean_session=clean_session)
        self._received: list[Message] = []
        self.session_present = False

    def __enter__(self) -> Self:
        """Open a session; a broker that is still ending the last one of this client id may hang up at first."""
        for left in reversed(range(CONNECT_TRIALS)):
            self._socket = socket.create_connection(self._address, timeout=PATIENCE_S)
            try:
                self._open_session()
            except BaseException as exc:
                self._socket.close()
                if left == 0 or exc.args != (HUNG_UP,):
                    raise
                time.sleep(CONNECT_PAUSE_S)
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._send(DISCONNECT, 0, b"")
        except OSError:
            pass  # the broker was faster
        finally:
            self._socket.close()

    def subscribe(self, *topics: str, qos: int = 0) -> list[int]:
        """Return what was granted for each: 0, 1, 2 or ``REFUSED``."""
        body = b"".join(_text(topic) + bytes([qos]) for topic in topics)
        self._send(SUBSCRIBE, 2, struct.pack(">H", 1) + body)
        return list(self._await(SUBACK)[2:])

    def publish(self, topic: str, payload: bytes = b"", *, qos: int = 1, retain: bool = False) -> None:
        """Return when the broker has acknowledged it (QoS 0: when it is sent)."""
        packet_id = struct.pack(">H", 2) if qos else b""
        self._send(PUBLISH, qos << 1 | retain, _text(topic) + packet_id + payload)
        if qos == 1:
            self._await(PUBACK)
        elif qos == 2:
            self._await(PUBREC)
            self._send(PUBREL, 2, packet_id)
            self._await(PUBCOMP)

    def receive(self) -> Message:
        """Wait for the next message: its topic and payload."""
        while not self._received:
            self._take(*self._read())
        return self._received.pop(0)

    def receive_retained(self, topic: str) -> bytes:
        """Subscribe again and again until what is retained comes: a broker may take it up beside its start."""
        for _ in range(int(PATIENCE_S)):
            self.subscribe(topic)
            if self._received or select.select([self._socket], [], [], 1)[0]:
                break
        came, payload = self.receive()
        assert came == topic
        return payload

    def receive_until(self, payload: bytes) -> list[Message]:
        """Return what has come before ``payload``. A broker keeps the order, so this shows what did not come."""
        earlier = []
        while (message := self.receive())[1] != payload:
            earlier.append(message)
        return earlier

    def drain(self) -> list[Message]:
        """Return what the broker has sent before it answers a PINGREQ.

        Mosquitto hands a message on before it acknowledges it, so this shows what does not come.
        """
        self._send(PINGREQ, 0, b"")
        self._await(PINGRESP)
        received, self._received = self._received, []
        return received

    def vanish(self) -> None:
        """Close the socket without DISCONNECT, as a power cut does: the broker publishes the will."""
        self._socket.close()

    def await_hanging_up(self) -> None:
        """Return when the broker has closed the connection."""
        try:
            while True:
                self._take(*self._read())
        except HungUpError:
            pass

    def _open_session(self) -> None:
        if self._tls:
            self._socket = self._tls.wrap_socket(self._socket, server_hostname=self._address[0])
        self._socket.sendall(self._connect)
        try:
            flags, code = self._await(CONNACK)
        except HungUpError as exc:
            raise ConnectRefusedError(HUNG_UP) from exc
        if code:
            raise ConnectRefusedError(code)
        self.session_present = bool(flags & 1)

    def _await(self, kind: int) -> bytes:
        while True:
            header, body = self._read()
            if header >> 4 == kind:
                return body
            self._take(header, body)

    def _take(self, header: int, body: bytes) -> None:
        """Keep a message and acknowledge it; nothing else is expected between an order and its answer."""
        assert header >> 4 == PUBLISH
        qos = header >> 1 & 3
        end = 2 + int.from_bytes(body[:2], "big")
        if qos:
            self._send(PUBACK, 0, body[end : end + 2])
        self._received.append((body[2:end].decode(), body[end + (2 if qos else 0) :]))

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.sendall(_packet(kind, flags, body))

    def _read(self) -> tuple[int, bytes]:
        header = self._read_exactly(1)[0]
        length = shift = 0
        while True:
            digit = self._read_exactly(1)[0]
            length |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                return header, self._read_exactly(length)

    def _read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self._socket.recv(size - len(data))
            except (ConnectionError, ssl.SSLError):
                piece = b""
            if not piece:
                raise HungUpError
            data += piece
        return data


def _connect_packet(
    client_id: str,
    username: str | None,
    password: str | None,
    will: tuple[str, bytes, int, bool] | None,
    *,
    clean_session: bool,
) -> bytes:
    flags = clean_session << 1
    fields = [client_id.encode()]
    if will:
        topic, payload, qos, retain = will
        flags |= 4 | qos << 3 | retain << 5
        fields += [topic.encode(), payload]
    if username is not None:
        flags |= 0x80
        fields.append(username.encode())
    if password is not None:
        flags |= 0x40
        fields.append(password.encode())
    body = _text("MQTT") + bytes([4, flags, 0, 60])
    return _packet(CONNECT, 0, body + b"".join(struct.pack(">H", len(data)) + data for data in fields))


def _packet(kind: int, flags: int, body: bytes) -> bytes:
    length, size = len(body), b""
    while True:
        length, digit = divmod(length, 128)
        size += bytes([digit | (0x80 if length else 0)])
        if not length:
            return bytes([kind << 4 | flags]) + size + body


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data
