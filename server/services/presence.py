"""Greeting devices and knowing who is there."""

import asyncio
from typing import Final

import structlog

from firmware_store.errors import BrokerUnavailableError, SignerUnavailableError, StoreUnavailableError
from server.db.devices import DeviceRepository
from server.domain.identity import Region
from server.protocol.messages import Beat, Counter, Gone, Hello
from server.protocol.orders import Welcome
from server.protocol.topics import CohortAudience, DeviceAudience, Topics
from server.services.authority import Authority
from server.services.device import Device
from server.services.directives import Directives
from server.services.fleet import Fleet
from server.services.metrics import Metrics
from server.services.wire import Wire

log = structlog.get_logger(__name__)

WELCOME_AGAIN_S: Final = 10.0
"""A beat or report that shows an old counter is answered by a welcome at most so often."""

SIGNING_MOST: Final = 256
"""Welcomes that wait for a signer outside of this process; more are shed, and asked for again by the devices."""

SAVE_SEEN_S: Final = 300.0


class Presence:
    """Answers hellos, takes beats and last wills."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        repository: DeviceRepository,
        directives: Directives,
        authority: Authority,
        wire: Wire,
        topics: Topics,
        metrics: Metrics,
        heartbeat_s: int,
    ) -> None:
        self._fleet = fleet
        self._repository = repository
        self._directives = directives
        self._authority = authority
        self._wire = wire
        self._topics = topics
        self._metrics = metrics
        self._heartbeat_s = heartbeat_s
        self._signing: set[asyncio.Task[None]] = set()

    def hello(self, device: Device, hello: Hello, now: float, *, region: Region) -> None:
        """A session has begun: answer it with a fresh, signed welcome, in the region where the device listens.

        A device that was moved learns its new region and cohort from the welcome's text.
        """
        self._fleet.greet(device, hello, now)
        device.told_counter = None  # it reads what is retained only now; the next beat says what it holds
        if region == device.region and not device.moved:
            self._note_counter(device, hello.cohort_counter, now)
        device.moved = False  # it says hello until it is welcomed, and the welcome says where it belongs
        self._welcome(device, now, region)

    def beat(self, device: Device, beat: Beat, now: float, *, region: Region) -> None:
        """A device is alive; one that holds an old directive, or is where it does not belong, is told so.

        What it holds of another region's or cohort's directives says nothing of its own's.
        """
        self._fleet.hear(device, now)
        device.free_bytes = beat.health.get("free_bytes", device.free_bytes)
        device.refusals = beat.health.get("errors", device.refusals)
        at_home = region == device.region and not device.moved
        if at_home:
            device.told_counter, device.told_at = beat.cohort_counter, now
            self._note_counter(device, beat.cohort_counter, now)
        current = self._directives.counter(CohortAudience(device.region, device.cohort))
        astray = not at_home or beat.cohort_counter < current
        if astray and device.nonce and now - device.welcomed_at >= WELCOME_AGAIN_S:
            self._welcome(device, now, region)

    def welcome_again(self, device: Device, now: float, *, listens_in: Region | None = None) -> bool:
        """Tell a device what has changed for it, such as an admit; False where there is no session to tell it in.

        ``listens_in``: the region that it was in until now, where it was moved.
        """
        if not device.nonce:
            return False
        self._welcome(device, now, listens_in or device.region)
        return True

    def gone(self, device: Device, gone: Gone) -> None:
        """The broker published a last will."""
        self._fleet.lose(device, gone.nonce)

    def _note_counter(self, device: Device, held: Counter, now: float) -> None:
        self._directives.note_held(CohortAudience(device.region, device.cohort), held, now=now)

    def _welcome(self, device: Device, now: float, region: Region) -> None:
        if device.admit is not None and now >= device.admit.until:
            device.admit = None
        if device.reboot is not None and now >= device.reboot.until:
            device.reboot = None
        welcome = Welcome(
            fleet=self._authority.root.fleet,
            device=device.id,
            nonce=device.nonce,
            server_time=int(now),
            cohort_counter=self._directives.counter(CohortAudience(device.region, device.cohort)),
            device_counter=self._directives.counter(DeviceAudience(device.region, device.id)),
            region=device.region,
            cohort=device.cohort,
            member_since=int(device.member_since),
            held=device.held,
            heartbeat_s=self._heartbeat_s,
            root_version=self._authority.root.version,
            status_version=self._authority.status_version,
            admit=device.admit,
            reboot=device.reboot,
        )
        device.welcomed_at = now
        try:
            sealed = self._authority.sign_welcome_now(welcome)
        except SignerUnavailableError as exc:
            log.warning("welcome_not_signed", device=device.id, reason=str(exc))
            return
        if sealed is not None:
            self._send(welcome, region, sealed)
        elif len(self._signing) < SIGNING_MOST:
            task = asyncio.create_task(self._sign_and_send(welcome, region), name="sign welcome")
            self._signing.add(task)
            task.add_done_callback(self._signing.discard)

    async def _sign_and_send(self, welcome: Welcome, region: Region) -> None:
        """Where the session key is not in this process."""
        try:
            sealed = await self._authority.sign_welcome(welcome)
        except SignerUnavailableError as exc:
            log.warning("welcome_not_signed", device=welcome.device, reason=str(exc))
            return
        self._send(welcome, region, sealed)

    def _send(self, welcome: Welcome, region: Region, sealed: bytes) -> None:
        try:
            self._wire.publish_nowait(self._topics.welcome(region, welcome.device), sealed)
        except BrokerUnavailableError:
            return  # its next beat shows an old counter, or its next hello comes
        self._metrics.welcomes.inc()

    async def save_seen(self) -> None:
        """Serve for ever: write ``last_seen`` every few minutes, in one batch."""
        while True:
            await asyncio.sleep(SAVE_SEEN_S)
            await self.save_seen_now()

    async def save_seen_now(self) -> None:
        """Write ``last_seen`` of everybody heard from since the last time."""
        try:
            seen = self._fleet.unsaved()
            await self._repository.note_seen(seen)
            self._fleet.note_saved(seen)
        except StoreUnavailableError as exc:
            log.warning("last_seen_not_saved", reason=str(exc))
