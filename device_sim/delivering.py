"""Links that deliver what comes in to somebody in between."""

from collections.abc import Callable

from device_sim.agent.device import Connect, DeviceConfig, Link
from server.mqtt.link import Incoming, Will

Deliver = Callable[[Incoming], None]
"""Takes what comes in."""


def delivering(connect: Connect, through: Callable[[DeviceConfig, Deliver], Deliver]) -> Connect:
    """Return a ``connect`` whose links deliver to what ``through`` makes, anew for each link, of whoever listens."""

    def connect_through(
        config: DeviceConfig,
        *,
        will: Will,
        on_message: Deliver,
        on_up: Callable[[bool], None],
        on_down: Callable[[str], None],
    ) -> Link:
        return connect(config, will=will, on_message=through(config, on_message), on_up=on_up, on_down=on_down)

    return connect_through
