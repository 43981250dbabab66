"""A device's link that says what the device's tongue makes of its reports, and says old ones again."""

import asyncio
from collections.abc import Callable

from device_sim.agent.device import Connect, DeviceConfig, Link
from device_sim.scenario.behaviour import Tongue
from device_sim.wire.passing_link import PassingLink
from server.mqtt.link import Incoming, Will


def speaking(connect: Connect, tongue: Tongue, says_again: Callable[[], bool]) -> Connect:
    """Return a ``connect`` whose links speak with ``tongue``; with ``says_again``, each begins with what was said."""

    def connect_speaking(
        config: DeviceConfig,
        *,
        will: Will,
        on_message: Callable[[Incoming], None],
        on_up: Callable[[bool], None],
        on_down: Callable[[str], None],
    ) -> Link:
        def repeat(session_present: bool) -> None:
            on_up(session_present)
            if says_again():
                for topic, payload in tongue.again():
                    link.publish(topic, payload, qos=0)

        link = connect(config, will=will, on_message=on_message, on_up=repeat, on_down=on_down)
        return _SpeakingLink(link, tongue)

    return connect_speaking


class _SpeakingLink(PassingLink):
    def __init__(self, link: Link, tongue: Tongue) -> None:
        super().__init__(link)
        self._tongue = tongue

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> asyncio.Future[None] | None:
        return self._link.publish(topic, self._tongue.speak(topic, payload), qos=qos, retain=retain)
