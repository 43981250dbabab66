"""Whether a written release may be booted now: permit, window, neighbours, and an acknowledged ``rebooting``."""

from collections.abc import Callable
from typing import Final

from device_sim.agent.reports import Reports
from device_sim.agent.situation import Situation
from device_sim.agent.state import Update
from server.protocol.reasons import Reason

REBOOTING_VALID_S: Final = 30.0
"""A ``rebooting`` that was acknowledged longer ago is said again: the halt rule counts from it."""


class Activation:
    """Asked before a switch is made, and once more before the reboot."""

    def __init__(self, situation: Situation, reports: Reports) -> None:
        self._situation = situation
        self._reports = reports
        self._rebooting: tuple[int, float | None] | None = None  # its report's number, and when it was acknowledged
        self.next_at: float | None = None
        """When a window may have opened (monotonic seconds), as of the last ``may_activate``."""

    def forget(self) -> None:
        """What was acknowledged does not count: it is another session, or another update."""
        self._rebooting = None

    def may_activate(self, update: Update) -> bool:
        """Ask the welcome, the trust documents, the windows and the neighbours."""
        here = self._situation
        self.next_at = None
        offer = here.directives.offer(update.campaign, update.manifest_digest)
        if offer is None:
            return False
        permit = here.permit(offer)
        if permit.reason is Reason.OUTSIDE_WINDOW:
            self.next_at = self._monotonic(here.next_look_at_windows(offer))
        return permit.granted and here.may_reboot(offer)

    def is_acknowledged(self, say_rebooting: Callable[[], int]) -> bool:
        """Say ``rebooting``, and wait until the server has stored it: from then on it expects us back.

        ``say_rebooting`` returns the number of its report.
        """
        now = self._situation.now
        if self._rebooting is None:
            self._rebooting = (say_rebooting(), None)
        number, acknowledged_at = self._rebooting
        if acknowledged_at is None:
            if not self._reports.is_acknowledged(number):
                return False
            self._rebooting = (number, now)
        elif now - acknowledged_at > REBOOTING_VALID_S:
            self._rebooting = (say_rebooting(), None)
            return False
        return True

    def _monotonic(self, server_time: float | None) -> float | None:
        offset = self._situation.clock_offset
        return None if server_time is None or offset is None else server_time - offset
