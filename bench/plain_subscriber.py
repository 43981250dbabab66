"""What every other figure is divided by: a plain paho subscriber, paho's own loop, QoS 1, counting callbacks.

    BENCH_MQTT_URL=mqtt://127.0.0.1:1883 python -m bench.plain_subscriber --filter 't/+' --count 20000

It prints ``ready`` once the broker has granted the subscription, and one JSON line after ``count`` messages:
``{"messages": ..., "seconds": ...}``, from the first message to the last.
"""

import argparse
import json
import time
from typing import Any

from paho.mqtt.client import Client, MQTTMessage

from bench.bare_client import connected


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--filter", required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    received = 0
    first = last = 0.0

    def count(client: Client, _userdata: Any, _message: MQTTMessage) -> None:
        nonlocal received, first, last
        received += 1
        if received == 1:
            first = time.perf_counter()
        elif received == options.count:
            last = time.perf_counter()
            client.disconnect()

    connected("plain", options.filter, qos=1, on_message=count).loop_forever()
    print(json.dumps({"messages": received, "seconds": last - first}))


if __name__ == "__main__":
    main()
