"""The heights of a fleet's devices in one campaign: each is hashed once."""

from typing import Final

import numpy as np

from server.domain.gate import height, heights_of
from server.domain.identity import CampaignId, DeviceId
from server.services.columns import Rows, grown
from server.services.fleet import Fleet

_UNKNOWN: Final = -1


class Heights:
    """By row of the fleet's columns."""

    def __init__(self, campaign: CampaignId, fleet: Fleet) -> None:
        self._campaign = campaign
        self._fleet = fleet
        self._known = np.full(0, _UNKNOWN, np.int64)

    def of(self, rows: Rows) -> Rows:
        """Return the heights of these rows (int64, 0 .. 2^32 - 1)."""
        self._known = grown(self._known, len(self._fleet.columns), fill=_UNKNOWN)
        found = self._known[rows]
        unknown = rows[found == _UNKNOWN]
        if len(unknown):
            names = [self._fleet.at(row).id for row in unknown.tolist()]
            self._known[unknown] = heights_of(self._campaign, names)
            found = self._known[rows]
        return found

    def of_stranger(self, device: DeviceId) -> int:
        """Return the height of a device that the fleet does not know."""
        return height(self._campaign, device)
