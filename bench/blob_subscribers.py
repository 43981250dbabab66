"""What the fetcher is measured by: bare paho clients that receive the same blobs, and neither hash nor write them.

    python -m bench.blob_subscribers --fleet FILE --topics FILE [--ask] [--watch NAME=PID ...]

All clients live in one process, as the devices do, on one `selectors` loop and paho's ``loop_read``: threads would
only take the interpreter from each other. Each subscribes at QoS 0 to the next topics when half of its window has
come. With ``--ask`` blobs come from `bench.chunk_server` instead: a request for each, in the same window.

It prints ``ready`` once every client is connected, begins at a line on standard input, and prints one JSON line when
the last blob has come: processor and wall seconds.
"""

import argparse
import json
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bench.processor_time import Stopwatch, watched_from
from device_sim.inventory import Entry, read_devices
from device_sim.serve import raise_file_limit

WINDOW: Final = 64
ROUND_S: Final = 240.0
POLL_S: Final = 1.0


class Subscriber:
    """One client; ``received`` grows with each blob that has come whole, ``is_done`` with the last one."""

    def __init__(self, entry: Entry, wanted: Sequence[tuple[str, int]], *, ask: bool) -> None:
        self._waiting = deque(wanted)
        self._sizes = dict(wanted)
        self._left = len(wanted)
        self._under_way = 0
        self._answers = f"{entry.topic_root}/{entry.region}/device/{entry.id}/down/blob"
        self._asks = f"{entry.topic_root}/{entry.region}/device/{entry.id}/up/blob"
        self._ask = ask
        self._is_ready = False
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=entry.client_id or entry.id)
        if entry.username is not None:
            self.client.username_pw_set(entry.username, entry.password)
        self.client.on_connect = self._connected
        self.client.on_subscribe = self._subscribed
        self.client.on_message = self._came
        self.client.connect(entry.host, entry.port)

    @property
    def is_ready(self) -> bool:
        return self._is_ready

    @property
    def is_done(self) -> bool:
        return not self._left

    def go_on(self) -> None:
        """Fill the window, if half of it is free."""
        if self._under_way > WINDOW // 2 or not self._waiting:
            return
        some = [self._waiting.popleft()[0] for _ in range(min(WINDOW - self._under_way, len(self._waiting)))]
        self._under_way += len(some)
        if self._ask:
            for topic in some:
                self.client.publish(self._asks, topic.rpartition("/")[2])
        else:
            self.client.subscribe([(topic, 0) for topic in some])

    def _connected(
        self, client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            sys.exit(f"the broker refused a subscriber: {reason}")
        if self._ask:
            client.subscribe(self._answers)
        else:
            self._is_ready = True

    def _subscribed(
        self, _client: Client, _userdata: Any, _mid: int, _reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._is_ready = True

    def _came(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        if not self._ask and len(message.payload) != self._sizes[message.topic]:
            sys.exit(f"{message.topic} came with {len(message.payload)} bytes")
        self._left -= 1
        self._under_way -= 1
        self.go_on()


def fetch(subscribers: Sequence[Subscriber], watched: Mapping[str, int]) -> dict[str, float]:
    selector = selectors.DefaultSelector()
    for subscriber in subscribers:
        connected = subscriber.client.socket()
        assert isinstance(connected, socket.socket)
        selector.register(connected, selectors.EVENT_READ, subscriber.client)
    _run(selector, lambda: all(subscriber.is_ready for subscriber in subscribers))
    print("ready", flush=True)
    sys.stdin.readline()
    watch = Stopwatch(watched)
    watch.start()
    for subscriber in subscribers:
        subscriber.go_on()
    _run(selector, lambda: all(subscriber.is_done for subscriber in subscribers))
    return watch.read()


def _run(selector: selectors.BaseSelector, is_over: Callable[[], bool]) -> None:
    until = time.monotonic() + ROUND_S
    while not is_over():
        if time.monotonic() > until:
            sys.exit(f"some blobs have not come within {ROUND_S:g} s")
        for key, _ in selector.select(POLL_S):
            key.data.loop_read()
            if key.data.want_write():
                key.data.loop_write()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fleet", type=Path, required=True)
    parser.add_argument("--topics", type=Path, required=True, help="lines of topic and size in bytes")
    parser.add_argument("--ask", action="store_true")
    parser.add_argument("--watch", action="append", default=[])
    options = parser.parse_args()
    raise_file_limit()
    wanted = [(topic, int(size)) for topic, size in map(str.split, options.topics.read_text().splitlines())]
    subscribers = [Subscriber(entry, wanted, ask=options.ask) for entry in read_devices(options.fleet)]
    print(json.dumps(fetch(subscribers, watched_from(options.watch))))


if __name__ == "__main__":
    main()
