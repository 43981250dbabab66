"""What really happened on the devices, read as it is written; and what is on their disks at the end."""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

POLL_S: Final = 0.1

Event = Mapping[str, Any]

REFUSALS: Final = frozenset({"refused", "failed", "stopped", "reverted"})
INSTALLS: Final = frozenset({"rebooting", "trial", "confirmed"})
"""From the switch of the slot on, a release counts as installed, whatever became of it then."""


@dataclass
class Ledger:
    """All events so far; ``refresh`` reads what was written since."""

    path: Path
    events: list[Event] = field(default_factory=list)
    _offset: int = 0

    def refresh(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data.rfind(b"\n") + 1  # a line still being written is for the next time
        self._offset += whole
        self.events += [json.loads(line) for line in data[:whole].splitlines()]

    def mark(self) -> int:
        """Return where the story is now, for ``since``."""
        self.refresh()
        return len(self.events)

    def since(self, mark: int, campaign: str) -> Iterable[Event]:
        """The events of one campaign, and those of no campaign: a forged order belongs to none."""
        return (event for event in self.events[mark:] if event.get("campaign", campaign) == campaign)

    async def until(self, condition: Callable[[], bool], *, within_s: float) -> bool:
        """Wait for something to be in the ledger; False when the time is over."""
        deadline = time.monotonic() + within_s
        while True:
            self.refresh()
            if condition():
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)

    def devices(self, event: str, *, since: int = 0, **members: str) -> set[str]:
        """The devices of which an event is told, since a mark."""
        return {
            one["device"]
            for one in self.events[since:]
            if one["event"] == event and all(one.get(name) == value for name, value in members.items())
        }


def strange_devices(folder: Path, events: Iterable[Event], allowed: Callable[[str], Collection[bytes]]) -> list[str]:
    """Return the devices whose running slot holds an image (SHA-256) that it may not: the bytes count, not words.

    A slot without an image is strange, too: it was looked for in the wrong place.
    """
    slots = {event["device"]: event["slot"] for event in events if event["event"] == "booted"}
    strange = []
    for device, slot in slots.items():
        images = [sha256(image.read_bytes()).digest() for image in (folder / device / "slots" / slot).glob("*.img")]
        if not images or not set(images) <= set(allowed(device)):
            strange.append(device)
    return sorted(strange)
