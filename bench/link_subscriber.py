"""The same as `bench.plain_subscriber` with the server's link: acknowledged by hand, in batches, as after a commit."""

import argparse
import asyncio
import json
import time

from bench.target import Target
from server.mqtt.link import Incoming, MqttLink


async def receive(topic_filter: str, count: int) -> tuple[int, float]:
    target = Target.from_environment()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[float] = loop.create_future()
    up = asyncio.Event()
    waiting: list[Incoming] = []
    received = 0
    first = 0.0

    def take(incoming: Incoming) -> None:
        nonlocal first
        if not first:
            first = time.perf_counter()
        if not waiting:
            loop.call_soon(acknowledge)
        waiting.append(incoming)

    def acknowledge() -> None:
        nonlocal received
        for incoming in waiting:
            link.ack(incoming)
        received += len(waiting)
        waiting.clear()
        if received >= count and not done.done():
            done.set_result(time.perf_counter())

    link = MqttLink(
        host=target.host,
        port=target.port,
        client_id=f"bench-link-{time.monotonic_ns()}",
        username=target.username,
        password=target.password,
        on_message=take,
        on_up=lambda _: up.set(),
        manual_ack=True,
    )
    running = asyncio.create_task(link.run())
    await up.wait()
    await link.subscribe_acked([(topic_filter, 1)])
    print("ready", flush=True)
    last = await done
    await link.close()
    await running
    return received, last - first


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--filter", required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    messages, seconds = asyncio.run(receive(options.filter, options.count))
    print(json.dumps({"messages": messages, "seconds": seconds}))


if __name__ == "__main__":
    main()
