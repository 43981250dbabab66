"""What really happens on the devices of a run: kept by release, with the fleet's time, and written down if asked."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from device_sim.agent.events import Note
from device_sim.ledger import Witness
from device_sim.scenario.outcome import CampaignOutcome
from server.domain.identity import CampaignId, DeviceId
from server.protocol.reasons import Reason

_ENDS: Final = frozenset({"failed", "refused", "stopped", "reverted", "no_way_back"})
_WAITING: Final = frozenset({Reason.NONE, Reason.LATE, Reason.OUTSIDE_WINDOW})
"""These say why a device has not begun yet, not why an update has ended."""


class FleetTime(Protocol):
    """Whatever knows the fleet's time."""

    @property
    def now(self) -> float:
        """Seconds of the fleet."""


@dataclass(slots=True)
class Progress:
    """How far a release has come: devices with the time (seconds of the fleet) of the first time for each."""

    rebooted: dict[DeviceId, float] = field(default_factory=dict)
    booted: dict[DeviceId, float] = field(default_factory=dict)
    confirmed: dict[DeviceId, float] = field(default_factory=dict)
    lost: dict[DeviceId, float] = field(default_factory=dict)


class Facts:
    """``write`` takes a fact in. ``running`` is what each device runs, confirmed or on trial."""

    def __init__(self, clock: FleetTime, ledger: Witness | None = None) -> None:
        self._clock = clock
        self._ledger = ledger
        self.releases: dict[str, Progress] = defaultdict(Progress)
        self.running: dict[DeviceId, str] = {}
        self.confirmed: dict[DeviceId, str] = {}
        """The release that each device has confirmed last, and still runs."""
        self.reasons: dict[CampaignId | None, dict[Reason, set[DeviceId]]] = defaultdict(lambda: defaultdict(set))
        """Why updates have ended; None: what was refused before it was of any campaign."""
        self.ends: dict[CampaignId, dict[DeviceId, str]] = defaultdict(dict)
        """The last end that each device's updates of a campaign have come to: failed, refused, reverted, stopped."""

    def write(self, device: DeviceId, note: Note) -> None:
        """Take in what has just happened on a device."""
        if self._ledger is not None:
            self._ledger.write(device, note)
        now, progress = self._clock.now, self.releases[note.version]
        match note.event:
            case "rebooting":
                progress.rebooted.setdefault(device, now)
            case "booted":
                progress.booted.setdefault(device, now)
                self.running[device] = note.version
                if self.confirmed.get(device) not in {None, note.version}:
                    del self.confirmed[device]
            case "confirmed":
                progress.confirmed.setdefault(device, now)
                self.confirmed[device] = note.version
                if note.campaign is not None:
                    self.ends[note.campaign].pop(device, None)
            case "bricked" | "died":
                progress.lost.setdefault(device, now)
        if note.event in _ENDS and note.reason not in _WAITING:
            self.reasons[note.campaign][note.reason].add(device)
            if note.campaign is not None:
                self.ends[note.campaign][device] = note.event

    def outcome(
        self, release: str, campaign: CampaignId, *, state: str, reachable: Sequence[DeviceId]
    ) -> CampaignOutcome:
        """Return what came of a campaign on the devices. ``reachable``: those that count as such; all else is default.

        ``updated_at_stop`` is as if nothing had stopped it.
        """
        progress, ends = self.releases[release], self.ends[campaign].values()
        reasons = {**self.reasons[None], **self.reasons[campaign]}
        return CampaignOutcome(
            release=release,
            state=state,
            updated_at_stop=len(progress.rebooted),
            updated=len(progress.rebooted),
            confirmed=sum(version == release for version in self.confirmed.values()),
            failed=sum(end in {"failed", "refused"} for end in ends),
            reverted=sum(end == "reverted" for end in ends),
            bricked=len(progress.lost),
            reachable=len(reachable),
            reachable_unconfirmed=sum(self.confirmed.get(device) != release for device in reachable),
            reasons={reason.name.lower(): len(devices) for reason, devices in sorted(reasons.items())},
        )
