"""The fleet in memory: where each device belongs, what it runs, and when it was last heard from.

The database has the lasting part. Presence lives here alone (a beat costs no write), and ``last_seen`` is written in
batches every few minutes. After a restart presence is unknown until one grace period has passed.

A device that declares a wake interval is *asleep* while it is offline within that time: nobody can tell it anything,
and nothing is wrong with it. Whoever does not sleep is dark as soon as it is not online.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from firmware_store.suit import class_id, vendor_id
from server.db.devices import DeviceRecord, Seen
from server.domain.halt.view import DARK_WAKES
from server.domain.identity import Cohort, DeviceId, Region
from server.protocol.messages import Counter, Hello
from server.protocol.orders import Admit
from server.services.sites import SITE_LABEL

_ROUNDING_S: Final = 0.001  # the database keeps microseconds

GRACE_BEATS: Final = 2.5
"""Offline: nothing heard for so many heartbeat intervals, or the current session's last will."""

ABSENCE_HALF_LIFE_S: Final = 3.5 * 86_400
HABIT_FROM: Final = 3.0
"""So many absences: who is away once a day comes to five."""
UNSTEADY_FROM: Final = 10.0
"""About two absences a day: silence of a quarter of an hour says less of such a device than of others."""


@dataclass(slots=True)
class Device:
    """One device; times in Unix seconds. ``vendor_id`` and ``class_id`` are empty until its first hello.

    ``last_sequence`` is the newest report this process has committed; after a restart every device's next beat repeats
    its last report once, which changes nothing. ``admit`` and ``reboot`` are in each welcome until they expire.
    ``site``: what it says of where it is, or people do (``site_given``), which outweighs; empty: nobody does.
    """

    id: DeviceId
    region: Region
    cohort: Cohort
    member_since: float
    held: bool = False
    admitted_at: float = 0.0
    revoked_at: float = -1.0
    vendor_id: bytes = b""
    class_id: bytes = b""
    hardware: str = ""
    running_digest: bytes = b""
    nonce: bytes = b""
    last_seen: float = 0.0
    gone: bool = True
    last_sequence: int = -1
    welcomed_at: float = 0.0
    seen_stored: float = 0.0
    admit: Admit | None = None
    reboot: Admit | None = None
    reboot_told_at: float = 0.0
    site: str = ""
    site_given: str | None = None
    moved: bool = False
    """It belongs elsewhere than at its last hello: the counters that it holds are not those of its audience."""
    utc_offset_minutes: int | None = None
    """East of UTC, by its last hello to this process."""
    wake_interval_s: int = 0
    """Seconds between wakes, as it declares them; 0: it does not sleep."""
    told_counter: Counter | None = None
    """The directive of its cohort that it holds, by its last beat to this process, which came at ``told_at``."""
    told_at: float = 0.0
    free_bytes: int | None = None
    """Of its storage, by its last beat to this process; None: it does not say."""
    refusals: int = 0
    """Orders that it did not believe since it booted, by its last beat to this process."""
    drops: int = 0
    """Sessions lost since this process began."""
    absences: float = 0.0
    """How often it had been away at ``absent_at``, each time counting half as much after half a week."""
    absent_at: float = 0.0

    @property
    def is_unsteady(self) -> bool:
        """It was away several times a day before it was last heard from: the halt rule compares it with its like."""
        return self.absences_at(self.last_seen) >= UNSTEADY_FROM

    @property
    def is_away_by_habit(self) -> bool:
        """It was away every day or two: where hours of silence are judged, the halt rule leaves it out."""
        return self.absences_at(self.last_seen) >= HABIT_FROM

    def absences_at(self, now: float) -> float:
        """How often it has been away, as ``absences`` counts."""
        return self.absences * 2 ** (-(now - self.absent_at) / ABSENCE_HALF_LIFE_S)

    @property
    def revoked(self) -> bool:
        """Shut out until it is enrolled again."""
        return self.revoked_at >= self.admitted_at


class Fleet:
    """Every device, by id and by audience."""

    def __init__(self, *, heartbeat_s: float) -> None:
        self.grace_s = GRACE_BEATS * heartbeat_s
        self._hearing_since = 0.0
        self._devices: dict[DeviceId, Device] = {}
        self._members: dict[tuple[Cohort, Region], dict[DeviceId, Device]] = {}

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def add(self, record: DeviceRecord) -> None:
        """Take a device up from its record."""
        device = Device(record.id, record.region, record.cohort, record.member_since.timestamp(), held=record.held)
        if record.admitted_at is not None:
            device.admitted_at = record.admitted_at.timestamp()
        if record.revoked_at is not None:
            device.revoked_at = record.revoked_at.timestamp()
        if record.vendor is not None and record.hardware is not None:
            device.vendor_id, device.class_id = _hardware_ids(record.vendor, record.hardware)
            device.hardware = record.hardware
        device.site_given = record.operator_labels.get(SITE_LABEL)
        device.site = record.all_labels.get(SITE_LABEL, "")
        device.wake_interval_s = record.wake_interval_s or 0
        device.moved = record.moved
        device.running_digest = record.running_digest or b""
        device.nonce = record.session_nonce or b""
        if record.last_seen is not None:
            device.last_seen = device.seen_stored = record.last_seen.timestamp()
            device.gone = False
        if record.absent_at is not None:
            device.absences, device.absent_at = record.absences, record.absent_at.timestamp()
        self._devices[device.id] = device
        self._members.setdefault((device.cohort, device.region), {})[device.id] = device

    def get(self, device: DeviceId) -> Device | None:
        return self._devices.get(device)

    def members(self, cohort: Cohort, region: Region) -> Iterable[Device]:
        """The devices of one audience."""
        return self._members.get((cohort, region), {}).values()

    def greet(self, device: Device, hello: Hello, now: float) -> None:
        """A new session has begun."""
        device.vendor_id, device.class_id = _hardware_ids(hello.vendor, hello.hardware)
        device.hardware = hello.hardware
        device.site = hello.labels.get(SITE_LABEL, "") if device.site_given is None else device.site_given
        device.utc_offset_minutes = hello.utc_offset_minutes
        device.wake_interval_s = hello.wake_interval_s or 0
        booted = next((slot for slot in hello.slots if slot.name == hello.booted), None)
        device.running_digest = booted.manifest_digest if booted is not None else b""
        if device.nonce not in {b"", hello.nonce} and not device.gone and not device.wake_interval_s:
            device.drops += 1  # the session before was lost without a word
        device.nonce = hello.nonce
        self.hear(device, now)

    def listen(self, now: float) -> None:
        """The server can hear its devices from now on: while it could not, nobody was away for all it knows."""
        self._hearing_since = now

    def hear(self, device: Device, now: float) -> None:
        """Something of the device has arrived."""
        away_s = now - max(device.last_seen, self._hearing_since)
        if away_s > self.grace_of(device) and device.last_seen:
            device.absences, device.absent_at = device.absences_at(now) + 1, now
        device.last_seen = now
        device.gone = False

    def lose(self, device: Device, nonce: bytes) -> bool:
        """The session is over: the broker published the last will, or the device did before it went to sleep.

        False if it is an earlier session's, which says nothing of this one.
        """
        if nonce != device.nonce:
            return False
        device.drops += not device.gone and not device.wake_interval_s
        device.gone = True
        return True

    def admit(self, device: DeviceId, at: datetime) -> None:
        """It was enrolled. In whatever order this and ``shut_out`` are told, the later instant counts."""
        if (known := self.get(device)) is not None:
            known.admitted_at = max(known.admitted_at, at.timestamp())

    def shut_out(self, device: DeviceId, at: datetime) -> None:
        """It was revoked."""
        if (known := self.get(device)) is not None:
            known.revoked_at = max(known.revoked_at, at.timestamp())
            known.gone = known.gone or known.revoked

    def hold(self, device: DeviceId, *, held: bool) -> Device | None:
        """It may start nothing while it is held."""
        known = self.get(device)
        if known is not None:
            known.held = held
        return known

    def move(self, device: DeviceId, region: Region, cohort: Cohort, *, at: float) -> Device | None:
        """It belongs to another audience from now on; what it was admitted to is over."""
        known = self.get(device)
        if known is None:
            return None
        self._members.get((known.cohort, known.region), {}).pop(device, None)
        known.region, known.cohort, known.member_since = region, cohort, at
        known.moved, known.admit, known.reboot = True, None, None
        self._members.setdefault((cohort, region), {})[device] = known
        return known

    def place(self, device: DeviceId, given: str | None, site: str | None) -> None:
        """Take up its site as people give it (None: they do not), and as it is."""
        if (known := self.get(device)) is not None:
            known.site_given, known.site = given, site or ""

    def grace_of(self, device: Device) -> float:
        """Return for how many seconds a device may be silent, and nothing is wrong."""
        return max(self.grace_s, DARK_WAKES * device.wake_interval_s)

    def is_online(self, device: Device, now: float) -> bool:
        """Tell whether it has a session, as far as is known."""
        return not device.gone and now - device.last_seen <= self.grace_s

    def is_asleep(self, device: Device, now: float) -> bool:
        """Tell whether it is offline because it sleeps: it was heard within one and a half of its wake intervals."""
        if not device.wake_interval_s or device.revoked or self.is_online(device, now):
            return False
        return now - device.last_seen <= self.grace_of(device)

    def is_dark(self, device: Device, now: float) -> bool:
        return not (self.is_online(device, now) or self.is_asleep(device, now))

    def online(self, now: float) -> int:
        """How many devices are online."""
        return sum(self.is_online(device, now) for device in self._devices.values())

    def unsaved(self) -> list[Seen]:
        """Return who was heard from since its ``last_seen`` was written, and when."""
        return [
            Seen(
                device.id,
                datetime.fromtimestamp(device.last_seen, UTC),
                device.absences,
                datetime.fromtimestamp(device.absent_at, UTC) if device.absent_at else None,
            )
            for device in self._devices.values()
            if device.last_seen - device.seen_stored > _ROUNDING_S
        ]

    def note_saved(self, seen: Iterable[Seen]) -> None:
        """These have been written."""
        for one in seen:
            if (device := self.get(one.id)) is not None:
                device.seen_stored = one.at.timestamp()


@lru_cache(maxsize=4096)
def _hardware_ids(vendor: str, hardware: str) -> tuple[bytes, bytes]:
    vendor_uuid = vendor_id(vendor)
    return vendor_uuid, class_id(vendor_uuid, hardware)
