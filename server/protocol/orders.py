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
from server.domain.windows import UTC_OFFSET_MOST_MINUTES, WINDOWS_MOST, Window
from server.protocol.messages import PROTOCOL, Counter
from server.protocol.sources import (
    DeltaOffer,
    HttpSource,
    check_deltas,
    check_http,
    delta_rows,
    http_row,
    read_deltas,
    read_http,
)
from server.protocol.strict_map import MapReader, as_bytes, as_uint
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


class Admit(NamedTuple):
    """A device may start this campaign though it was late, or reboot into its release, until then (Unix seconds)."""

    campaign: CampaignId
    until: int


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
    where the fleet has no status document yet. ``members_before``: devices that joined the cohort then (Unix seconds)
    or later leave the offer alone; None where everybody is meant. ``windows``: when devices may start and activate;
    none: always. ``reboots_admitted``: a device also waits for its welcome to let it reboot. ``deltas`` and ``http``:
    what else a device may fetch than the bundle's blobs at the broker; in offers alone.
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
    members_before: int | None = None
    windows: tuple[Window, ...] = ()
    reboots_admitted: bool = False
    deltas: tuple[DeltaOffer, ...] = ()
    http: HttpSource | None = None

    def __post_init__(self) -> None:
        if self.action is not Action.OFFER and (self.deltas or self.http is not None):
            raise InvalidInputError("Only an offer has deltas and another source.")
        check_deltas(self.deltas)
        if self.http is not None:
            check_http(self.http)
        if len(self.windows) > WINDOWS_MOST:
            raise InvalidInputError(f"A directive has at most {WINDOWS_MOST} windows.")
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
    """The server's fresh, signed word to one session: the only thing that lets a device start or activate.

    ``reboot``: it may reboot into the release of a campaign whose reboots are admitted. ``utc_offset_minutes``: minutes
    east of UTC now, -1440 to 1440, for a device that does not know its own.
    """

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
    admit: Admit | None = None
    utc_offset_minutes: int | None = None
    reboot: Admit | None = None

    def __post_init__(self) -> None:
        if self.utc_offset_minutes is not None and abs(self.utc_offset_minutes) > UTC_OFFSET_MOST_MINUTES:
            raise InvalidInputError(f"An offset from UTC is at most {UTC_OFFSET_MOST_MINUTES} minutes.")


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
    if directive.members_before is not None:
        m[14] = directive.members_before
    if directive.windows:
        m[15] = [[window.opens, window.duration_s] for window in directive.windows]
    if directive.reboots_admitted:
        m[16] = True
    limits = directive.deadlines
    m[17] = [limits.download_s, limits.trial_s, limits.confirm_s]
    if directive.deltas:
        m[18] = delta_rows(directive.deltas)
    if directive.http is not None:
        m[19] = http_row(directive.http)
    m[22] = directive.keep_on_halt
    return m


def read_directive(m: Mapping[int, Value]) -> Directive:
    """Read the map of a directive whose signature has been checked.

    Raises:
        CodecError: a key is missing, unknown or of the wrong type.
    """
    r = MapReader(m, _DIRECTIVE_KEYS)
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
            members_before=r.uint(14) if 14 in m else None,
            windows=_windows(m[15]) if 15 in m else (),
            reboots_admitted=_true(r.boolean(16)) if 16 in m else False,
            deltas=read_deltas(m[18]) if 18 in m else (),
            http=read_http(r.array(19, 3)) if 19 in m else None,
        )
    except (InvalidInputError, ValueError) as exc:
        raise CodecError(f"A directive that cannot be: {exc}") from exc


def welcome_map(welcome: Welcome) -> dict[int, Value]:
    """Return the map whose encoding is signed."""
    m: dict[int, Value] = {
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
    if welcome.admit is not None:
        m[13] = [welcome.admit.campaign.bytes, welcome.admit.until]
    if welcome.utc_offset_minutes is not None:
        m[14] = welcome.utc_offset_minutes
    if welcome.reboot is not None:
        m[15] = [welcome.reboot.campaign.bytes, welcome.reboot.until]
    return m


def read_welcome(m: Mapping[int, Value]) -> Welcome:
    """Read the map of a welcome whose signature has been checked.

    Raises:
        CodecError: a key is missing, unknown or of the wrong type.
    """
    r = MapReader(m, _WELCOME_KEYS)
    if r.uint(1) != PROTOCOL:
        raise CodecError("A welcome of another protocol.")
    counters = [as_uint(value) for value in r.array(6, 4)]
    versions = [as_uint(value) for value in r.array(12, 2)]
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
            admit=_admit(r.array(13, 2)) if 13 in m else None,
            utc_offset_minutes=r.integer(14) if 14 in m else None,
            reboot=_admit(r.array(15, 2)) if 15 in m else None,
        )
    except InvalidInputError as exc:
        raise CodecError(f"A welcome that cannot be: {exc}") from exc


_DIRECTIVE_KEYS: Final = MappingProxyType(dict.fromkeys(range(1, 23)))
_WELCOME_KEYS: Final = MappingProxyType(dict.fromkeys(range(1, 16)))


def _audience(value: list[Any]) -> Audience:
    match value:
        case ["cohort", str(in_region), str(name)]:
            return CohortAudience(region(in_region), cohort(name))
        case ["device", str(in_region), str(device)]:
            return DeviceAudience(region(in_region), device_id(device))
    raise CodecError("An audience that is neither a cohort in a region nor a device.")


def _envelope(value: list[Any]) -> Envelope:
    return Envelope(as_bytes(value[0], 32), as_uint(value[1]))


def _halted(value: Value) -> tuple[bytes, ...]:
    if type(value) is not list or not value:
        raise CodecError("Halted digests are an array, which is left out where there are none.")
    return tuple(as_bytes(digest, 32) for digest in value)


def _status(value: list[Any]) -> StatusRef:
    return StatusRef(as_uint(value[0]), as_bytes(value[1], 32))


def _ramp(value: list[Any]) -> Ramp:
    return Ramp(*(as_uint(part) for part in value))


def _deadlines(value: list[Any]) -> Deadlines:
    return Deadlines(*(as_uint(part) for part in value))


def _admit(value: list[Any]) -> Admit:
    return Admit(CampaignId(UUID(bytes=as_bytes(value[0], 16))), as_uint(value[1]))


def _true(value: bool) -> bool:
    if not value:
        raise CodecError("What is false is left out.")
    return value


def _windows(value: Value) -> tuple[Window, ...]:
    if type(value) is not list or not value:
        raise CodecError("Windows are an array, which is left out where there are none.")
    return tuple(map(_window, value))


def _window(value: Value) -> Window:
    match value:
        case [str(opens), int(duration_s)] if type(duration_s) is int:
            return Window(opens, duration_s)
    raise CodecError("A window is a cron expression and a number of seconds.")
