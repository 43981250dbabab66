"""A virtual fleet, its broker and its server, on one clock: nothing of it is real but what is decided and signed."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from device_sim.agent.events import Note
from device_sim.scenario.cast import Cast
from device_sim.scenario.faults import BrokerRestart
from device_sim.virtual.authority import Authority
from device_sim.virtual.clock import Clock
from device_sim.virtual.device import VirtualDevice
from device_sim.virtual.fleet import Fleet
from device_sim.virtual.orders import COHORT, Order
from device_sim.virtual.release import VirtualRelease
from device_sim.virtual.server import VirtualServer
from firmware_store.root import Root
from server.domain.execution import State
from server.domain.gate import height, is_due
from server.domain.identity import Region
from server.protocol.orders import Action
from server.protocol.topics import CohortAudience, Topics
from server.services.directives import RENEW_S

EPOCH: Final = 1_736_154_000
"""2025-01-06 09:00 UTC, when every virtual fleet has come up."""

BROKER_START_S: Final = 5.0
_BROKER: Final = "broker"
_DONE: Final = frozenset({State.CONFIRMED, State.REJECTED, State.ROLLED_BACK})


class VirtualWorld:
    """``on_note`` hears of every fact on every device."""

    def __init__(self, cast: Cast, *, on_note: Callable[[VirtualDevice, Note], None]) -> None:
        seed = cast.seed
        self.clock = Clock()
        self.topics = Topics()
        self.authority = Authority(fleet=b"a virtual fleet.", issued=EPOCH - 86_400)
        self.root: Root = self.authority.root
        self.kept: dict[bytes, bytes] = {}
        self.is_broker_up = True
        self._on_note = on_note
        self._blobs: dict[str, tuple[VirtualRelease, bytes, bytes]] = {}
        fleet = Fleet(cast, epoch=EPOCH)
        self.server = VirtualServer(self.clock, fleet, self.authority, self.topics, self, epoch=EPOCH)
        self.devices = [VirtualDevice(number, role, self, seed=seed) for number, role in enumerate(cast.roles)]
        self._directive_topics = {
            name: self.topics.directive(CohortAudience(Region(name), COHORT)) for name in fleet.regions
        }
        for fault in cast.scenario.faults:
            if isinstance(fault, BrokerRestart):
                self.clock.at(fault.at, partial(self._stop_broker, fault.lasts or BROKER_START_S))

    def start(self) -> None:
        """Switch every device on."""
        for device in self.devices:
            device.start()

    def publish(self, release: VirtualRelease) -> None:
        """Put a release's blobs on the broker."""
        for digest, blob in release.blobs.items():
            self._blobs[self.topics.blob(digest)] = release, digest, blob

    # --- what a device meets ---

    def published(self, device: VirtualDevice, topic: str, payload: bytes) -> None:
        for delay_s, arrived in device.line.up(payload, self.clock.now):
            heard = partial(self._heard, device, device.presence.session, topic, arrived)
            if delay_s:
                self.clock.after(delay_s, heard)
            else:
                heard()

    def subscribed(self, device: VirtualDevice, topics: Sequence[str]) -> None:
        """Bring the blobs; what the region is told comes with whatever comes first in the session.

        No root or status is retained that the devices have not got.
        """
        for topic in topics:
            found = self._blobs.get(topic)
            if found is not None and device.line.begins(topic):
                self._bring(device, topic, *found)

    def order(self, device: VirtualDevice) -> Order | None:
        return self.server.orders.of(device.role.region)

    def topic_of(self, device: VirtualDevice) -> str:
        return self._directive_topics[device.role.region]

    def went(self, device: VirtualDevice, *, rests: bool) -> None:
        self.server.fleet.lose(device.number, self.server.now, rests=rests)

    def noted(self, device: VirtualDevice, note: Note) -> None:
        self._on_note(device, note)

    def concerns(self, device: VirtualDevice) -> bool:
        """Tell whether a device that sleeps would find something to do if it woke now."""
        campaign = self.server.running
        order = self.server.orders.of(device.role.region)
        if campaign is None or order is None or order.directive.action is not Action.OFFER:
            return False
        ramp = order.directive.ramp
        assert ramp is not None
        waits = campaign.progress.state[device.number] not in _DONE
        return waits and is_due(height(campaign.id, device.role.id), ramp.level(self.server.now))

    # --- what the server meets ---

    def send(self, device: int, topic: str, payload: bytes) -> None:
        to = self.devices[device]
        for delay_s, arrived in to.line.down(payload, self.clock.now):
            if delay_s:
                self.clock.after(delay_s, partial(to.receive, to.presence.session, topic, arrived))
            else:
                to.receive(to.presence.session, topic, arrived)

    def tell(self, device: int) -> None:
        to = self.devices[device]
        if not to.presence.is_up:
            return
        order = self.order(to)
        found = [] if order is None else to.line.down(order.sealed, self.clock.now)
        if not found:
            self.clock.after(RENEW_S, partial(self.tell, device))  # the next stretch of the line says it again
        elif found[0].delay_s:
            self.clock.after(found[0].delay_s, to.catch_up)
        else:
            to.catch_up()

    def _heard(self, device: VirtualDevice, session: int, topic: str, payload: bytes) -> None:
        if session != device.presence.session or not self.is_broker_up:
            return
        kind = topic.rpartition("/")[2]
        if kind == "hello":
            self.server.hello(device.number, payload)
        elif kind == "report":
            self.server.report(device.number, payload)
        else:
            self.server.beat(device.number)

    def _bring(self, device: VirtualDevice, topic: str, release: VirtualRelease, digest: bytes, blob: bytes) -> None:
        now, line, session = self.clock.now, device.line, device.presence.session
        stands_for = release.size_bytes / len(release.chunks) if digest in release.chunks else len(blob)
        found = line.bring(blob, now, stands_for=stands_for)

        def arrive(payload: bytes) -> None:
            line.ends(topic)
            device.receive(session, topic, payload)

        if not found:
            line.ends(topic)
        for delay_s, payload in found:
            if delay_s:
                self.clock.after(delay_s, partial(arrive, payload))
            else:
                arrive(payload)

    def _stop_broker(self, away_s: float) -> None:
        self.is_broker_up = False
        self.server.go_deaf()
        for device in self.devices:
            device.presence.bar(_BROKER)
        self.clock.after(away_s, partial(self._start_broker, away_s))

    def _start_broker(self, away_s: float) -> None:
        self.is_broker_up = True
        self.server.hear_again()
        for device in self.devices:
            device.presence.let_back(_BROKER, after_s=away_s)
