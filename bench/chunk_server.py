"""What Tidegate does not do, for comparison: a server that answers a request for each chunk, over the same broker.

    BENCH_MQTT_URL=mqtt://127.0.0.1:1883 python -m bench.chunk_server --blobs FOLDER

One Python process with paho's own loop and every blob in memory. A device publishes a digest in hex on
``.../{device}/up/blob`` and gets the blob on ``.../{device}/down/blob``. It prints ``ready`` once it is subscribed, and
serves until it is terminated.
"""

import argparse
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, MQTTMessage

from bench.bare_client import connected

REQUESTS: Final = "tg/1/+/device/+/up/blob"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blobs", type=Path, required=True, help="a folder of files that are named by their digests")
    options = parser.parse_args()
    blobs = {path.name: path.read_bytes() for path in options.blobs.iterdir()}

    def answer(client: Client, _userdata: Any, message: MQTTMessage) -> None:
        client.publish(message.topic.removesuffix("up/blob") + "down/blob", blobs[message.payload.decode()])

    connected("chunks", REQUESTS, qos=0, on_message=answer).loop_forever()


if __name__ == "__main__":
    main()
