"""One region of a campaign, counted: who is due, under way, and nobody's concern.

Devices that are under way or have failed, sleep, are named or admitted are counted one by one. The crowd of all
others, who are due or not, or through, and online or not, is counted by arrays: of a large fleet nearly everybody.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from server.db.campaign_records import CampaignRecord, RegionRecord
from server.db.executions import Progress
from server.domain.bounds import excess
from server.domain.execution import State
from server.domain.gate import is_due
from server.domain.halt.view import NOBODY, Bools, Indices
from server.domain.late import Waiting
from server.domain.paced import Startable, counted_s
from server.domain.snapshot import RegionView
from server.protocol.reasons import Reason
from server.services.admits import ADMIT_S
from server.services.device import Device
from server.services.fleet import Fleet
from server.services.silence import AFTER_REBOOT
from server.services.transitions import ceiling

_BEFORE_REBOOT: Final = frozenset({State.DOWNLOADING, State.INSTALLING})
_ELSEWHERE: Final = frozenset({Reason.OUTSIDE_WINDOW, Reason.HELD})
"""What is due, and may not start by its own or a person's will, neither blocks nor dilutes a wave."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An eligible device; ``hardware`` is its class's index, ``progress`` None where it has not said a word."""

    device: Device
    progress: Progress | None
    height: int
    hardware: int
    is_named: bool
    is_offered: bool

    @property
    def waiting(self) -> Waiting:
        return Waiting(self.height, self.device.id, self.device.region, self.hardware)

    @property
    def says_late(self) -> bool:
        return self.progress is not None and self.progress.reason == Reason.LATE


@dataclass(slots=True)
class Tally:
    """What has been counted of a region at ``now``; ``most`` is the level that no wave exceeds.

    Devices that have been away since before ``horizon`` are nobody to compare with.
    """

    fleet: Fleet
    campaign: CampaignRecord
    region: RegionRecord
    now: float
    level: int
    most: int
    horizon: float
    admitted_since: float
    eligible: int = 0
    eligible_online: int = 0
    targeted: int = 0
    targeted_online: int = 0
    reached: int = 0
    waiting: int = 0
    in_flight: int = 0
    confirmed: int = 0
    failed: int = 0
    judged: int = 0
    silent: int = 0
    controls: int = 0
    control_silent: int = 0
    candidates: list[Indices] = field(default_factory=list)
    startable: list[tuple[Indices, Indices]] = field(default_factory=list)
    starting: int = 0
    admitted: int = 0
    starting_in_classes: Counter[int] = field(default_factory=Counter)
    late: list[Waiting] = field(default_factory=list)
    sleepers: list[Waiting] = field(default_factory=list)
    sleepers_starting: int = 0
    named: list[Waiting] = field(default_factory=list)

    @classmethod
    def begin(
        cls, fleet: Fleet, campaign: CampaignRecord, region: RegionRecord, *, bundle_bytes: int, now: float
    ) -> Self:
        """Begin to count a region; ``bundle_bytes``: what a device fetches at most."""
        opened = region.opened_at or campaign.started_at
        return cls(
            fleet,
            campaign,
            region,
            now,
            level=region.ramp.level(now),
            most=ceiling(campaign),
            horizon=now if opened is None else opened.timestamp() - fleet.grace_s,
            admitted_since=now - counted_s(campaign.policy.starts_per_s(bundle_bytes)),
        )

    def note_candidates(self, heights: Indices) -> None:
        """Count devices that the campaign is for, unless they belong to the holdout (at ``most`` and above)."""
        within = heights[heights < self.most]
        self.candidates.append(within)
        self.targeted += int(np.count_nonzero(within < self.region.target))

    @property
    def heights(self) -> Indices:
        """Of all candidates, in no order."""
        return np.concatenate(self.candidates) if self.candidates else NOBODY

    def count_crowd(self, rows: Indices, heights: Indices, hardware: Indices) -> None:
        """Count eligible devices by their rows of the fleet's columns, as ``count`` does.

        They have said nothing of the campaign, do not sleep, are not named, and hold no admit.
        """
        online = self._count_present(rows, heights)
        columns = self.fleet.columns
        due = heights < self.level
        starting = online & due
        count = int(np.count_nonzero(starting))
        self.waiting += count
        self.reached += count
        self.starting += count
        for index, many in enumerate(np.bincount(hardware[starting]).tolist()):
            if many:
                self.starting_in_classes[index] += many
        ahead = online & ~due
        self.startable.append((heights[ahead], hardware[ahead]))
        last_seen = columns.last_seen[rows]
        compared = ~due & (last_seen >= self.horizon)
        self.controls += int(np.count_nonzero(compared))
        self.control_silent += int(np.count_nonzero(compared & (last_seen < self._silent_before)))

    def count_through(self, rows: Indices, heights: Indices) -> None:
        """Count eligible devices that have confirmed, as ``count`` does; none of them sleeps."""
        self._count_present(rows, heights)
        self.reached += len(rows)

    def _count_present(self, rows: Indices, heights: Indices) -> Bools:
        """Count who is eligible, and return which of them are online; nobody is named."""
        self.note_candidates(heights)
        online = self.fleet.are_online(rows, self.now)
        self.eligible += len(rows)
        self.eligible_online += int(np.count_nonzero(online))
        self.targeted_online += int(np.count_nonzero(online & (heights < self.region.target)))
        return online

    def count(self, one: Candidate) -> None:
        """Count an eligible device; one that is named is due without a level, as soon as it has its offer.

        One that is asleep counts as online where it is asked whose word a wave waits for, and nowhere else.
        """
        self.note_candidates(np.asarray([one.height]))
        device, progress = one.device, one.progress
        admit = device.admit
        is_ours = admit is not None and admit.campaign == self.campaign.id
        self.admitted += admit is not None and is_ours and admit.until - ADMIT_S > self.admitted_since
        online = self.fleet.is_online(device, self.now)
        is_here = online or self.fleet.is_asleep(device, self.now)
        self.eligible += 1
        self.eligible_online += is_here
        self.targeted_online += is_here and (one.is_named or is_due(one.height, self.region.target))
        if progress is not None and progress.state is not State.DUE:
            self._count_begun(device, progress, online=online)
        elif one.is_named or is_due(one.height, self.level):
            if online and (progress is None or progress.reason not in _ELSEWHERE):
                self._count_due(one)
        elif not device.wake_interval_s:  # one that sleeps starts when it is admitted, and is nobody to compare with
            self._count_ahead(one, online=online)

    def _count_begun(self, device: Device, progress: Progress, *, online: bool) -> None:
        """A device that went away before its reboot neither blocks nor dilutes a wave; nor does one that rests."""
        is_before = progress.state in _BEFORE_REBOOT
        if not online and (is_before or (device.wake_interval_s and self._rests(progress))):
            return
        self.reached += 1
        self.in_flight += is_before or progress.state in AFTER_REBOOT

    def _count_due(self, one: Candidate) -> None:
        """Whom the level has passed, or who is named: it is about to start, or waits to be let in."""
        if one.device.wake_interval_s and not one.is_named:
            self._count_sleeper(one)
            return
        self.waiting += 1
        self.reached += 1
        if not one.is_offered and not is_due(one.height, self.level):
            self.named.append(one.waiting)
        elif one.says_late and not self._is_admitted(one.device):
            self.late.append(one.waiting)
        else:
            self.starting += 1
            self.starting_in_classes[one.hardware] += 1

    def _count_sleeper(self, one: Candidate) -> None:
        """A device that sleeps, is awake and due neither blocks nor dilutes a wave before it is admitted."""
        if self._is_admitted(one.device):
            self.sleepers_starting += 1
        elif one.says_late:
            self.sleepers.append(one.waiting)

    def _count_ahead(self, one: Candidate, *, online: bool) -> None:
        """Whom the level has not passed: it may start next, and others are compared with it."""
        if online:
            self.startable.append((np.asarray([one.height]), np.asarray([one.hardware])))
        if one.device.last_seen >= self.horizon:
            self.controls += 1
            self.control_silent += one.device.last_seen < self._silent_before

    def count_ended(self, one: Progress) -> None:
        """Count how an execution has ended, whatever has become of its device since."""
        self.confirmed += one.state is State.CONFIRMED
        self.failed += not one.is_earlier and one.is_explicit_failure
        self.silent += not one.is_earlier and one.state is State.SILENT
        self.judged += one.is_judged

    def view(self) -> RegionView:
        """Return what ``decide`` asks of."""
        return RegionView(
            region=self.region.region,
            ramp=self.region.ramp,
            planned=self.region.planned,
            eligible=self.eligible,
            eligible_online=self.eligible_online,
            candidates=sum(len(some) for some in self.candidates),
            targeted=self.targeted,
            targeted_online=self.targeted_online,
            reached=self.reached,
            waiting=self.waiting,
            starting=self.starting,
            admitted=self.admitted,
            in_flight=self.in_flight,
            confirmed=self.confirmed,
            failed=self.failed,
            judged=self.judged,
            silent=self.silent,
            excess=excess(
                silent=self.silent,
                judged=self.judged,
                controls=self.controls,
                control_silent=self.control_silent,
            ),
            controls=self.controls,
            control_silent=self.control_silent,
            startable=self._startable(),
        )

    @property
    def _silent_before(self) -> float:
        halt = self.campaign.policy.halt
        return self.now - (halt.g1_s - halt.reboot_s)

    def _startable(self) -> Startable:
        heights = np.concatenate([NOBODY, *(some for some, _ in self.startable)])
        hardware = np.concatenate([NOBODY, *(some for _, some in self.startable)])
        order = np.argsort(heights, kind="stable")
        return Startable(heights[order], hardware[order])

    def _is_admitted(self, device: Device) -> bool:
        admit = device.admit
        return admit is not None and admit.campaign == self.campaign.id and admit.until > self.now

    def _rests(self, one: Progress) -> bool:
        """It has been asleep after its reboot for so long that nothing waits for it any more."""
        longest_s = self.campaign.policy.halt.sleeper_s
        return one.state in AFTER_REBOOT and one.rebooted_at is not None and self.now - one.rebooted_at > longest_s
