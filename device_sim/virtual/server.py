"""The server of a virtual fleet: it hears devices, welcomes them, and runs the campaigns one after the other.

What is decided here is decided by the server's own code; what is left out is what stores and carries it: the database,
the broker and their failures.
"""

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from device_sim.virtual.authority import Authority
from device_sim.virtual.campaign import VirtualCampaign
from device_sim.virtual.clock import Clock
from device_sim.virtual.fleet import Fleet
from device_sim.virtual.orders import COHORT, Orders
from server.domain.execution import IN_FLIGHT, State
from server.domain.halt.view import Indices
from server.domain.identity import Region
from server.protocol.messages import Counter, Report, decode_hello, decode_report, encode_ack
from server.protocol.orders import Admit, Welcome
from server.protocol.topics import Topics

TICK_MOST_S: Final = 60.0
QUIET_TICK_MOST_S: Final = 600.0
TICK_LEAST_S: Final = 1.0
"""The server looks at a campaign once a second, here once a block of its halt rule, and at least so often: every minute
while devices are under way, else every ten.
"""

_NOT_BEGUN: Final = frozenset({State.WAITING, State.DUE})


class Downlink(Protocol):
    """What carries the server's words to a device."""

    def send(self, device: int, topic: str, payload: bytes) -> None:
        """Send a message to a device that has a session; to others it is lost."""

    def tell(self, device: int) -> None:
        """Bring a device that has a session what its region is told now."""


class VirtualServer:
    """``epoch``: the Unix second at which fleet time is 0."""

    def __init__(
        self, clock: Clock, fleet: Fleet, authority: Authority, topics: Topics, downlink: Downlink, *, epoch: int
    ) -> None:
        self.fleet = fleet
        self.orders = Orders(authority)
        self.campaigns: list[VirtualCampaign] = []
        self.on_tick: Callable[[], None] | None = None
        self._clock = clock
        self._authority = authority
        self._topics = topics
        self._downlink = downlink
        self._epoch = epoch
        self._nonces: dict[int, bytes] = {}
        self._in_order: list[tuple[Indices, Indices]] = []
        """Of the running campaign: each region's heights, rising, and whose they are."""
        self._passed: list[int] = []
        """By region, the level below which every device has been told."""
        self._is_deaf = self._was_deaf = False

    @property
    def now(self) -> float:
        """Unix seconds."""
        return self._epoch + self._clock.now

    @property
    def running(self) -> VirtualCampaign | None:
        """The campaign that the fleet is under."""
        return self.campaigns[-1] if self.campaigns else None

    def begin(self, campaign: VirtualCampaign) -> None:
        """Start a campaign; it supersedes the one before it."""
        for before in self.campaigns:
            before.is_superseded = before.is_superseded or before.is_judged
        self.campaigns.append(campaign)
        self._in_order = []
        for region in range(len(self.fleet.regions)):
            here = np.flatnonzero(self.fleet.region == region)
            order = np.argsort(campaign.population.height[here], kind="stable")
            self._in_order.append((campaign.population.height[here][order].astype(np.int64), here[order]))
        self._passed = [0] * len(self.fleet.regions)
        self._tick(campaign)

    def go_deaf(self) -> None:
        """The broker is away: nothing is heard, and nobody is judged by that."""
        self._is_deaf = self._was_deaf = True

    def hear_again(self) -> None:
        self._is_deaf = False

    # --- what devices say ---

    def hello(self, device: int, payload: bytes) -> None:
        """A session has begun: answer it with a fresh, signed welcome."""
        hello = decode_hello(payload)
        self._nonces[device] = hello.nonce
        self.fleet.greet(device, self.now)
        if hello.execution is not None:
            self._take(device, hello.execution)
        self._welcome(device)

    def report(self, device: int, payload: bytes) -> None:
        """Take a report in, and acknowledge it."""
        report = decode_report(payload)
        self.fleet.hear(device, self.now)
        self._take(device, report)
        topic = self._topics.ack(Region(self.fleet.regions[self.fleet.region[device]]), self.fleet.ids[device])
        self._downlink.send(device, topic, encode_ack(report.sequence))

    def beat(self, device: int) -> None:
        self.fleet.hear(device, self.now)

    def _take(self, device: int, report: Report) -> None:
        campaign = next((one for one in self.campaigns if one.id == report.campaign), None)
        if campaign is not None:
            campaign.progress.take(device, report, self.now)

    def _welcome(self, device: int) -> None:
        region = Region(self.fleet.regions[self.fleet.region[device]])
        campaign, now = self.running, int(self.now)
        admit = None
        if campaign is not None and campaign.admitted_until[device] > now:
            admit = Admit(campaign.id, int(campaign.admitted_until[device]))
        welcome = Welcome(
            fleet=self._authority.root.fleet,
            device=self.fleet.ids[device],
            nonce=self._nonces[device],
            server_time=now,
            cohort_counter=self.orders.counter(region),
            device_counter=Counter(),
            region=region,
            cohort=COHORT,
            member_since=self._epoch,
            held=False,
            heartbeat_s=max(1, round(self.fleet.heartbeat_s)),
            admit=admit,
        )
        sealed = self._authority.sign_welcome(welcome)
        self._downlink.send(device, self._topics.welcome(region, welcome.device), sealed)

    # --- what it decides ---

    def _tick(self, campaign: VirtualCampaign) -> None:
        if campaign is not self.running or not campaign.is_judged:
            return
        most_s = QUIET_TICK_MOST_S if campaign.is_quiet else TICK_MOST_S
        every_s = min(most_s, max(TICK_LEAST_S, campaign.order.policy.halt.block_s))
        if not self._is_deaf:
            admitted = campaign.step(self.now, is_blind=self._was_deaf)
            self._was_deaf = False
            self._publish(campaign, within_s=every_s)
            for device in admitted:
                if self.fleet.is_up(device):
                    self._welcome(device)
        if self.on_tick is not None:
            self.on_tick()
        self._clock.after(every_s, lambda: self._tick(campaign))

    def _publish(self, campaign: VirtualCampaign, *, within_s: float) -> None:
        """Bring new orders to those for whom they change something now.

        All others take them in before they next do anything: a device that is idle does nothing about an order,
        whatever it is, before its height is passed.
        """
        for place, region in enumerate(self.fleet.regions):
            before = self.orders.of(region)
            if before is not None and before.directive.ramp is not None and before.directive.campaign == campaign.id:
                self._passed[place] = max(self._passed[place], before.directive.ramp.level(self.now))
        for region, order in self.orders.renew(campaign, self.now, within_s=within_s):
            place = self.fleet.regions.index(region)
            heights, devices = self._in_order[place]
            if order.is_news:
                self._tell(campaign.progress.those(devices.tolist(), IN_FLIGHT))
            if order.directive.ramp is not None:
                passed = 0 if order.is_news else self._passed[place]
                low, high = np.searchsorted(heights, [passed, order.directive.ramp.l1])
                self._tell(campaign.progress.those(devices[low:high].tolist(), _NOT_BEGUN))

    def _tell(self, devices: list[int]) -> None:
        for device in devices:
            self._downlink.tell(device)
