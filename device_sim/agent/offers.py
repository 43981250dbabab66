"""Which offer a device may start now, when it should look again, and what it says about having to wait."""

from typing import Final

from device_sim.agent.boot_environment import SlotState
from device_sim.agent.events import Note
from device_sim.agent.reports import Reports
from device_sim.agent.situation import Situation
from device_sim.agent.state import Phase
from server.domain.execution import State
from server.domain.gate import height, is_due
from server.protocol.orders import Directive
from server.protocol.reasons import Reason

ATTEMPTS_MOST: Final = 3
"""After so many failed attempts of one campaign a device leaves it alone."""
ATTEMPT_NUMBER_MOST: Final = 255  # one byte on the wire
DUE_SLACK_S: Final = 0.05
"""The moment a line crosses a height is computed in floating point: look a little later."""
NEVER_AGAIN: Final = frozenset({State.ROLLED_BACK, State.REJECTED})


class Offers:
    """Asked whenever no update is under way."""

    def __init__(self, situation: Situation, reports: Reports) -> None:
        self._situation = situation
        self._reports = reports
        self._told: set[tuple[object, Reason]] = set()
        self.next_at: float | None = None
        """When an offer becomes due (monotonic seconds), as of the last ``to_start``."""

    def to_start(self) -> Directive | None:
        """Return an offer that is due, is allowed, and was confirmed by this session's welcome."""
        here = self._situation
        self.next_at = None
        server_now = here.server_now
        if server_now is None or here.running.state is not SlotState.CONFIRMED:
            return None
        for offer in here.directives.offers():
            assert offer.campaign is not None
            assert offer.ramp is not None
            own_height = height(offer.campaign, here.identity.device)
            if not self._may_try(offer, server_now):
                continue
            if not is_due(own_height, offer.ramp.level(server_now)):
                self._look_again_at(offer.ramp.due_at(own_height), server_now)
                continue
            permit = here.permit(offer)
            if permit.granted:
                return offer
            if permit.reason is not Reason.NONE:
                self._say_why_waiting(offer, permit.reason)
        return None

    def _may_try(self, offer: Directive, server_now: float) -> bool:
        """Tell whether there is anything to do: not what runs already, nor what has failed here for good."""
        here = self._situation
        if here.running.manifest_digest == offer.manifest_digest:
            return False
        assert offer.campaign is not None
        update = here.last_of(offer.campaign)
        if update is None:
            return True
        if update.ended in NEVER_AGAIN or update.phase is Phase.CONFIRMED:
            return False
        if update.ended is State.FAILED:
            if update.attempt >= ATTEMPTS_MOST:
                return False
            if server_now < update.retry_at:
                self._look_again_at(update.retry_at, server_now)
                return False
        return update.attempt < ATTEMPT_NUMBER_MOST

    def _say_why_waiting(self, offer: Directive, reason: Reason) -> None:
        """Report ``due`` once for each reason: the time has come, and the device may not start."""
        assert offer.campaign is not None
        if (offer.campaign, reason) in self._told:
            return
        self._told.add((offer.campaign, reason))
        last = self._situation.last_of(offer.campaign)
        attempt = 1 if last is None else last.attempt + 1
        self._reports.add(
            State.DUE, campaign=offer.campaign, manifest_digest=offer.manifest_digest, attempt=attempt, reason=reason
        )
        self._situation.journal.emit(Note("refused", offer.campaign, reason=reason))

    def _look_again_at(self, time: float | None, server_now: float) -> None:
        if time is None:
            return
        at = self._situation.now + max(time - server_now, 0) + DUE_SLACK_S
        self.next_at = at if self.next_at is None else min(self.next_at, at)
