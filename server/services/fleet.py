"""The fleet in memory: where each device belongs, what it runs, and when it was last heard from.

The database has the lasting part. Presence lives here alone (a beat costs no write), and ``last_seen`` is written in
batches every few minutes. After a restart presence is unknown until one grace period has passed.

A device that declares a wake interval is *asleep* while it is offline within that time: nobody can tell it anything,
and nothing is wrong with it. Whoever does not sleep is dark as soon as it is not online.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from firmware_store.suit import class_id, vendor_id
from server.db.devices import DeviceRecord, Seen
from server.domain.halt.view import DARK_WAKES, NOBODY
from server.domain.identity import Cohort, DeviceId, Region
from server.protocol.messages import Hello
from server.services.columns import Columns, Rows
from server.services.device import Device
from server.services.sites import SITE_LABEL

_ROUNDING_S: Final = 0.001  # the database keeps microseconds

GRACE_BEATS: Final = 2.5
"""Offline: nothing heard for so many heartbeat intervals, or the current session's last will."""


class Fleet:
    """Every device, by id and by audience."""

    def __init__(self, *, heartbeat_s: float) -> None:
        self.grace_s = GRACE_BEATS * heartbeat_s
        self._hearing_since = 0.0
        self.columns = Columns()
        self._devices: dict[DeviceId, Device] = {}
        self._by_row: list[Device] = []
        self._audiences: dict[tuple[Cohort, Region], int] = {}
        self._members: dict[tuple[Cohort, Region], dict[DeviceId, Device]] = {}

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def add(self, record: DeviceRecord) -> None:
        """Take a device up from its record."""
        since = record.member_since.timestamp()
        device = Device(record.id, record.region, record.cohort, since, held=record.held, columns=self.columns)
        if record.admitted_at is not None:
            device.admitted_at = record.admitted_at.timestamp()
        if record.revoked_at is not None:
            device.revoked_at = record.revoked_at.timestamp()
        if record.vendor is not None and record.hardware is not None:
            device.be(*_hardware_ids(record.vendor, record.hardware), record.hardware)
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
        self._by_row.append(device)
        self._settle(device)
        self._members.setdefault((device.cohort, device.region), {})[device.id] = device

    def get(self, device: DeviceId) -> Device | None:
        return self._devices.get(device)

    def members(self, cohort: Cohort, region: Region) -> Iterable[Device]:
        """The devices of one audience."""
        return self._members.get((cohort, region), {}).values()

    def rows(self, cohort: Cohort, region: Region) -> Rows:
        """Return the rows of the devices of one audience, rising."""
        audience = self._audiences.get((cohort, region), 0)
        return np.flatnonzero(self.columns.audience[: len(self.columns)] == audience) if audience else NOBODY

    def rows_of(self, devices: Iterable[DeviceId]) -> Rows:
        """Return the rows of these devices, in their order; of those that are not known, none."""
        known = map(self._devices.get, devices)
        return np.asarray([device.row for device in known if device is not None], np.int64)

    def at(self, row: int) -> Device:
        """Return the device of a row."""
        return self._by_row[row]

    def greet(self, device: Device, hello: Hello, now: float) -> None:
        """A new session has begun."""
        device.be(*_hardware_ids(hello.vendor, hello.hardware), hello.hardware)
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
        self._settle(known)
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

    def are_online(self, rows: Rows, now: float) -> npt.NDArray[np.bool_]:
        """Tell of each row whether its device is online."""
        return ~self.columns.gone[rows] & (now - self.columns.last_seen[rows] <= self.grace_s)

    def is_asleep(self, device: Device, now: float) -> bool:
        """Tell whether it is offline because it sleeps: it was heard within one and a half of its wake intervals."""
        if not device.wake_interval_s or device.revoked or self.is_online(device, now):
            return False
        return now - device.last_seen <= self.grace_of(device)

    def is_dark(self, device: Device, now: float) -> bool:
        return not (self.is_online(device, now) or self.is_asleep(device, now))

    def online(self, now: float) -> int:
        """How many devices are online."""
        return int(np.count_nonzero(self.are_online(np.arange(len(self.columns)), now)))

    def unsaved(self) -> list[Seen]:
        """Return who was heard from since its ``last_seen`` was written, and when."""
        used = len(self.columns)
        rows = np.flatnonzero(self.columns.last_seen[:used] - self.columns.seen_stored[:used] > _ROUNDING_S)
        return [
            Seen(
                device.id,
                datetime.fromtimestamp(device.last_seen, UTC),
                device.absences,
                datetime.fromtimestamp(device.absent_at, UTC) if device.absent_at else None,
            )
            for device in map(self.at, rows.tolist())
        ]

    def note_saved(self, seen: Iterable[Seen]) -> None:
        """These have been written."""
        for one in seen:
            if (device := self.get(one.id)) is not None:
                device.seen_stored = one.at.timestamp()

    def _settle(self, device: Device) -> None:
        audience = (device.cohort, device.region)
        self.columns.audience[device.row] = self._audiences.setdefault(audience, len(self._audiences) + 1)


@lru_cache(maxsize=4096)
def _hardware_ids(vendor: str, hardware: str) -> tuple[bytes, bytes]:
    vendor_uuid = vendor_id(vendor)
    return vendor_uuid, class_id(vendor_uuid, hardware)
