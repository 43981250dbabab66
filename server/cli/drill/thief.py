"""Whoever owns the broker and the online keys: it speaks to devices as the server does, and says what it likes."""

import asyncio
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Final, Self
from uuid import UUID, uuid4

from firmware_store.codec import Encodable
from firmware_store.documents import Kind, seal
from firmware_store.errors import BrokerUnavailableError, CodecError
from firmware_store.keys import SigningKey
from firmware_store.root import Root
from server.cli.drill.releases import Release
from server.domain.gate import FULL, Ramp
from server.domain.identity import CampaignId, Cohort, DeviceId, Region
from server.mqtt.link import Incoming, MqttLink
from server.mqtt.session import BrokerAccess
from server.protocol.messages import Counter, Hello, decode_hello, decode_report, encode_ack
from server.protocol.orders import Action, Admit, Deadlines, Directive, Welcome, directive_map, welcome_map
from server.protocol.topics import Audience, CohortAudience, DeviceAudience, Topics, Up

UP_S: Final = 15.0
LIMITS: Final = Deadlines(download_s=600, trial_s=1, confirm_s=120)
OFFER_S: Final = 3600


class Thief:
    """One session at the broker; ``async with`` it.

    ``devices`` says in which region each of them is, ``counters`` which directives the server has signed last. Without
    a ``session`` key the thief is no server: it greets nobody, and only orders.
    """

    def __init__(
        self,
        access: BrokerAccess,
        *,
        root: Root,
        directive: SigningKey,
        session: SigningKey | None,
        cohort: Cohort,
        devices: Mapping[DeviceId, Region],
        counters: Mapping[Audience, Counter],
    ) -> None:
        self.root = root
        self.topics = Topics()
        self.false_time_s = 0
        """What it adds to the time in its welcomes."""
        self.root_version, self.status_version = root.version, 0
        self._directive = directive
        self._session = session
        self._cohort = cohort
        self._campaign = CampaignId(UUID(int=0))
        self.devices = devices
        self._counters = dict(counters)
        self._up = asyncio.Event()
        self._link = MqttLink(
            host=access.host,
            port=access.port,
            client_id=access.client_id,
            username=access.username,
            password=access.password,
            on_message=self._take,
            on_up=self._listen,
            on_down=lambda _: self._up.clear(),
            reconnect_max_s=1,
        )
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._link.run(), name="thief")
        await self._wait_for_broker()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()
        if self._running is not None:
            await self._running

    @property
    def cohort_audiences(self) -> list[Audience]:
        return [CohortAudience(region, self._cohort) for region in sorted(set(self.devices.values()))]

    def audiences_of(self, devices: Collection[DeviceId] | None) -> list[Audience]:
        """Everybody, by their cohort; or some devices, each by itself."""
        if devices is None:
            return self.cohort_audiences
        return [DeviceAudience(self.devices[device], device) for device in devices]

    async def retain(self, topic: str, payload: bytes) -> None:
        await self._wait_for_broker()  # it is restarted now and then
        await self._link.publish_acked(topic, payload, retain=True)

    async def hold(self, release: Release) -> None:
        """Put every blob of a release on the broker, under the digest that it is said to have."""
        for digest, blob in release.blobs.items():
            await self.retain(self.topics.blob(digest), blob)

    async def offer(self, release: Release, *, to: Collection[DeviceId] | None = None, **lies: object) -> CampaignId:
        """Offer a release in a campaign of its own; ``lies`` replace members of the directive."""
        await self.hold(release)
        campaign = self._campaign = CampaignId(uuid4())
        offered = {
            "campaign": campaign,
            "manifest_digest": release.manifest_digest,
            "sequence_number": release.sequence_number,
            "envelope": release.named,
            "ramp": _crossing(int(time.time()) + min(0, self.false_time_s)),
            "deadlines": LIMITS,
            **lies,
        }
        await self.order(Action.OFFER, to=to, **offered)
        return campaign

    async def order(self, action: Action, *, to: Collection[DeviceId] | None = None, **members: object) -> None:
        """Sign a directive for each audience with a counter that none of them has seen, and retain it."""
        for audience in self.audiences_of(to):
            directive = replace(self._directive_for(audience), **{"action": action, **members})  # type: ignore[arg-type]
            await self.retain(
                self.topics.directive(audience), seal(Kind.DIRECTIVE, directive_map(directive), [self._directive])
            )

    def sign(self, kind: Kind, members: Mapping[int, Encodable]) -> bytes:
        """Seal any document with both keys there are: for documents that other roles sign."""
        keys = [self._directive, *([] if self._session is None else [self._session])]
        return seal(kind, members, keys)

    def _directive_for(self, audience: Audience) -> Directive:
        held = self._counters.get(audience, Counter(self._epoch, 0))
        counter = Counter(held.epoch, max(held.counter, int(time.time() * 1000)) + 1)
        self._counters[audience] = counter
        now = int(time.time())
        return Directive(
            fleet=self.root.fleet,
            audience=audience,
            counter=counter,
            issued=now,
            expires=now + OFFER_S,
            action=Action.NONE,
        )

    @property
    def _epoch(self) -> int:
        return next((counter.epoch for counter in self._counters.values()), 1)

    async def _wait_for_broker(self) -> None:
        async with asyncio.timeout(UP_S):
            await self._up.wait()

    def _listen(self, _session_present: bool) -> None:
        if self._session is not None:
            self._link.subscribe([(self.topics.all_up, 0)])
        self._up.set()

    def _take(self, message: Incoming) -> None:
        with suppress(CodecError, BrokerUnavailableError):
            in_region, device, kind = self.topics.parse_up(message.topic)
            if kind is Up.HELLO and self._session is not None:
                self._greet(in_region, device, decode_hello(message.payload), self._session)
            elif kind is Up.REPORT:
                sequence = decode_report(message.payload).sequence
                self._link.publish_nowait(self.topics.ack(in_region, device), encode_ack(sequence))

    def _greet(self, in_region: Region, device: DeviceId, hello: Hello, session: SigningKey) -> None:
        server_time = int(time.time()) + self.false_time_s
        welcome = Welcome(
            fleet=self.root.fleet,
            device=device,
            nonce=hello.nonce,
            server_time=server_time,
            cohort_counter=Counter(),  # whatever the device holds is new enough
            device_counter=Counter(),
            region=in_region,
            cohort=self._cohort,
            member_since=0,
            held=False,
            heartbeat_s=5,
            root_version=self.root_version,
            status_version=self.status_version,
            admit=Admit(self._campaign, server_time + OFFER_S),  # whoever is late shall start, too
        )
        sealed = seal(Kind.WELCOME, welcome_map(welcome), [session])
        self._link.publish_nowait(self.topics.welcome(in_region, device), sealed)


def _crossing(at: int) -> Ramp:
    """Return a line that passes everybody at one moment (Unix seconds)."""
    return Ramp(at, 0, at, FULL)
