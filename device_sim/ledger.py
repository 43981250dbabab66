"""What really happened on the devices' side, one JSON line a fact: the truth that a demo or a test compares with.

``{"t": Unix seconds, "device", "event", "campaign", "version", "slot", "reason", "detail"}``; a key that has nothing to
say is left out. Events: connected, offered, hold_received, halt_received, rollback_received, none_received, started,
written, rebooting, booted, bricked, trial, confirmed, stopped, failed, refused, reverting, reverted, no_way_back,
moved; cut_off and let_back, when an outage begins and ends; died, when a trace's release has killed it later.
"""

import json
import time
from pathlib import Path
from typing import IO, Protocol

from device_sim.agent.events import Note
from server.domain.identity import DeviceId
from server.protocol.reasons import Reason


class Witness(Protocol):
    """Whoever hears what happens on the devices."""

    def write(self, device: DeviceId, note: Note) -> None: ...


class Ledger:
    """An append-only file, whole lines only; without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        # Line-buffered: a reader, or a kill, never sees half a fact for long.
        self._file: IO[str] | None = None if path is None else path.open("a", encoding="utf-8", buffering=1)

    def write(self, device: DeviceId, note: Note) -> None:
        """Add a fact, with the time it is now."""
        if self._file is None:
            return
        entry = {
            "t": round(time.time(), 6),
            "device": device,
            "event": note.event,
            "campaign": "" if note.campaign is None else str(note.campaign),
            "version": note.version,
            "slot": note.slot,
            "reason": "" if note.reason is Reason.NONE else note.reason.name.lower(),
            "detail": note.detail,
        }
        self._file.write(json.dumps({key: value for key, value in entry.items() if value != ""}) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
