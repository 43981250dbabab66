"""A device under test without sockets: the real core, real slot files and a real bootloader, on a clock of the test's.

``World`` is the broker and the server in one: retained messages, welcomes, acknowledgements. Everything it says is
really signed with development keys, so that a test can say anything an owner of the broker, or of one key, could.
"""

import hashlib
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from device_sim.agent.boot_environment import Image, SlotInfo
from device_sim.agent.bootloader import boot
from device_sim.agent.core import Agent
from device_sim.agent.durable_file import make_directory, read_file, replace_file
from device_sim.agent.events import (
    Answer,
    CheckHealth,
    Effect,
    Event,
    Get,
    Got,
    HealthChecked,
    LinkDown,
    LinkUp,
    Note,
    Publish,
    Reboot,
    Received,
    Reconnect,
    StepFailed,
    StopGets,
    Subscribe,
    Tick,
    Unsubscribe,
)
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.agent.partitions import Partitions
from device_sim.agent.slots import SlotBackend
from device_sim.agent.state import AgentState
from device_sim.agent.storage import Storage
from device_sim.agent.trust import Identity
from device_sim.agent.uboot_bootloader import boot_uboot
from device_sim.agent.uboot_environment import Copy, UBootStore, Variables, encode_copy
from firmware_store.chunks import chunk_image, decode_index, decode_page
from firmware_store.codec import encode
from firmware_store.deltas import Codec, codecs, make_delta
from firmware_store.documents import Kind, seal
from firmware_store.keys import SigningKey, load_key
from firmware_store.root import Root, init_dev_keys
from firmware_store.suit import (
    Component,
    Fetch,
    build_envelope,
    build_manifest,
    class_id,
    open_envelope,
    parse_version,
    sign_envelope,
    vendor_id,
    verify_envelope,
)
from firmware_store.suit_values import ChunkProfile, SlotImage
from server.domain.execution import State
from server.domain.gate import FULL, Ramp
from server.domain.identity import CampaignId, Cohort, DeviceId, HardwareClass, Region
from server.domain.windows import Window
from server.protocol.messages import Beat, Counter, Hello, Report, decode_beat, decode_hello, decode_report, encode_ack
from server.protocol.orders import Action, Admit, Deadlines, Directive, Envelope, Welcome, directive_map, welcome_map
from server.protocol.reasons import Reason
from server.protocol.sources import DeltaOffer, HttpSource, Transport
from server.protocol.topics import Audience, CohortAudience, DeviceAudience, Topics

EPOCH = int(time.time()) - 1000  # the server's clock at 0 s; real, so that the same keys serve a real broker, too
VENDOR = "acme.example"
HARDWARE = HardwareClass("gw100-rev-b")
DEVICE = DeviceId("gw-0001")
EU, MAIN = Region("eu"), Cohort("main")
CAMPAIGN = CampaignId(UUID(int=1))
OTHER_CAMPAIGN = CampaignId(UUID(int=2))
HTTP = HttpSource(Transport.MQTT, "http://updates.example", "tk_1_00")
LIMITS = Deadlines(download_s=3600, trial_s=60, confirm_s=600)


@dataclass(frozen=True)
class Keys:
    root: Root
    root_bytes: bytes
    directive: SigningKey
    session: SigningKey
    release: tuple[SigningKey, ...]


def dev_keys(name: str = "fleet") -> Keys:
    """A fleet's keys; another name is another fleet."""
    return _make_keys(name)  # one cache entry, whether the name is given or not


@cache
def _make_keys(name: str) -> Keys:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "keys"
        fleet = hashlib.sha256(name.encode()).digest()[:16]
        root = init_dev_keys(directory, fleet=fleet, now=EPOCH)

        def load(role: str) -> SigningKey:
            return load_key(directory / f"{role}.pem", None)

        release = (load("release-1"), load("release-2"))
        root_bytes = (directory / "root.cbor").read_bytes()
        return Keys(root, root_bytes, load("directive-1"), load("session-1"), release)


@dataclass(frozen=True)
class Bundle:
    """A signed release and its blobs."""

    envelope: bytes
    manifest_digest: bytes
    sequence_number: int
    blobs: dict[bytes, bytes]
    images: dict[str, bytes]

    @property
    def named(self) -> Envelope:
        return Envelope(hashlib.sha256(self.envelope).digest(), len(self.envelope))


def picture(seed: int, size: int) -> bytes:
    """Bytes that look like firmware: partly compressible, never twice the same for another seed."""
    rng = random.Random(seed)
    return b"".join(rng.randbytes(512) + bytes(512) for _ in range(-(-size // 1024)))[:size]


@cache
def make_bundle(
    number: int = 1,
    version: str = "1.1.0",
    *,
    sizes: tuple[tuple[str, int], ...] = (("app", 40_000), ("rootfs", 100_000)),
    vendor: str = VENDOR,
    hardware: tuple[str, ...] = (HARDWARE,),
    signers: str = "fleet",
    signatures: int = 2,
    seed: int = 0,
    blank: bool = False,
    slots: tuple[int, ...] = (),
    release: tuple[SigningKey, ...] = (),
    contents: tuple[tuple[str, bytes], ...] = (),
    profile: ChunkProfile = ChunkProfile.FIXED,
) -> Bundle:
    blobs: dict[bytes, bytes] = {}
    components: list[Component] = []
    images = {name: b"\xff" * size if blank else picture(seed or hash_of(name, version), size) for name, size in sizes}
    images |= dict(contents)
    for name, data in images.items():
        if not slots:
            components.append(Component(name, *chunk(data, blobs, profile)))
            continue
        per_slot = {slot: b"slot %d" % slot + data for slot in slots}
        components.append(
            Component.of_slots(name, [SlotImage(slot, *chunk(own, blobs, profile)) for slot, own in per_slot.items()])
        )
    vendor_bytes = vendor_id(vendor)
    manifest = build_manifest(
        sequence_number=number,
        version=parse_version(version),
        vendor_id=vendor_bytes,
        class_ids=[class_id(vendor_bytes, model) for model in hardware],
        components=components,
    )
    envelope = build_envelope(manifest)
    for key in (release or dev_keys(signers).release)[:signatures]:
        envelope = sign_envelope(envelope, key)
    blobs[hashlib.sha256(envelope).digest()] = envelope
    digest = hashlib.sha256(manifest_bstr(manifest)).digest()
    return Bundle(envelope, digest, number, blobs, images)


def chunk(
    data: bytes, blobs: dict[bytes, bytes], profile: ChunkProfile = ChunkProfile.FIXED
) -> tuple[bytes, int, Fetch]:
    """Cut an image, put its blobs to the others, and return what a manifest says of it."""
    chunked = chunk_image([data], profile)
    for piece, wire in chunked:
        blobs[piece.wire_digest] = wire
    index = chunked.index()
    for blob in (index.root, *index.pages):
        blobs[hashlib.sha256(blob).digest()] = blob
    return index.image_digest, index.image_size, index.fetch


def delta(
    source: Bundle, target: Bundle, name: str = "app", codec: Codec = Codec.ZSTD, *, made: bytes | None = None
) -> tuple[DeltaOffer, dict[bytes, bytes]]:
    """A delta between the images of a component, and its blobs; ``made`` is what it is instead of the real one."""
    with tempfile.TemporaryDirectory() as folder:
        before, after, out = (Path(folder) / part for part in ("before", "after", "out"))
        before.write_bytes(source.images[name])
        after.write_bytes(target.images[name])
        if made is None:
            make_delta(codec, before, after, out)
            made = out.read_bytes()
    blobs: dict[bytes, bytes] = {}
    _, _, fetch = chunk(made, blobs)
    return (
        DeltaOffer(
            component=list(target.images).index(name),
            codec=codec.value,
            source_digest=hashlib.sha256(source.images[name]).digest(),
            target_digest=hashlib.sha256(target.images[name]).digest(),
            wire_bytes=sum(map(len, blobs.values())),
            index_digest=fetch.index_digest,
            index_size=fetch.index_size,
            chunk_count=fetch.chunk_count,
        ),
        blobs,
    )


def manifest_bstr(manifest: bytes) -> bytes:
    return encode(manifest)


def hash_of(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:4], "big")


def matches(wanted: str, topic: str) -> bool:
    """Tell whether a subscription, whose last level may be ``+``, brings a topic (MQTT 3.1.1 4.7)."""
    if not wanted.endswith("/+"):
        return wanted == topic
    return topic.rpartition("/")[0] == wanted.removesuffix("/+")


class Platform(Protocol):
    """What a device has below its agent: a medium, slots, and what boots them."""

    files: Filesystem
    durable: bool

    def provision(self, directory: Path) -> None: ...
    def boot(self, directory: Path, boots: Callable[[SlotInfo], bool]) -> str | None: ...
    def slots(self, directory: Path) -> SlotBackend: ...
    def image(self, directory: Path, slot: str, name: str) -> bytes: ...


@dataclass
class FilePlatform:
    """Slots as files, and a boot environment beside them."""

    files: Filesystem = SYSTEM_FILES
    durable: bool = False
    factory: Mapping[str, Path] = field(default_factory=dict)

    def provision(self, directory: Path) -> None:
        provision(directory, seeds=self.factory, durable=self.durable, files=self.files)

    def boot(self, directory: Path, boots: Callable[[SlotInfo], bool]) -> str | None:
        return boot(directory, boots=boots, durable=self.durable, files=self.files).slot

    def slots(self, directory: Path) -> SlotBackend:
        return FileSlots(directory, durable=self.durable, files=self.files)

    def image(self, directory: Path, slot: str, name: str) -> bytes:
        return read_file(directory / "slots" / slot / f"{name}.img", files=self.files)


@dataclass
class UBootPlatform:
    """Slots as partitions, of the names and sizes of ``factory``'s images, and U-Boot with a redundant environment."""

    files: Filesystem
    factory: Mapping[str, bytes]
    durable: bool = True
    booted: str = "a"
    environment_bytes: int = 8192

    def variables(self, directory: Path) -> Variables:
        return Variables(
            [Copy(str(directory / f"env{n}"), 0, self.environment_bytes) for n in (0, 1)], files=self.files
        )

    def path(self, directory: Path, slot: str, name: str) -> Path:
        return directory / f"{name}-{slot}"

    def provision(self, directory: Path) -> None:
        try:
            self.files.stat(str(directory / "env1"))
        except FileNotFoundError:
            make_directory(directory, durable=True, files=self.files)
            for name, image in self.factory.items():
                for slot, content in (("a", image), ("b", b"")):
                    partition = content.ljust(len(image) + 5000, b"\xff")
                    replace_file(self.path(directory, slot, name), partition, durable=True, files=self.files)
            variables = {"bootdelay": "2", "BOOT_ORDER": "A", "BOOT_A_LEFT": "3", "BOOT_B_LEFT": "0"}
            for number in (0, 1):
                content = encode_copy(variables, flag=number, size_bytes=self.environment_bytes)
                replace_file(directory / f"env{number}", content, durable=True, files=self.files)

    def boot(self, directory: Path, boots: Callable[[SlotInfo], bool]) -> str | None:
        variables = self.variables(directory)

        def comes_up(slot: str) -> bool:
            self.booted = slot
            store = UBootStore(variables, booted=slot)
            images = (Image(name, hashlib.sha256(data).digest(), len(data)) for name, data in self.factory.items())
            store.provision("1.0.0", tuple(images))
            return boots(store.read().slots[slot])

        slot = boot_uboot(variables, boots=comes_up)
        if slot is not None:
            UBootStore(variables, booted=slot).settle()
        return slot

    def slots(self, directory: Path) -> SlotBackend:
        paths = {slot: {name: str(self.path(directory, slot, name)) for name in self.factory} for slot in ("a", "b")}
        store = UBootStore(self.variables(directory), booted=self.booted)
        return FileSlots(directory, files=self.files, environment=store, places=Partitions(paths, files=self.files))

    def image(self, directory: Path, slot: str, name: str) -> bytes:
        return read_file(self.path(directory, slot, name), files=self.files)


class PowerCutError(Exception):
    """The plug was pulled before the effect at ``World.cut_at``."""


@dataclass
class World:
    """One device, its broker and its server. Time only passes by ``pass_time``."""

    directory: Path
    keys: Keys = field(default_factory=dev_keys)
    device_id: DeviceId = DEVICE
    components: frozenset[str] | None = None
    region: Region = EU
    cohort: Cohort = MAIN
    healthy: bool = True
    answers_health: bool = True
    held: bool = False
    admits: bool = True
    """Whoever reports to be late is admitted at once."""
    heartbeat_s: int = 60
    has_http: bool = True
    boots: Callable[[str], bool] = lambda _version: True
    windows: tuple[Window, ...] = ()
    platform: Platform = field(default_factory=FilePlatform)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.topics = Topics()
        self.retained: dict[str, bytes] = {}
        self.subscribed: set[str] = set()
        self.reports: list[Report] = []
        self.hellos: list[Hello] = []
        self.beats: list[Beat] = []
        self.notes: list[Note] = []
        self.effects: list[Effect] = []
        self.counter = 0
        self.counters: dict[str, Counter] = {}
        self.answers_hello = self.answers_reports = True
        self.is_up = False
        self.reboots = 0
        self.fetched: list[bytes] = []
        self.served: dict[str, bytes] = {}
        """What the HTTP server has, by path."""
        self.answers_get: Callable[[Get], Got | None] = self.serve
        self.gets: list[Get] = []
        self.fail_step: dict[str, StepFailed] = {}
        self.nonce = b""
        self.cut_at: int | None = None
        self.platform.provision(self.directory)
        self._inbox: list[Event] = []
        self._boot()

    # --- the device's life ---

    def _boot(self) -> None:
        platform = self.platform
        assert platform.boot(self.directory, lambda slot: self.boots(slot.version)) is not None
        self.slots = platform.slots(self.directory)
        self.storage = Storage(self.directory, self.slots, durable=platform.durable, files=platform.files)
        self.agent = Agent(
            identity=Identity(self.device_id, VENDOR, HARDWARE, "test", self.components, windows=self.windows),
            root=self.keys.root,
            state=self.storage.load(AgentState(EU, MAIN)),
            slots=self.slots.slots(),
            booted=self.slots.booted(),
            boot_id=self.reboots.to_bytes(8, "big"),
            now=self.now,
            has_http=self.has_http,
            codecs=frozenset(map(str, codecs())),
            rng=random.Random(1),
        )
        self.is_up = False
        self.subscribed.clear()
        self._inbox.clear()
        self._carry_out(self.agent.boot())
        self.feed()

    def power_cycle(self, *, downtime_s: float = 1.0) -> None:
        """Pull the plug, and put it in again."""
        self.now += downtime_s
        self.reboots += 1
        self._boot()

    def connect(self) -> None:
        self.is_up = True
        self.nonce = random.Random(self.now).randbytes(16)
        self.feed(LinkUp(self.nonce))

    def disconnect(self) -> None:
        self.is_up = False
        self.subscribed.clear()
        self.feed(LinkDown())

    def feed(self, *events: Event) -> None:
        """Give the core events, and everything that follows from them until it is quiet."""
        self._inbox.extend(events)
        while self._inbox:
            event = self._inbox.pop(0)
            then = self._inbox[0] if self._inbox else None
            self._carry_out(self.agent.handle(event, self.now, then=then))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with every tick the core asks for in between."""
        end = self.now + seconds
        for _ in range(100_000):
            at = self.agent.wake_at
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            self.feed(Tick())
        else:
            raise AssertionError("the core never sleeps")
        self.now = end
        self.feed(Tick())

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        agent = self.agent
        has_failed = False
        for effect in effects:
            if has_failed and not isinstance(effect, (Subscribe, Unsubscribe)):
                continue
            if self.cut_at is not None and len(self.effects) >= self.cut_at:
                raise PowerCutError
            self.effects.append(effect)
            failure = self.fail_step.pop(type(effect).__name__, None)
            answer = failure if failure is not None else self.storage.perform(effect)
            if answer is not None:
                self._inbox.insert(0, answer)
            has_failed = has_failed or isinstance(answer, StepFailed)
            self._act(effect)
            if self.agent is not agent:
                return

    def _act(self, effect: Effect) -> None:
        match effect:
            case Note():
                self.notes.append(effect)
            case Subscribe(topics):
                self.subscribed.update(topics)
                for topic in topics:
                    self._inbox.extend(
                        Received(retained, payload)
                        for retained, payload in self.retained.items()
                        if matches(topic, retained)
                    )
                    if "/blob/" in topic:
                        self.fetched.append(self.topics.parse_blob(topic))
            case Unsubscribe(topics):
                self.subscribed.difference_update(topics)
            case Publish(topic, payload):
                self._published(topic, payload)
            case Get():
                self.gets.append(effect)
                got = self.answers_get(effect)
                if got is not None:
                    self._inbox.append(got)
            case StopGets():
                self._inbox = [event for event in self._inbox if not isinstance(event, Got)]
            case CheckHealth() if self.answers_health:
                self._inbox.insert(0, HealthChecked(self.healthy, "" if self.healthy else "self test failed"))
            case Reboot():
                self.power_cycle()
                self.connect()
            case Reconnect():
                self._inbox.clear()
                self.subscribed.clear()
                self._inbox.append(LinkDown())
                self.nonce = random.Random(self.now + 0.5).randbytes(16)
                self._inbox.append(LinkUp(self.nonce))

    # --- the server ---

    def serve(self, get: Get) -> Got:
        """What a well-kept HTTP server answers."""
        body = self.served.get(get.url.removeprefix(HTTP.base_url))
        if body is None:
            return Got(get.number, Answer.GONE)
        first = get.first or 0
        return Got(get.number, Answer.BODY, body[first : first + get.size_bytes])

    def serve_blobs(self, *bundles: Bundle) -> None:
        for bundle in bundles:
            self.served |= {f"/v1/blobs/{digest.hex()}": blob for digest, blob in bundle.blobs.items()}

    def serve_images(self, bundle: Bundle) -> None:
        for image in bundle.images.values():
            self.served[f"/v1/images/{hashlib.sha256(image).hexdigest()}"] = image

    def hold_delta(self, blobs: dict[bytes, bytes]) -> None:
        self.retained |= {self.topics.blob(digest): blob for digest, blob in blobs.items()}

    def _published(self, topic: str, payload: bytes) -> None:
        if not self.is_up:
            return
        kind = topic.rsplit("/", 1)[1]
        if kind == "hello":
            self.hellos.append(decode_hello(payload))
            if self.answers_hello:
                self.welcome()
        elif kind == "beat":
            self.beats.append(decode_beat(payload))
        elif kind == "report":
            self.reports.append(decode_report(payload))
            if self.answers_reports:
                self.ack(self.reports[-1].sequence)
                if self.admits and self.last.reason is Reason.LATE:
                    self.admit(self.last.campaign)

    @property
    def server_now(self) -> int:
        return int(EPOCH + self.now)

    def ack(self, sequence: int) -> None:
        self.deliver(self.topics.ack(self.agent.state.region, self.device_id), encode_ack(sequence))

    def make_welcome(self, **changes: Any) -> Welcome:
        welcome = Welcome(
            fleet=self.keys.root.fleet,
            device=self.device_id,
            nonce=self.nonce,
            server_time=self.server_now,
            cohort_counter=self.counters.get("cohort", Counter()),
            device_counter=self.counters.get("device", Counter()),
            region=self.region,
            cohort=self.cohort,
            member_since=EPOCH,
            held=self.held,
            heartbeat_s=self.heartbeat_s,
        )
        return replace(welcome, **changes)

    def admit(self, campaign: CampaignId = CAMPAIGN, *, for_s: int = 300) -> None:
        self.welcome(admit=Admit(campaign, self.server_now + for_s))

    def welcome(self, *, signer: SigningKey | None = None, **changes: Any) -> None:
        sealed = seal(Kind.WELCOME, welcome_map(self.make_welcome(**changes)), [signer or self.keys.session])
        self.deliver(self.topics.welcome(self.agent.state.region, self.device_id), sealed)

    def deliver(self, topic: str, payload: bytes) -> None:
        """Queue a message behind whatever is under way; ``settle`` works it off."""
        self._inbox.append(Received(topic, payload))

    def settle(self) -> None:
        self.feed()

    # --- the signer ---

    def make_directive(self, action: Action, bundle: Bundle | None = None, **changes: Any) -> Directive:
        self.counter += 1
        directive = Directive(
            fleet=self.keys.root.fleet,
            audience=CohortAudience(EU, MAIN),
            counter=Counter(1, self.counter),
            issued=self.server_now,
            expires=self.server_now + 86_400,
            action=Action.NONE,
        )
        named: dict[str, Any] = {"action": action}
        if bundle is not None:
            named |= {
                "campaign": CAMPAIGN,
                "manifest_digest": bundle.manifest_digest,
                "sequence_number": bundle.sequence_number,
                "envelope": bundle.named,
                "ramp": crossing(changes.get("issued", directive.issued)),
                "deadlines": LIMITS,
            }
        return replace(directive, **{**named, **changes})

    def seal_directive(self, directive: Directive, signer: SigningKey | None = None) -> bytes:
        return seal(Kind.DIRECTIVE, directive_map(directive), [signer or self.keys.directive])

    def direct(self, action: Action, bundle: Bundle | None = None, **changes: Any) -> bytes:
        """Sign a directive, retain it, and deliver it to a connected device."""
        directive = self.make_directive(action, bundle, **changes)
        sealed = self.seal_directive(directive)
        self.retain(self.topics.directive(directive.audience), sealed)
        self.counters[kind_of(directive.audience)] = directive.counter
        return sealed

    def offer(self, bundle: Bundle | None = None, **changes: Any) -> None:
        """Put a bundle's blobs on the broker, and offer it to everybody."""
        bundle = bundle or make_bundle()
        self.hold_blobs(bundle)
        self.direct(Action.OFFER, bundle, **changes)

    def withhold(self, bundle: Bundle, count: int = 1) -> None:
        """Take the last chunks of a bundle off the broker, so that its download does not end."""
        for digest in chunk_digests(bundle)[-count:]:
            self.retained.pop(self.topics.blob(digest), None)

    def hold_blobs(self, bundle: Bundle) -> None:
        for digest, blob in bundle.blobs.items():
            self.retained[self.topics.blob(digest)] = blob

    def retain(self, topic: str, payload: bytes) -> None:
        self.retained[topic] = payload
        if self.is_up and any(matches(one, topic) for one in self.subscribed):
            self.feed(Received(topic, payload))

    # --- what a test looks at ---

    @property
    def states(self) -> list[State]:
        """What the device has reported, without repetitions."""
        seen: list[Report] = []
        for report in self.reports:
            if not seen or seen[-1].sequence != report.sequence:
                seen.append(report)
        return [report.state for report in seen]

    @property
    def last(self) -> Report:
        return self.reports[-1]

    @property
    def outcome(self) -> tuple[State, Reason]:
        return self.last.state, self.last.reason

    @property
    def refusals(self) -> list[Reason]:
        return [note.reason for note in self.notes if note.event == "refused"]

    @property
    def booted(self) -> str:
        return self.slots.booted()

    def slot_states(self) -> dict[str, str]:
        return {slot.name: slot.state.value for slot in self.slots.slots()}

    def did(self, kind: type[Effect]) -> bool:
        return any(isinstance(effect, kind) for effect in self.effects)

    def image(self, slot: str, name: str) -> bytes:
        return self.platform.image(self.directory, slot, name)


def crossing(at: int) -> Ramp:
    """A line that crosses every height at one moment (Unix seconds)."""
    return Ramp(at, 0, at, FULL)


def chunk_digests(bundle: Bundle) -> list[bytes]:
    """The wire digests of a bundle's chunks, in the order in which they are fetched."""
    manifest, _ = open_envelope(bundle.envelope).read()
    digests: list[bytes] = []
    for component in manifest.components:
        for page in decode_index(bundle.blobs[component.fetch.index_digest], component.fetch):
            digests += [chunk.wire_digest for chunk in decode_page(bundle.blobs[page.digest], page)]
    return digests


def kind_of(audience: Audience) -> str:
    return "device" if isinstance(audience, DeviceAudience) else "cohort"


def check_bundle(bundle: Bundle) -> None:
    """A bundle of a test's own making is a real one."""
    assert verify_envelope(bundle.envelope, dev_keys().root).digest == bundle.manifest_digest
