"""A bare paho client, of paho's own loop, that subscribes to one filter and says ``ready`` once that is granted."""

import sys
import time
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bench.target import Target


def connected(
    name: str, topic_filter: str, *, qos: int, on_message: Callable[[Client, Any, MQTTMessage], None]
) -> Client:
    """Return a client that has begun to connect to the broker of the environment; ``loop_forever`` does the rest.

    Raises:
        SystemExit: from the loop: the broker refuses it.
    """

    def subscribe(
        client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            sys.exit(f"the broker refused {name}: {reason}")
        client.subscribe(topic_filter, qos=qos)

    def tell_ready(
        _client: Client, _userdata: Any, _mid: int, _reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        print("ready", flush=True)

    target = Target.from_environment()
    client = Client(CallbackAPIVersion.VERSION2, client_id=f"bench-{name}-{time.monotonic_ns()}")
    if target.username is not None:
        client.username_pw_set(target.username, target.password)
    client.on_connect = subscribe
    client.on_subscribe = tell_ready
    client.on_message = on_message
    client.connect(target.host, target.port)
    return client
