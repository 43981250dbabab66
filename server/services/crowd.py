"""Who of an audience a campaign is for, by rows of the fleet's columns."""

from collections.abc import Iterable, Mapping

import numpy as np

from server.db.campaign_records import CampaignRecord
from server.db.executions import Progress
from server.domain.eligibility import Target
from server.domain.execution import State
from server.domain.halt.view import Bools, Indices
from server.domain.identity import DeviceId, Region
from server.services.columns import Rows, fingerprint
from server.services.fleet import Fleet


class Crowd:
    """The devices of a campaign's cohort at one moment. Later joiners are left out until the next."""

    def __init__(
        self, fleet: Fleet, campaign: CampaignRecord, target: Target, progress: Mapping[DeviceId, Progress]
    ) -> None:
        """``progress``: of everybody who has said a word of the campaign."""
        self._fleet = fleet
        self._campaign = campaign
        self._vendor = fingerprint(target.vendor_id)
        self._classes = np.asarray(sorted(fingerprint(name) for name in target.class_ids), np.uint64)
        self._running = fingerprint(target.manifest_digest)
        self._begun = self._mask(progress)
        self._through = self._mask(name for name, one in progress.items() if one.state is State.CONFIRMED)
        over = (name for name, one in progress.items() if one.is_earlier or one.state is State.SKIPPED)
        self._over = self._mask(over)
        self._named = self._mask(campaign.named)

    def members(self, region: Region) -> Rows:
        """Return the rows of a region's devices, without those that have joined too late to be meant."""
        rows = self._fleet.rows(self._campaign.cohort, region)
        rows = rows[rows < len(self._begun)]
        before = self._campaign.members_before
        return rows if before is None else rows[np.floor(self._fleet.columns.member_since[rows]) < before]

    def unknown(self, rows: Rows) -> Rows:
        """Return those that have not said what they are; each may turn out to be eligible at its first hello."""
        columns = self._fleet.columns
        found: Rows = rows[(columns.hardware[rows] == 0) & ~columns.held[rows]]
        return found

    def eligible(self, rows: Rows) -> Rows:
        """Return those that fit and are free to start; those that run the release if the campaign has updated them."""
        columns = self._fleet.columns
        fit = (columns.vendor[rows] == self._vendor) & np.isin(columns.hardware[rows], self._classes)
        free = ~(columns.held[rows] | columns.revoked(rows) | self._over[rows])
        found: Rows = rows[fit & free & (self._begun[rows] | (columns.running[rows] != self._running))]
        return found

    def through(self, rows: Rows) -> Bools:
        """Tell who has confirmed the release."""
        return self._through[rows]

    def counted_alone(self, rows: Rows) -> Bools:
        """Tell of whom there is more to say than whether it is due, or through, and online."""
        columns = self._fleet.columns
        is_under_way = self._begun[rows] & ~self._through[rows]
        return is_under_way | self._named[rows] | columns.has_admit[rows] | (columns.wake_interval_s[rows] > 0)

    @property
    def classes(self) -> int:
        """How many hardware classes the release is for."""
        return len(self._classes)

    def hardware(self, rows: Rows) -> Indices:
        """Return the hardware classes of eligible devices, 0 .. ``classes`` - 1."""
        return np.searchsorted(self._classes, self._fleet.columns.hardware[rows])

    def _mask(self, devices: Iterable[DeviceId]) -> Bools:
        mask = np.zeros(len(self._fleet.columns), np.bool_)
        mask[self._fleet.rows_of(devices)] = True
        return mask
