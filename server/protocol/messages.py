"""Telemetry: what a device says, and the server's ``ack``. Unsigned CBOR maps with small integer keys.

Decoding is bounded (4 KiB, depth 6, no duplicate keys, no indefinite lengths). Unknown keys are ignored so that the
protocol can grow; a key that is missing or of the wrong type raises ``CodecError``, which the caller counts. The key
numbers are fixed by ``docs/protocol.cddl`` and ``tests/vectors``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import UUID

import cbor2

from firmware_store.errors import CodecError, InvalidInputError
from server.domain.execution import REPORTED, State
from server.domain.identity import CampaignId, HardwareClass, hardware_class
from server.protocol.reasons import Reason

PROTOCOL: Final = 1
MAX_BYTES: Final = 4096
MAX_DETAIL_CHARACTERS: Final = 256
_MAX_DEPTH: Final = 6
_U32: Final = 1 << 32
_U63: Final = 1 << 63

STATE_NUMBERS: Final[Mapping[State, int]] = MappingProxyType(
    {
        State.WAITING: 0,
        State.DUE: 1,
        State.DOWNLOADING: 2,
        State.INSTALLING: 3,
        State.REBOOTING: 4,
        State.TRIAL: 5,
        State.CONFIRMED: 6,
        State.FAILED: 7,
        State.REJECTED: 8,
        State.CANCELLED: 9,
        State.ROLLED_BACK: 10,
    }
)
_STATES: Final = MappingProxyType({number: state for state, number in STATE_NUMBERS.items() if state in REPORTED})
_REASONS: Final = MappingProxyType({reason.value: reason for reason in Reason})


class Report(NamedTuple):
    """The absolute state of one execution; ``sequence`` counts a device's reports and never repeats.

    Built for each message a fleet sends: as a tuple in a quarter of the time that a frozen dataclass takes.
    """

    sequence: int
    campaign: CampaignId
    manifest_digest: bytes
    attempt: int
    state: State
    reason: Reason = Reason.NONE
    detail: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a device says is in one of its slots; ``manifest_digest`` is empty for a factory image."""

    name: str
    sequence_number: int
    version: str
    manifest_digest: bytes
    state: str


@dataclass(frozen=True, slots=True)
class Counter:
    """Where one audience's directives stand: the directive role's epoch, then the counter."""

    epoch: int = 0
    counter: int = 0

    def __lt__(self, other: "Counter") -> bool:
        return (self.epoch, self.counter) < (other.epoch, other.counter)


@dataclass(frozen=True, slots=True)
class Hello:
    """A device has connected. ``nonce`` (16 bytes) comes back in the signed welcome."""

    boot_id: bytes
    vendor: str
    hardware: HardwareClass
    agent_version: str
    slots: tuple[Slot, ...]
    booted: str
    nonce: bytes
    root_version: int = 1
    status_version: int = 0
    cohort_counter: Counter = Counter()
    device_counter: Counter = Counter()
    execution: Report | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    utc_offset_minutes: int | None = None
    wake_interval_s: int | None = None
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Beat:
    """A device is alive. ``execution`` repeats its last report, so that a lost one repairs itself."""

    boot_id: bytes
    uptime_s: int
    cohort_counter: Counter = Counter()
    execution: Report | None = None
    health: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gone:
    """The last will of the session that began with ``nonce``."""

    boot_id: bytes
    nonce: bytes


_HEALTH_KEYS: Final = MappingProxyType({"errors": 1, "restarts": 2, "free_bytes": 3})


def encode_report(report: Report) -> bytes:
    return _dump(_report_map(report))


def decode_report(data: bytes) -> Report:
    """Raises: CodecError."""
    return _report(_load(data))


def encode_hello(hello: Hello) -> bytes:
    slots = [{0: s.name, 1: s.sequence_number, 2: s.version, 3: s.manifest_digest, 4: s.state} for s in hello.slots]
    return _dump(
        {
            0: hello.protocol,
            1: hello.boot_id,
            2: hello.vendor,
            3: hello.hardware,
            4: hello.agent_version,
            5: slots,
            6: hello.booted,
            7: [hello.root_version, hello.status_version],
            8: [*_pair(hello.cohort_counter), *_pair(hello.device_counter)],
            9: hello.nonce,
            10: None if hello.execution is None else _report_map(hello.execution),
            11: dict(hello.labels),
            12: hello.utc_offset_minutes,
            13: hello.wake_interval_s,
        }
    )


def decode_hello(data: bytes) -> Hello:
    """Raises: CodecError."""
    m = _load(data)
    versions = _uints(m, 7, 2)
    counters = _uints(m, 8, 4)
    try:
        hardware = hardware_class(_text(m, 3, 64))
    except InvalidInputError as exc:
        raise CodecError(str(exc)) from exc
    return Hello(
        protocol=_uint(m, 0, 256),
        boot_id=_bytes(m, 1, 8),
        vendor=_text(m, 2, 128),
        hardware=hardware,
        agent_version=_text(m, 4, 64),
        slots=tuple(_slot(entry) for entry in _list(m, 5, 8)),
        booted=_text(m, 6, 16),
        root_version=versions[0],
        status_version=versions[1],
        cohort_counter=Counter(counters[0], counters[1]),
        device_counter=Counter(counters[2], counters[3]),
        nonce=_bytes(m, 9, 16),
        execution=_optional_report(m, 10),
        labels=_labels(m.get(11)),
        utc_offset_minutes=_optional_int(m, 12, -1440, 1440),
        wake_interval_s=_optional_int(m, 13, 1, 31 * 86400),
    )


def encode_beat(beat: Beat) -> bytes:
    return _dump(
        {
            1: beat.boot_id,
            2: beat.uptime_s,
            3: _pair(beat.cohort_counter),
            4: None if beat.execution is None else _report_map(beat.execution),
            5: {_HEALTH_KEYS[name]: count for name, count in beat.health.items()},
        }
    )


def decode_beat(data: bytes) -> Beat:
    """Raises: CodecError."""
    m = _load(data)
    counter = _uints(m, 3, 2)
    health = m.get(5) or {}
    if not isinstance(health, dict):
        raise CodecError("Key 5 is not a map.")
    return Beat(
        boot_id=_bytes(m, 1, 8),
        uptime_s=_uint(m, 2, _U32),
        cohort_counter=Counter(counter[0], counter[1]),
        execution=_optional_report(m, 4),
        health={name: _uint(health, key, _U63) for name, key in _HEALTH_KEYS.items() if key in health},
    )


def encode_gone(gone: Gone) -> bytes:
    return _dump({1: gone.boot_id, 2: gone.nonce})


def decode_gone(data: bytes) -> Gone:
    """Raises: CodecError."""
    m = _load(data)
    return Gone(boot_id=_bytes(m, 1, 8), nonce=_bytes(m, 2, 16))


def encode_ack(sequence: int) -> bytes:
    """The last report sequence number whose transaction has committed."""
    return _dump({1: sequence})


def decode_ack(data: bytes) -> int:
    """Raises: CodecError."""
    return _uint(_load(data), 1, _U63)


def _report_map(report: Report) -> dict[int, Any]:
    return {
        1: report.sequence,
        2: report.campaign.bytes,
        3: report.manifest_digest,
        4: report.attempt,
        5: STATE_NUMBERS[report.state],
        6: report.reason.value,
        7: report.detail[:MAX_DETAIL_CHARACTERS],
        8: report.done_bytes,
        9: report.total_bytes,
        10: report.slot,
    }


def _report(m: dict[Any, Any]) -> Report:
    """Written out flat, for there are thousands a second: calls for each member would take as long as all the rest."""
    try:
        sequence, campaign, digest, attempt, state, reason, detail, done, total, slot = _report_members(m)
    except KeyError as exc:
        raise CodecError(f"A report without key {exc}.") from exc
    if not (
        type(sequence) is type(attempt) is type(state) is type(reason) is type(done) is type(total) is int
        and type(campaign) is type(digest) is bytes
        and type(detail) is type(slot) is str
        and 0 <= sequence < _U63
        and 0 <= attempt < 256
        and 0 <= done < _U63
        and 0 <= total < _U63
        and len(campaign) == 16
        and len(digest) == 32
        and len(detail) <= MAX_DETAIL_CHARACTERS
        and len(slot) <= 16
        and "\0" not in detail
        and "\0" not in slot
    ):
        raise CodecError("A report with a member of the wrong type, or out of range.")
    if state not in _STATES or reason not in _REASONS:
        raise CodecError("A state or reason number that is not in the protocol.")
    return Report(
        sequence, _campaign_id(campaign), digest, attempt, _STATES[state], _REASONS[reason], detail, done, total, slot
    )


_report_members: Final = itemgetter(*range(1, 11))


@lru_cache(maxsize=1024)
def _campaign_id(data: bytes) -> CampaignId:
    """A fleet reports on a handful of campaigns, over and over."""
    return CampaignId(UUID(bytes=data))


def _optional_report(m: dict[Any, Any], key: int) -> Report | None:
    value = m.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise CodecError(f"Key {key} is not a map.")
    return _report(value)


def _slot(value: object) -> Slot:
    if not isinstance(value, dict):
        raise CodecError("A slot is a map.")
    digest = value.get(3)
    if not isinstance(digest, bytes) or len(digest) not in (0, 32):
        raise CodecError("A slot's manifest digest has 0 or 32 bytes.")
    return Slot(
        name=_text(value, 0, 16),
        sequence_number=_uint(value, 1, _U63),
        version=_text(value, 2, 64),
        manifest_digest=digest,
        state=_text(value, 4, 16),
    )


def _labels(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > 32:
        raise CodecError("Labels are a map of at most 32.")
    for name, text in value.items():
        if not (isinstance(name, str) and isinstance(text, str) and len(name) <= 64 and len(text) <= 128):
            raise CodecError("A label is a short text with a short name.")
    return value


def _pair(counter: Counter) -> list[int]:
    return [counter.epoch, counter.counter]


def _dump(value: object) -> bytes:
    return cbor2.dumps(value)


def _load(data: bytes) -> dict[Any, Any]:
    if len(data) > MAX_BYTES:
        raise CodecError(f"A telemetry message has at most {MAX_BYTES} bytes.")
    stream = BytesIO(data)
    try:
        value = cbor2.load(stream, allow_duplicate_keys=False, allow_indefinite=False, max_depth=_MAX_DEPTH)
    except Exception as exc:  # cbor2 lets ValueError, OverflowError, UnicodeError and others out
        raise CodecError("Not a CBOR message of ours.") from exc
    if not isinstance(value, dict):
        raise CodecError("A telemetry message is a map.")
    if stream.tell() != len(data):
        raise CodecError("Something follows after the end of the message.")
    return value


def _uint(m: Mapping[Any, Any], key: int, below: int) -> int:
    value = m.get(key)
    if type(value) is not int or not 0 <= value < below:
        raise CodecError(f"Key {key} is not an unsigned integer in range.")
    return value


def _optional_int(m: Mapping[Any, Any], key: int, low: int, high: int) -> int | None:
    value = m.get(key)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise CodecError(f"Key {key} is not an integer in range.")
    return value


def _bytes(m: Mapping[Any, Any], key: int, size: int) -> bytes:
    value = m.get(key)
    if type(value) is not bytes or len(value) != size:
        raise CodecError(f"Key {key} is not {size} bytes.")
    return value


def _text(m: Mapping[Any, Any], key: int, most: int) -> str:
    value = m.get(key)
    if type(value) is not str or len(value) > most or "\0" in value:
        raise CodecError(f"Key {key} is not a text of at most {most} characters.")
    return value


def _list(m: Mapping[Any, Any], key: int, most: int) -> list[Any]:
    value = m.get(key)
    if type(value) is not list or len(value) > most:
        raise CodecError(f"Key {key} is not an array of at most {most}.")
    return value


def _uints(m: Mapping[Any, Any], key: int, count: int) -> list[int]:
    values = _list(m, key, count)
    if len(values) != count or any(type(v) is not int or not 0 <= v < _U63 for v in values):
        raise CodecError(f"Key {key} is not {count} unsigned integers.")
    return values
