"""The server's counts of a virtual campaign: those of a replay, but of what devices report."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from device_sim.virtual.progress import Progress
from server.db.campaign_records import RegionRecord
from server.domain.gate import Ramp
from server.domain.halt.view import Floats, Indices, Moment
from server.domain.snapshot import RegionView
from server.services.replay.executions import Executions, Step


class ReportedExecutions(Executions):
    """``admitted_until``: until when each device may start late (Unix seconds)."""

    def __init__(self, *args: Any, progress: Progress, admitted_until: Floats, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._progress = progress
        self._admitted_until = admitted_until
        self.changed: set[int] = set()
        """Devices whose reports have changed something since the moment before."""

    @property
    def silent(self) -> int:
        """Devices that are concluded to be silent."""
        return int(self._tally[Step.SILENT].sum())

    def views(self, records: tuple[RegionRecord, ...]) -> list[RegionView]:
        failed = np.bincount(self._region[self._progress.has_failed], minlength=self._regions).tolist()
        return [replace(view, failed=count) for view, count in zip(super().views(records), failed, strict=True)]

    def late(self, ramps: Sequence[Ramp]) -> Indices:
        """Return who says that it is late, and has not been admitted yet."""
        return self._due(ramps, self._ready & self._waits_for_word())

    def sleepers(self, ramps: Sequence[Ramp]) -> Indices:
        return self._due(ramps, self._awake & self._waits_for_word())

    def _waits_for_word(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        assert self._moment is not None
        waits: np.ndarray[Any, np.dtype[np.bool_]] = self._progress.says_late & (
            self._admitted_until <= self._moment.now
        )
        return waits[self._order]

    def _take_news(self, moment: Moment) -> None:
        self._reboot(moment)
        for step, devices in self._progress.by_step(self.changed).items():
            self._move(devices, step)
            if step is Step.REBOOTED:
                self._changed_at[devices] = moment.now
        self.changed = set()
