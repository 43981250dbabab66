"""The server's side of an exam: it answers one device at the broker, and signs what the exam wants it to be shown."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from device_sim.conformance.keys import LabKeys
from firmware_store.codec import Value, encode
from firmware_store.documents import Kind, seal_payload
from firmware_store.errors import BrokerUnavailableError, CodecError
from firmware_store.keys import Signer
from server.domain.identity import Cohort, DeviceId, Region
from server.mqtt.link import Incoming, MqttLink
from server.protocol.messages import (
    Beat,
    Counter,
    Gone,
    Hello,
    Report,
    decode_beat,
    decode_gone,
    decode_hello,
    decode_report,
    encode_ack,
)
from server.protocol.orders import Action, Directive, Welcome, directive_map, welcome_map
from server.protocol.topics import CohortAudience, Topics, Up

CONNECT_S: Final = 15.0
HEARTBEAT_S: Final = 1
FUTURE_S: Final = 3600


class Examiner:
    """Hears one device. What it has said is in the lists, in the order in which it came."""

    def __init__(
        self, link: Callable[..., MqttLink], keys: LabKeys, device: DeviceId, cohort: Cohort, root: str
    ) -> None:
        self.keys, self.device, self.cohort = keys, device, cohort
        self.topics = Topics(root)
        self.hellos: list[Hello] = []
        self.beats: list[tuple[float, Beat]] = []
        """With the monotonic seconds at which each came."""
        self.reports: list[Report] = []
        self.goodbyes: list[Gone] = []
        self.unreadable: list[str] = []
        self.greets = False
        """Whether a hello is answered at once."""
        self.answers: Callable[[Report], bool] = lambda _: True
        """Which reports are acknowledged."""
        self.acknowledged: set[int] = set()
        self.sent_again: list[int] = []
        """Numbers of reports that came once more though they had been acknowledged a beat before."""
        self.counter = Counter()
        self._region: Region | None = None
        self._news = asyncio.Event()
        self._up = asyncio.Event()
        self._retained: set[str] = set()
        self._link = link(on_message=self._take, on_up=self._came_up)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Be at the broker for the block; what was retained for the device is gone afterwards.

        Raises:
            BrokerUnavailableError: it does not answer.
        """
        running = asyncio.create_task(self._link.run(), name="conformance link")
        try:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await self._up.wait()
            except TimeoutError as exc:
                raise BrokerUnavailableError(f"The broker does not answer: {self._link.last_error}.") from exc
            await self._link.subscribe_acked(self._wanted)
            yield
            for topic in sorted(self._retained):
                await self._link.publish_acked(topic, b"", retain=True)
        finally:
            await self._link.close()
            await running

    # --- what it hears ---

    @property
    def region(self) -> Region:
        """Return where the device speaks."""
        assert self._region is not None, "it has said hello"
        return self._region

    @property
    def held(self) -> Counter:
        """Return the cohort's counter that the device holds, by its last beat."""
        return self.beats[-1][1].cohort_counter if self.beats else Counter()

    async def until(self, holds: Callable[[], bool], *, within_s: float) -> bool:
        """Wait for something that the device says; False: it has not said it."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def beat(self, more: int = 2) -> bool:
        """Wait for so many more beats: by the second one a device has seen what was published before the first."""
        wanted = len(self.beats) + more
        return await self.until(lambda: len(self.beats) >= wanted, within_s=(4 + 2 * more) * HEARTBEAT_S)

    # --- what it says ---

    def welcome(self, *, signer: Signer | None = None, **changes: object) -> None:
        """Welcome the present session of the device."""
        hello = self.hellos[-1]
        welcome = Welcome(
            fleet=self.keys.root.fleet,
            device=self.device,
            nonce=hello.nonce,
            server_time=int(time.time()),
            cohort_counter=self.counter,
            device_counter=hello.device_counter,
            region=self.region,
            cohort=self.cohort,
            member_since=0,
            held=False,
            heartbeat_s=HEARTBEAT_S,
            root_version=self.keys.root.version,
            status_version=hello.status_version,
        )
        signed = _sealed(Kind.WELCOME, welcome_map(replace(welcome, **changes)), signer or self.keys.session)  # type: ignore[arg-type]
        self._link.publish_nowait(self.topics.welcome(self.region, self.device), signed)

    def directive(self, action: Action = Action.NONE, *, ahead: int = 1, **members: object) -> Directive:
        """Return one for the device's cohort, so many counters ahead of the last one that was given out."""
        now = int(time.time())
        given = {
            "fleet": self.keys.root.fleet,
            "audience": CohortAudience(self.region, self.cohort),
            "counter": Counter(self.counter.epoch, self.counter.counter + ahead),
            "issued": now,
            "expires": now + FUTURE_S,
            "action": action,
        }
        return Directive(**{**given, **members})  # type: ignore[arg-type]

    async def publish(
        self,
        directive: Directive,
        *,
        signer: Signer | None = None,
        further: Mapping[int, Value] | None = None,
        shuffled: bool = False,
    ) -> None:
        """Retain a directive on the cohort's topic; ``further``: members; ``shuffled``: encoded in another order."""
        members = {**directive_map(directive), **(further or {})}
        payload = _shuffled(members) if shuffled else encode(members)
        body = seal_payload(Kind.DIRECTIVE, payload, [signer or self.keys.directive])
        await self.retain(self.topics.directive(CohortAudience(self.region, self.cohort)), body)

    async def order(self, directive: Directive) -> None:
        """Publish a good directive; the next one is ahead of it."""
        self.counter = directive.counter
        await self.publish(directive)

    async def retain(self, topic: str, body: bytes) -> None:
        self._retained.add(topic)
        await self._link.publish_acked(topic, body, retain=True)

    def acknowledge(self, sequence: int) -> None:
        self.acknowledged.add(sequence)
        self._link.publish_nowait(self.topics.ack(self.region, self.device), encode_ack(sequence))

    # --- the link ---

    @property
    def _wanted(self) -> list[tuple[str, int]]:
        return [(f"{self.topics.root}/+/device/{self.device}/up/+", 1)]

    def _came_up(self, _session_present: bool) -> None:
        if self._up.is_set():
            self._link.subscribe(self._wanted)
        self._up.set()

    def _take(self, message: Incoming) -> None:
        at = time.monotonic()
        try:
            where = self.topics.parse_up(message.topic)
            match where.kind:
                case Up.HELLO:
                    self._region = where.region
                    self.hellos.append(decode_hello(message.payload))
                    if self.greets:
                        self.welcome()
                case Up.BEAT:
                    self.beats.append((at, decode_beat(message.payload)))
                case Up.REPORT:
                    self._hear_report(decode_report(message.payload))
                case Up.GONE:
                    self.goodbyes.append(decode_gone(message.payload))
        except CodecError as exc:
            self.unreadable.append(f"{message.topic.rsplit('/', 1)[-1]}: {exc}")
        self._news.set()

    def _hear_report(self, report: Report) -> None:
        if report.sequence in self.acknowledged:
            self.sent_again.append(report.sequence)
        self.reports.append(report)
        if self.answers(report):
            self.acknowledge(report.sequence)


def _sealed(kind: Kind, members: Mapping[int, Value], signer: Signer) -> bytes:
    return seal_payload(kind, encode(members), [signer])


def _shuffled(members: Mapping[int, Value]) -> bytes:
    """Return the same map with its first member at the end; at most 23 members, keys below 24."""
    first, *others = [encode(key) + encode(value) for key, value in members.items()]
    return bytes([0xA0 | len(members)] if len(members) < 24 else [0xB8, len(members)]) + b"".join([*others, first])
