"""A server of a few lines on a real broker: answers hellos and reports, retains what a test signs. No database."""

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from firmware_store.documents import Kind, seal
from server.domain.execution import State
from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.embedded import EmbeddedBroker
from server.mqtt.link import Incoming, MqttLink
from server.protocol.messages import (
    Counter,
    Hello,
    Report,
    decode_beat,
    decode_gone,
    decode_hello,
    decode_report,
    encode_ack,
)
from server.protocol.orders import Action, Admit, Deadlines, Directive, Welcome, directive_map, welcome_map
from server.protocol.reasons import Reason
from server.protocol.topics import CohortAudience, Topics, Up
from tests.agent_world import CAMPAIGN, Bundle, Keys, chunk_digests, crossing, dev_keys

WAIT_S = 20.0


class LabServer:
    """One region, one cohort, any number of devices."""

    def __init__(self, broker: EmbeddedBroker, region: Region, *, keys: Keys | None = None, trial_s: int = 0) -> None:
        self.region, self.cohort = region, Cohort("main")
        self.keys = keys or dev_keys()
        self.topics = Topics()
        self.limits = Deadlines(download_s=600, trial_s=trial_s, confirm_s=120)
        self.reports: dict[DeviceId, list[Report]] = defaultdict(list)
        self.hellos: dict[DeviceId, list[Hello]] = defaultdict(list)
        self.beats: dict[DeviceId, int] = defaultdict(int)
        self.gone: dict[DeviceId, list[bytes]] = defaultdict(list)
        self.counter = Counter()
        self.epoch = self.root_version = 1
        self.status_version = 0
        self.heartbeat_s = 60
        self.admits = True
        self.unanswered: set[State] = set()
        """Reports of these states are not acknowledged."""
        self.held: dict[DeviceId, Counter] = {}
        """The cohort's counter that each device holds, by its last beat or hello."""
        self._retained: set[str] = set()
        self.sessions = 0
        """Times that the broker has accepted this server."""
        self._up = asyncio.Event()
        self._news = asyncio.Event()
        credential = broker.server_credential
        self.link = MqttLink(
            host=broker.mqtt_host,
            port=broker.mqtt_port,
            client_id=f"{credential.client_id}-{region}",
            username=credential.username,
            password=credential.password,
            on_message=self._on_message,
            on_up=self._on_up,
            reconnect_min_s=0.05,
        )

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.link.run())
        async with asyncio.timeout(WAIT_S):
            await self._up.wait()
        await self.link.subscribe_acked(self._all_up)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for topic in self._retained:
            await self.link.publish_acked(topic, b"", retain=True)
        await self.link.close()
        await self._running

    async def retain(self, topic: str, payload: bytes) -> None:
        self._retained.add(topic)
        await self.link.publish_acked(topic, payload, retain=True)

    async def hold_blobs(self, bundle: Bundle) -> None:
        for digest, blob in bundle.blobs.items():
            await self.retain(self.topics.blob(digest), blob)

    async def direct(
        self, action: Action, bundle: Bundle | None = None, *, campaign: CampaignId = CAMPAIGN, **changes: object
    ) -> bytes:
        """Sign a directive for everybody, retain it, and return it."""
        now = int(time.time())
        self.counter = Counter(self.epoch, self.counter.counter + 1)
        directive = Directive(
            fleet=self.keys.root.fleet,
            audience=CohortAudience(self.region, self.cohort),
            counter=self.counter,
            issued=now,
            expires=now + 3600,
            action=Action.NONE,
        )
        if bundle is not None:
            directive = replace(
                directive,
                action=action,
                campaign=campaign,
                manifest_digest=bundle.manifest_digest,
                sequence_number=bundle.sequence_number,
                envelope=bundle.named,
                ramp=crossing(now),
                deadlines=self.limits,
            )
        directive = replace(directive, **changes)
        sealed = seal(Kind.DIRECTIVE, directive_map(directive), [self.keys.directive])
        await self.retain(self.topics.directive(directive.audience), sealed)
        return sealed

    async def offer(self, bundle: Bundle, **changes: object) -> bytes:
        await self.hold_blobs(bundle)
        return await self.direct(Action.OFFER, bundle, **changes)

    async def withhold(self, bundle: Bundle) -> None:
        """Take the last chunk of a bundle off the broker, so that its download does not end."""
        await self.retain(self.topics.blob(chunk_digests(bundle)[-1]), b"")

    @property
    def _all_up(self) -> list[tuple[str, int]]:
        return [(f"{self.topics.root}/{self.region}/device/+/up/+", 1)]

    def _on_up(self, _session_present: bool) -> None:
        if self._up.is_set():  # the broker has been away
            self.link.subscribe(self._all_up)
        self.sessions += 1
        self._up.set()
        self._news.set()

    def _on_message(self, message: Incoming) -> None:
        _, device, kind = self.topics.parse_up(message.topic)
        if kind is Up.HELLO:
            hello = decode_hello(message.payload)
            self.hellos[device].append(hello)
            self.held[device] = hello.cohort_counter
            self.greet(device)
        elif kind is Up.REPORT:
            report = decode_report(message.payload)
            self.reports[device].append(report)
            if report.state not in self.unanswered:
                self.acknowledge(device, report.sequence)
            if self.admits and report.reason is Reason.LATE:
                self.admit(device, report.campaign)
        elif kind is Up.BEAT:
            self.held[device] = decode_beat(message.payload).cohort_counter
            self.beats[device] += 1
        elif kind is Up.GONE:
            self.gone[device].append(decode_gone(message.payload).nonce)
        self._news.set()

    def greet(self, device: DeviceId) -> None:
        """Answer a hello."""
        self.welcome(device)

    def acknowledge(self, device: DeviceId, sequence: int) -> None:
        self.link.publish_nowait(self.topics.ack(self.region, device), encode_ack(sequence))

    def admit(self, device: DeviceId, campaign: CampaignId = CAMPAIGN) -> None:
        self.welcome(device, admit=Admit(campaign, int(time.time()) + 60))

    def welcome(self, device: DeviceId, **changes: object) -> None:
        """Welcome the present session of a device."""
        welcome = Welcome(
            fleet=self.keys.root.fleet,
            device=device,
            nonce=self.hellos[device][-1].nonce,
            server_time=int(time.time()),
            cohort_counter=self.counter,
            device_counter=Counter(),
            region=self.region,
            cohort=self.cohort,
            member_since=0,
            held=False,
            heartbeat_s=self.heartbeat_s,
            root_version=self.root_version,
            status_version=self.status_version,
        )
        sealed = seal(Kind.WELCOME, welcome_map(replace(welcome, **changes)), [self.keys.session])
        self.link.publish_nowait(self.topics.welcome(self.region, device), sealed)

    def states(self, device: DeviceId) -> list[State]:
        """What a device has reported, repetitions left out."""
        seen: dict[int, State] = {report.sequence: report.state for report in self.reports[device]}
        return [seen[number] for number in sorted(seen)]

    async def until_beats(self, device: DeviceId, more: int = 2) -> None:
        """Wait until the device has said so many more times that it is alive: by then it has seen what was sent."""
        before = self.beats[device]
        await self.until(lambda: self.beats[device] >= before + more)

    async def until(self, condition: Callable[[], bool], *, within_s: float = WAIT_S) -> None:
        """Wait for something a device says."""
        async with asyncio.timeout(within_s):
            while not condition():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def ends_with(task: "asyncio.Task[None]", stop: Callable[[], None]) -> AsyncIterator[None]:
    """Run a block beside a task that ends when asked to."""
    try:
        yield
    finally:
        stop()
        async with asyncio.timeout(WAIT_S):
            await task


def digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
