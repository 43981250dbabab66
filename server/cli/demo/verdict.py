"""The demo's judgement: what became of each device, from its own ledger and from the server (pure)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from server.domain.gate import FULL, height, is_due
from server.domain.identity import CampaignId, DeviceId

START_AFTER_HALT_S: Final = 1.0


class Fate(StrEnum):
    """What the bad release did to a device; every device has exactly one."""

    NEVER_STARTED = "never started"
    STOPPED = "stopped before boot"
    BRICKED = "bricked"
    REVERTED = "reverted"
    CONFIRMED = "confirmed before the halt"
    UNEXPLAINED = "unexplained"


SAFE: Final = frozenset({Fate.NEVER_STARTED, Fate.STOPPED, Fate.REVERTED})
"""These must run the good release and be online."""


@dataclass(frozen=True, slots=True)
class Bad:
    """The bad campaign, counted."""

    fates: Mapping[str, Fate]
    started: int
    due_at_halt: int
    late_starts: Sequence[str]
    misplaced: Sequence[str]
    halt_to_last_stop_ms: int
    problems: Sequence[str] = field(default_factory=tuple)

    def count(self, fate: Fate) -> int:
        return sum(found is fate for found in self.fates.values())


def fate_of(events: Sequence[Mapping[str, Any]]) -> Fate:
    """Return what one device's ledger of one campaign says, and nothing from anybody else."""
    names = [event["event"] for event in events]
    if "bricked" in names:
        return Fate.BRICKED
    if "confirmed" in names:
        return Fate.CONFIRMED
    if "reverted" in names:
        return Fate.REVERTED
    if "stopped" in names and "trial" not in names:
        return Fate.STOPPED
    return Fate.UNEXPLAINED if "started" in names else Fate.NEVER_STARTED


def judge(
    *,
    ledger: Iterable[Mapping[str, Any]],
    campaign: Mapping[str, Any],
    devices: Sequence[Mapping[str, Any]],
    halted_at: float,
    good_version: str,
) -> Bad:
    """Judge the bad campaign.

    Args:
        ledger: the devices' own events.
        campaign: the server's view of the campaign, after the halt.
        devices: the server's view of every device, after all came to rest.
        halted_at: when the server decided (Unix seconds).
        good_version: what devices that were spared must run.
    """
    uuid = UUID(hex=campaign["id"].removeprefix("cmp_"))
    by_device: dict[str, list[Mapping[str, Any]]] = {device["id"]: [] for device in devices}
    for event in ledger:
        if event.get("campaign") == str(uuid):
            by_device[event["device"]].append(event)
    fates = {device: fate_of(events) for device, events in by_device.items()}
    misplaced = [
        device["id"]
        for device in devices
        if fates[device["id"]] in SAFE and not (device["running_version"] == good_version and device["online"])
    ]
    stops = [
        event["t"]
        for events in by_device.values()
        for event in events
        if event["event"] in {"stopped", "reverted"} and event["t"] >= halted_at
    ]
    return Bad(
        fates=fates,
        started=sum(any(event["event"] == "started" for event in events) for events in by_device.values()),
        due_at_halt=_due(CampaignId(uuid), campaign, devices),
        late_starts=[device for device, events in by_device.items() if _started_late(events)],
        misplaced=misplaced,
        halt_to_last_stop_ms=round((max(stops) - halted_at) * 1000) if stops else 0,
    )


def _started_late(events: Sequence[Mapping[str, Any]]) -> bool:
    received = [event["t"] for event in events if event["event"] == "halt_received"]
    if not received:
        return False
    return any(event["event"] == "started" and event["t"] > min(received) + START_AFTER_HALT_S for event in events)


def _due(uuid: CampaignId, campaign: Mapping[str, Any], devices: Sequence[Mapping[str, Any]]) -> int:
    levels = {region["region"]: round(region["level"] * FULL) for region in campaign["regions"]}
    return sum(is_due(height(uuid, DeviceId(device["id"])), levels[device["region"]]) for device in devices)
