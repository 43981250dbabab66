"""What Tidegate does not do, for comparison: a server that answers a request for each chunk, over the same broker.

    BENCH_MQTT_URL=mqtt://127.0.0.1:1883 python -m bench.chunk_server --blobs FOLDER

One Python process with paho's own loop and every blob in memory. A device publishes a digest in hex on
``.../{device}/up/blob`` and gets the blob on ``.../{device}/down/blob``. It prints ``ready`` once it is subscribed, and
serves until it is terminated.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bench.target import Target

REQUESTS: Final = "tg/1/+/device/+/up/blob"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blobs", type=Path, required=True, help="a folder of files that are named by their digests")
    options = parser.parse_args()
    target = Target.from_environment()
    blobs = {path.name: path.read_bytes() for path in options.blobs.iterdir()}

    def subscribe(
        client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            sys.exit(f"the broker refused the chunk server: {reason}")
        client.subscribe(REQUESTS)

    def tell_ready(
        _client: Client, _userdata: Any, _mid: int, _reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        print("ready", flush=True)

    def answer(client: Client, _userdata: Any, message: MQTTMessage) -> None:
        client.publish(message.topic.removesuffix("up/blob") + "down/blob", blobs[message.payload.decode()])

    client = Client(CallbackAPIVersion.VERSION2, client_id=f"bench-chunks-{time.monotonic_ns()}")
    if target.username is not None:
        client.username_pw_set(target.username, target.password)
    client.on_connect = subscribe
    client.on_subscribe = tell_ready
    client.on_message = answer
    client.connect(target.host, target.port)
    client.loop_forever()


if __name__ == "__main__":
    main()
