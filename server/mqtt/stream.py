"""The socket that paho reads and writes: it reads ahead, writes once per turn of the event loop, and sorts packets.

On a socket of the operating system paho reads a packet's header byte by byte and sends every packet by a call of its
own: four or five system calls per message. It takes the object it reads and writes from the ``wrap_socket()`` of the
context that its ``tls_set_context()`` was given, with TLS or, as `TransportContext` does, without.
"""

import contextlib
import socket
import ssl
from typing import Final

from server.mqtt.packets import Incoming, decode_publications

READ_AHEAD_BYTES: Final = 256 * 1024
LONGEST_PUBLICATION_BYTES: Final = READ_AHEAD_BYTES // 2  # a longer packet passes through to paho piece by piece


class Stream:
    """A connected socket with a buffer on either side; never blocks once ``setblocking(False)`` was called.

    The event loop's side calls ``fill``, then ``take`` and, while ``has_more_for_paho``, paho's ``loop_read``; paho
    calls ``recv``, which gives it whole packets that ``take`` has left to it, and ``send``; then comes ``flush``.
    ``error`` is why the peer is gone, where the system gave a reason.
    """

    __slots__ = ("_at", "_ended", "_passing", "_read", "_socket", "_unsent", "error")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._read = b""
        self._at = 0  # next byte of _read that nobody has taken
        self._passing = 0  # bytes of the current packet that are for paho, come or still to come
        self._unsent = bytearray()
        self._ended = False
        self.error: OSError | None = None

    # --- what paho calls ---

    def recv(self, size: int) -> bytes:
        """Up to ``size`` bytes of the packet that is paho's; b"" once the peer is gone and all is taken."""
        start = self._at
        data = self._read[start : start + min(size, self._passing)]
        if data:
            self._at = start + len(data)
            self._passing -= len(data)
            return data
        if self._ended:
            return b""
        raise BlockingIOError

    def send(self, data: bytes | bytearray) -> int:
        """Take all of ``data``; the bound is kept by whoever publishes, see ``unsent_bytes``."""
        self._unsent += data
        return len(data)

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def settimeout(self, timeout_s: float | None) -> None:
        self._socket.settimeout(timeout_s)

    def do_handshake(self) -> None:
        """Shake hands where there is TLS; a failure closes the socket, since paho only forgets it."""
        if isinstance(self._socket, ssl.SSLSocket):
            try:
                self._socket.do_handshake()
            except BaseException:
                self._socket.close()
                raise

    def close(self) -> None:
        """Hand the last bytes (a DISCONNECT) to the system and close; a second call does nothing."""
        if self._socket.fileno() == -1:
            return
        self.flush()
        self._ended = True
        self._socket.close()

    # --- what the event loop's side calls ---

    @property
    def has_more_for_paho(self) -> bool:
        """A packet is paho's and bytes of it are there, or the peer is gone, which paho learns by reading the end."""
        return (self._passing > 0 and self._at < len(self._read)) or self._ended

    @property
    def unsent_bytes(self) -> int:
        return len(self._unsent)

    def fill(self) -> None:
        """Read once from the system."""
        try:
            data = self._socket.recv(READ_AHEAD_BYTES)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as exc:
            self._fail(exc)
            return
        if data:
            self._read = self._read[self._at :] + data
            self._at = 0
        else:
            self._ended = True

    def take(self, limit: int) -> list[Incoming]:
        """Up to ``limit`` messages that have come whole; none while a packet of paho's is in between."""
        if self._passing:
            return []
        messages, self._at, self._passing = decode_publications(
            self._read, self._at, limit=limit, longest=LONGEST_PUBLICATION_BYTES
        )
        if self._at == len(self._read):  # an idle link holds no buffer
            self._read, self._at = b"", 0
        return messages

    def flush(self) -> bool:
        """Write what the system takes; True when nothing is left to write."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            except OSError as exc:
                self._fail(exc)
                return True
            del self._unsent[:sent]
        return True

    def abort(self) -> None:
        """Close without a word to the peer: unsent bytes are dropped, and paho reads the end."""
        self._unsent.clear()
        self._read, self._at, self._passing = b"", 0, 0
        self._ended = True
        self._socket.close()

    def _fail(self, exc: OSError) -> None:
        self.error = exc
        self._ended = True
        self._unsent.clear()


class TransportContext:
    """Stands where paho expects an ``ssl.SSLContext``: wraps its TCP socket in a `Stream`, with or without TLS."""

    # paho then compares no host names itself; with TLS the real context does, if it is set to.
    check_hostname = True

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls

    def wrap_socket(
        self, sock: socket.socket, *, server_hostname: str | None = None, do_handshake_on_connect: bool = False
    ) -> Stream:
        with contextlib.suppress(OSError):  # small packets, answered: Nagle's delay would be added to each
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return Stream(sock)
        try:
            return Stream(
                self._tls.wrap_socket(
                    sock, server_hostname=server_hostname, do_handshake_on_connect=do_handshake_on_connect
                )
            )
        except BaseException:
            sock.close()
            raise
