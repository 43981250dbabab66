"""What the server signs for devices: the directive and the welcome, as values and as maps of the strict codec.

Keys are fixed by ``docs/protocol.cddl``. A reader refuses keys it does not know: a new field needs a new protocol
number, so that no device ever acts on half an order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import UUID

from firmware_store.codec import Value
from firmware_store.errors import CodecError, InvalidInputError
from server.domain.gate import Ramp
from server.domain.identity import CampaignId, Cohort, DeviceId, Region, cohort, device_id, region
from server.protocol.messages import PROTOCOL, Counter
from server.protocol.topics import Audience, CohortAudience, DeviceAudience


class Action(IntEnum):
    """What a directive orders; a higher number is the more restrictive order for the same campaign."""

    NONE = 0
    OFFER = 1
    HOLD = 2
    ROLLBACK = 3
    HALT = 4


HALTED_MOST: Final = 16
"""Digests in one directive; older halts are for the status document to remember."""


class Envelope(NamedTuple):
    """Where a directive's bundle is: the envelope's SHA-256 (its blob topic) and size in bytes."""

    digest: bytes
    size_bytes: int


class StatusRef(NamedTuple):
    """The status document that a directive was signed under: its version, and the SHA-256 of its bytes."""

    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a device may take for each phase, in seconds; ``trial_s`` is the shortest trial, not the longest."""

    download_s: int = 86_400
    trial_s: int = 300
    confirm_s: int = 7_200


@dataclass(frozen=True, slots=True)
class Directive:
    """A signed order for one audience. Everything about a bundle is absent when the action is ``none``.

    ``halted``: manifest digests, sorted, that were halted for this audience, whatever the action. ``status``: None
    where the fleet has no status document yet.
    """

    fleet: bytes
    audience: Audience
    counter: Counter
    issued: int
    expires: int
    action: Action
    campaign: CampaignId | None = None
    manifest_digest: bytes = b""
    sequence_number: int = 0
    envelope: Envelope | None = None
    ramp: Ramp | None = None
    deadlines: Deadlines = Deadlines()
    keep_on_halt: bool = False
    halted: tuple[bytes, ...] = ()
    status: StatusRef | None = None

    def __post_init__(self) -> None:
        if len(self.halted) > HALTED_MOST or list(self.halted) != sorted(set(self.halted)):
            raise InvalidInputError(f"Halted digests are at most {HALTED_MOST}, sorted, each listed once.")
        if self.action is Action.NONE:
            return
        if self.campaign is None or len(self.manifest_digest) != 32:
            raise InvalidInputError("A directive other than none names a campaign and a manifest digest.")
        if self.action is Action.OFFER and (self.envelope is None or self.ramp is None):
            raise InvalidInputError("An offer names an envelope and has a ramp.")


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server's fresh, signed word to one session: the only thing that lets a device start or activate."""

    fleet: bytes
    device: DeviceId
    nonce: bytes
    server_time: int
    cohort_counter: Counter
    device_counter: Counter
    region: Region
    cohort: Cohort
    member_since: int
    held: bool
    heartbeat_s: int
    root_version: int = 1
    status_version: int = 0


def directive_map(directive: Directive) -> dict[int, Value]:
    """Return the map whose encoding is signed."""
    audience: list[Value] = (
        ["cohort", directive.audience.region, directive.audience.cohort]
        if isinstance(directive.audience, CohortAudience)
        else ["device", directive.audience.region, directive.audience.device]
    )
    m: dict[int, Value] = {
        1: PROTOCOL,
        2: directive.fleet,
        3: audience,
        4: directive.counter.epoch,
        5: directive.counter.counter,
        6: directive.issued,
        7: directive.expires,
        8: directive.action.value,
    }
    if directive.halted:
        m[20] = list(directive.halted)
    if directive.status is not None:
        m[21] = [directive.status.version, directive.status.digest]
    if directive.action is Action.NONE:
        return m
    assert directive.campaign is not None
    m[9] = directive.campaign.bytes
    m[10] = directive.manifest_digest
    m[11] = directive.sequence_number
    if directive.envelope is not None:
        m[12] = [directive.envelope.digest, directive.envelope.size_bytes]
    if directive.ramp is not None:
        m[13] = [directive.ramp.t0, directive.ramp.l0, directive.ramp.t1, directive.ramp.l1]
    limits = directive.deadlines
    m[17] = [limits.download_s, limits.trial_s, limits.confirm_s]
    m[22] = directive.keep_on_halt
    return m


def read_directive(m: Mapping[int, Value]) -> Directive:
    """Read the map of a directive whose signature has been checked.

    Raises:
        CodecError: a key is missing, unknown or of the wrong type.
    """
    r = _Reader(m, _DIRECTIVE_KEYS)
    if r.uint(1) != PROTOCOL:
        raise CodecError("A directive of another protocol.")
    try:
        action = Action(r.uint(8))
        return Directive(
            fleet=r.bytes(2, 16),
            audience=_audience(r.array(3, 3)),
            counter=Counter(r.uint(4), r.uint(5)),
            issued=r.uint(6),
            expires=r.uint(7),
            action=action,
            campaign=CampaignId(UUID(bytes=r.bytes(9, 16))) if 9 in m else None,
            manifest_digest=r.bytes(10, 32) if 10 in m else b"",
            sequence_number=r.uint(11) if 11 in m else 0,
            envelope=_envelope(r.array(12, 2)) if 12 in m else None,
            ramp=_ramp(r.array(13, 4)) if 13 in m else None,
            deadlines=_deadlines(r.array(17, 3)) if 17 in m else Deadlines(),
            keep_on_halt=r.boolean(22) if 22 in m else False,
            halted=_halted(m[20]) if 20 in m else (),
            status=_status(r.array(21, 2)) if 21 in m else None,
        )
    except (InvalidInputError, ValueError) as exc:
        raise CodecError(f"A directive that cannot be: {exc}") from exc


def welcome_map(welcome: Welcome) -> dict[int, Value]:
    """Return the map whose encoding is signed."""
    return {
        1: PROTOCOL,
        2: welcome.fleet,
        3: welcome.device,
        4: welcome.nonce,
        5: welcome.server_time,
        6: [
            welcome.cohort_counter.epoch,
            welcome.cohort_counter.counter,
            welcome.device_counter.epoch,
            welcome.device_counter.counter,
        ],
        7: welcome.region,
        8: welcome.cohort,
        9: welcome.member_since,
        10: welcome.held,
        11: welcome.heartbeat_s,
        12: [welcome.root_version, welcome.status_version],
    }


def read_welcome(m: Mapping[int, Value]) -> Welcome:
    """Read the map of a welcome whose signature has been checked.

    Raises:
        CodecError: a key is missing, unknown or of the wrong type.
    """
    r = _Reader(m, _WELCOME_KEYS)
    if r.uint(1) != PROTOCOL:
        raise CodecError("A welcome of another protocol.")
    counters = [_as_uint(value) for value in r.array(6, 4)]
    versions = [_as_uint(value) for value in r.array(12, 2)]
    try:
        return Welcome(
            fleet=r.bytes(2, 16),
            device=device_id(r.text(3)),
            nonce=r.bytes(4, 16),
            server_time=r.uint(5),
            cohort_counter=Counter(counters[0], counters[1]),
            device_counter=Counter(counters[2], counters[3]),
            region=region(r.text(7)),
            cohort=cohort(r.text(8)),
            member_since=r.uint(9),
            held=r.boolean(10),
            heartbeat_s=r.uint(11),
            root_version=versions[0],
            status_version=versions[1],
        )
    except InvalidInputError as exc:
        raise CodecError(f"A welcome that cannot be: {exc}") from exc


_DIRECTIVE_KEYS: Final = MappingProxyType(dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17, 20, 21, 22)))
_WELCOME_KEYS: Final = MappingProxyType(dict.fromkeys(range(1, 13)))


class _Reader:
    """Typed access to a decoded map whose every key must be known."""

    def __init__(self, m: Mapping[int, Value], known: Mapping[int, None]) -> None:
        unknown = [key for key in m if key not in known]
        if unknown:
            raise CodecError(f"Unknown keys in a signed document: {unknown}.")
        self._m: Mapping[int, Any] = m

    def uint(self, key: int) -> int:
        return _as_uint(self._m.get(key))

    def bytes(self, key: int, size: int) -> bytes:
        return _as_bytes(self._m.get(key), size)

    def text(self, key: int) -> str:
        value = self._m.get(key)
        if type(value) is not str:
            raise CodecError(f"Key {key} is not a text.")
        return value

    def boolean(self, key: int) -> bool:
        value = self._m.get(key)
        if type(value) is not bool:
            raise CodecError(f"Key {key} is not a boolean.")
        return value

    def array(self, key: int, size: int) -> list[Any]:
        value = self._m.get(key)
        if type(value) is not list or len(value) != size:
            raise CodecError(f"Key {key} is not an array of {size}.")
        return value


def _as_uint(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise CodecError("Not an unsigned integer where one must be.")
    return value


def _as_bytes(value: object, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise CodecError(f"Not {size} bytes where they must be.")
    return value


def _audience(value: list[Any]) -> Audience:
    match value:
        case ["cohort", str(in_region), str(name)]:
            return CohortAudience(region(in_region), cohort(name))
        case ["device", str(in_region), str(device)]:
            return DeviceAudience(region(in_region), device_id(device))
    raise CodecError("An audience that is neither a cohort in a region nor a device.")


def _envelope(value: list[Any]) -> Envelope:
    return Envelope(_as_bytes(value[0], 32), _as_uint(value[1]))


def _halted(value: Value) -> tuple[bytes, ...]:
    if type(value) is not list or not value:
        raise CodecError("Halted digests are an array, which is left out where there are none.")
    return tuple(_as_bytes(digest, 32) for digest in value)


def _status(value: list[Any]) -> StatusRef:
    return StatusRef(_as_uint(value[0]), _as_bytes(value[1], 32))


def _ramp(value: list[Any]) -> Ramp:
    return Ramp(*(_as_uint(part) for part in value))


def _deadlines(value: list[Any]) -> Deadlines:
    return Deadlines(*(_as_uint(part) for part in value))
