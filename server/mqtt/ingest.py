"""From the broker to the services: parse, check whose it is, hand on. Nothing a device sends can stop this.

What is malformed, unknown or misplaced is counted by reason and acknowledged, so that it does not come again. What is
to be stored is acknowledged only when it has been.
"""

import time
from typing import Final

import structlog

from firmware_store.errors import CodecError
from server.db.telemetry import DeviceHello, DeviceReport
from server.mqtt.link import Incoming
from server.mqtt.session import ServerSession
from server.protocol.messages import Report, decode_beat, decode_gone, decode_hello, decode_report
from server.protocol.topics import Topics, Up, UpTopic
from server.services.device import Device
from server.services.fleet import Fleet
from server.services.metrics import Metrics
from server.services.presence import Presence
from server.services.reports import Reports

log = structlog.get_logger(__name__)

_TOPICS_REMEMBERED: Final = 100_000


class Ingest:
    """One call a message; never raises for what a device sent."""

    def __init__(
        self,
        *,
        session: ServerSession,
        topics: Topics,
        fleet: Fleet,
        presence: Presence,
        reports: Reports,
        metrics: Metrics,
    ) -> None:
        self._session = session
        self._topics = topics
        self._fleet = fleet
        self._presence = presence
        self._reports = reports
        self._dropped = metrics.dropped
        self._taken = metrics.messages.begin(Up)
        self._parsed: dict[str, UpTopic] = {}

    def take(self, incoming: Incoming) -> None:
        """Deal with one message."""
        try:
            topic = self._parse(incoming.topic)
        except CodecError:
            self._drop(incoming, "topic")
            return
        device = self._fleet.get(topic.device)
        if device is None:
            self._drop(incoming, "unknown_device")
            return
        if device.revoked:  # its session may live on at a broker that is not ours
            self._drop(incoming, "revoked")
            return
        try:
            self._hand_on(incoming, topic, device)
        except CodecError as exc:
            log.debug("message_dropped", device=topic.device, kind=topic.kind.value, reason=str(exc))
            self._drop(incoming, "malformed")

    def _hand_on(self, incoming: Incoming, topic: UpTopic, device: Device) -> None:
        now = time.time()
        self._taken[topic.kind] += 1
        if topic.region != device.region:
            self._dropped.labels("other_region").inc()
        if topic.kind is Up.REPORT:
            report = decode_report(incoming.payload)
            self._fleet.hear(device, now)
            self._reports.submit(DeviceReport(device.id, device.region, report), lambda: self._session.ack(incoming))
        elif topic.kind is Up.BEAT:
            beat = decode_beat(incoming.payload)
            self._presence.beat(device, beat, now, region=topic.region)
            self._repair(device, beat.execution)
            self._session.ack(incoming)
        elif topic.kind is Up.HELLO:
            hello = decode_hello(incoming.payload)
            self._presence.hello(device, hello, now, region=topic.region)
            self._reports.submit(DeviceHello(device.id, hello), lambda: self._session.ack(incoming))
            self._repair(device, hello.execution)
        else:
            self._presence.gone(device, decode_gone(incoming.payload))
            self._session.ack(incoming)

    def _repair(self, device: Device, execution: Report | None) -> None:
        """Hello and beat repeat the last report, so that a lost one repairs itself."""
        if execution is not None and execution.sequence > device.last_sequence:
            self._reports.submit(DeviceReport(device.id, device.region, execution))

    def _parse(self, topic: str) -> UpTopic:
        known = self._parsed.get(topic)
        if known is None:
            known = self._topics.parse_up(topic)
            if len(self._parsed) >= _TOPICS_REMEMBERED:
                self._parsed.clear()
            self._parsed[topic] = known
        return known

    def _drop(self, incoming: Incoming, reason: str) -> None:
        self._dropped.labels(reason).inc()
        self._session.ack(incoming)
