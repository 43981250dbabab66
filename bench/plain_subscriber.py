"""What every other figure is divided by: a plain paho subscriber, paho's own loop, QoS 1, counting callbacks.

    BENCH_MQTT_URL=mqtt://127.0.0.1:1883 python -m bench.plain_subscriber --filter 't/+' --count 20000

It prints ``ready`` once the broker has granted the subscription, and one JSON line after ``count`` messages:
``{"messages": ..., "seconds": ...}``, from the first message to the last.
"""

import argparse
import json
import sys
import time
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bench.target import Target


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--filter", required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    target = Target.from_environment()
    received = 0
    first = last = 0.0

    def subscribe(
        client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            sys.exit(f"the broker refused the subscriber: {reason}")
        client.subscribe(options.filter, qos=1)

    def tell_ready(
        _client: Client, _userdata: Any, _mid: int, _reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        print("ready", flush=True)

    def count(client: Client, _userdata: Any, _message: MQTTMessage) -> None:
        nonlocal received, first, last
        received += 1
        if received == 1:
            first = time.perf_counter()
        elif received == options.count:
            last = time.perf_counter()
            client.disconnect()

    client = Client(CallbackAPIVersion.VERSION2, client_id=f"bench-plain-{time.monotonic_ns()}")
    if target.username is not None:
        client.username_pw_set(target.username, target.password)
    client.on_connect = subscribe
    client.on_subscribe = tell_ready
    client.on_message = count
    client.connect(target.host, target.port)
    client.loop_forever()
    print(json.dumps({"messages": received, "seconds": last - first}))


if __name__ == "__main__":
    main()
