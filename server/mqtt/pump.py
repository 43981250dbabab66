"""What moves bytes between one connected socket and its paho client, in the turns of the event loop."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from paho.mqtt.client import Client

from server.mqtt.packets import Incoming
from server.mqtt.stream import Stream

PACKETS_PER_TURN: Final = 64  # about 1 ms of a server's work; then the loop's other callbacks have their turn

log = structlog.get_logger(__name__)


class Pump:
    """Reads when there is something to read, writes once per turn, and keeps the connection alive, until stopped.

    ``on_message`` gets what need not pass through paho, and must not raise; ``on_failure`` gets the reason why no more
    can be read. Of a connection's regular end paho tells by its own callback.
    """

    def __init__(
        self,
        client: Client,
        stream: Stream,
        *,
        keepalive_s: float,
        on_message: Callable[[Incoming], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self._client = client
        self._stream = stream
        self._keepalive_s = keepalive_s
        self._on_message = on_message
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._fd = stream.fileno()
        self._runs = True
        self._read_due = False
        self._flush_due = False
        self._awaits_writable = False
        self._empty: asyncio.Future[None] | None = None
        self._loop.add_reader(self._fd, self._readable)
        self._tick = self._loop.call_later(keepalive_s / 4, self._keep_alive)

    def stop(self) -> None:
        """Leave the event loop; the socket may be closed then, and not before, since its number is used again."""
        if self._runs:
            self._runs = False
            self._loop.remove_reader(self._fd)
            if self._awaits_writable:
                self._loop.remove_writer(self._fd)
            self._tick.cancel()
            self._end_drain()

    @property
    def unsent_bytes(self) -> int:
        return self._stream.unsent_bytes

    @property
    def error(self) -> OSError | None:
        """Why the peer is gone, where the system gave a reason."""
        return self._stream.error

    def send(self, packet: bytes) -> None:
        """Write a whole packet at the end of this turn."""
        self._stream.send(packet)
        self._flush_soon()

    def take_from_paho(self) -> None:
        """Move what paho has queued to the stream at once, so that all packets go out in the order they were made."""
        if self._runs:
            self._client.loop_write()
            self._flush_soon()

    async def drain(self, timeout_s: float) -> None:
        """Wait, for a bounded time, until all is written or nothing can be any more."""
        self._flush()
        if self._runs and self._stream.unsent_bytes:
            self._empty = self._loop.create_future()
            await asyncio.wait((self._empty,), timeout=timeout_s)

    def close(self) -> None:
        """Stop, and close the socket without another word."""
        self.stop()
        self._stream.abort()

    # --- reading ---

    def _readable(self) -> None:
        if not self._read_due:
            self._stream.fill()
            self._read()

    def _read(self) -> None:
        """Deliver a bounded number of packets of what was read ahead, and go on in the loop's next turn."""
        self._read_due = False
        budget = PACKETS_PER_TURN
        while self._runs:
            messages = self._stream.take(budget)
            for incoming in messages:
                self._on_message(incoming)
            budget -= len(messages)
            if budget <= 0:
                self._read_due = True
                self._loop.call_soon(self._read)
                return
            if not self._stream.has_more_for_paho:
                return
            self._let_paho_read()
            budget -= 1

    def _let_paho_read(self) -> None:
        try:
            self._client.loop_read()
        except Exception:
            log.exception("mqtt_read_failed")
            self._on_failure("a packet could not be read")

    # --- writing ---

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One system call for all that was sent in this turn; what the system does not take waits for its readiness."""
        self._flush_due = False
        if not self._runs:
            return
        written = self._stream.flush()
        if not written and not self._awaits_writable:
            self._loop.add_writer(self._fd, self._flush)
        if written and self._awaits_writable:
            self._loop.remove_writer(self._fd)
        self._awaits_writable = not written
        if written:
            self._end_drain()
        if self._stream.error is not None:
            self._let_paho_read()  # and learn of it by reading the end

    def _end_drain(self) -> None:
        if self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def _keep_alive(self) -> None:
        """A quarter of the interval late at most: the broker waits for one and a half (MQTT 3.1.1, 3.1.2.10)."""
        self._tick = self._loop.call_later(self._keepalive_s / 4, self._keep_alive)
        self._client.loop_misc()
