"""Which offer a device may start now, when it should look again, and what it says about having to wait."""

from typing import Final

from device_sim.agent.boot_environment import SlotState
from device_sim.agent.events import Note
from device_sim.agent.punctuality import Watch
from device_sim.agent.reports import Reports
from device_sim.agent.situation import Situation
from device_sim.agent.state import Phase
from server.domain.execution import ATTEMPTS_MOST, State
from server.domain.gate import height
from server.domain.identity import CampaignId
from server.protocol.orders import Directive
from server.protocol.reasons import Reason
from server.protocol.topics import Audience, DeviceAudience

ATTEMPT_NUMBER_MOST: Final = 255  # one byte on the wire
DUE_SLACK_S: Final = 0.05
"""The moment a line crosses a height is computed in floating point: look a little later."""
NEVER_AGAIN: Final = frozenset({State.ROLLED_BACK, State.REJECTED})
WATCHES_MOST: Final = 16


class Offers:
    """Asked whenever no update is under way."""

    def __init__(self, situation: Situation, reports: Reports) -> None:
        self._situation = situation
        self._reports = reports
        self._watches: dict[tuple[Audience, CampaignId], Watch] = {}
        self._told: dict[CampaignId, Reason] = {}
        self.next_at: float | None = None
        """When an offer becomes due, or a window opens (monotonic seconds), as of the last ``to_start``."""

    def to_start(self) -> Directive | None:
        """Return an offer that is due, is allowed, and was confirmed by this session's welcome."""
        here = self._situation
        self.next_at = None
        server_now = here.server_now
        offers = here.directives.offers()
        if server_now is None or here.running.state is not SlotState.CONFIRMED:
            offers = []
        self.look_away(but_at=frozenset((offer.audience, offer.campaign) for offer in offers))
        for offer in offers:
            assert server_now is not None
            if self._may_try(offer, server_now) and self._is_time(offer, server_now):
                return offer
        return None

    def look_away(self, *, but_at: frozenset[tuple[Audience, CampaignId | None]] = frozenset()) -> None:
        """Nothing may be started now of what is watched, but for these."""
        for offered, watch in self._watches.items():
            if offered not in but_at:
                watch.look_away(self._situation.now)

    def session_ended(self) -> None:
        """Whoever waits says so again in the next session."""
        self._told.clear()
        for watch in self._watches.values():
            watch.end()

    def _may_try(self, offer: Directive, server_now: float) -> bool:
        """Tell whether there is anything to do: not what runs already, nor what has failed here for good."""
        here = self._situation
        if here.running.manifest_digest == offer.manifest_digest or here.joined_too_late(offer):
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

    def _is_time(self, offer: Directive, server_now: float) -> bool:
        """Tell whether the level has crossed, the device may start, and is not late or was admitted."""
        here = self._situation
        assert offer.campaign is not None
        assert offer.ramp is not None
        permit = here.permit(offer)
        if permit.reason is Reason.OUTSIDE_WINDOW:
            self._look_again_at(here.next_look_at_windows(offer), server_now)
        watch = self._watch(offer.audience, offer.campaign)
        is_due = watch.look(offer.ramp, offer.counter, now=here.now, server_now=server_now, may_start=permit.granted)
        if not is_due:
            self._look_again_at(offer.ramp.due_at(height(offer.campaign, here.identity.device)), server_now)
            return False
        if not permit.granted:
            self._say_why_waiting(offer, permit.reason, permit.detail)
        elif (here.identity.wake_interval_s or watch.is_late(here.now)) and self._needs_admit(offer):
            self._say_why_waiting(offer, Reason.LATE)
        else:
            return True
        return False

    def _needs_admit(self, offer: Directive) -> bool:
        """Tell whether a device that is late, or that sleeps, must wait to be asked.

        Its own directive names it, and a started update goes on by itself.
        """
        here = self._situation
        assert offer.campaign is not None
        if isinstance(offer.audience, DeviceAudience) or here.last_of(offer.campaign) is not None:
            return False
        return not here.is_admitted(offer.campaign)

    def _watch(self, audience: Audience, campaign: CampaignId) -> Watch:
        if (audience, campaign) not in self._watches:
            if len(self._watches) >= WATCHES_MOST:
                del self._watches[next(iter(self._watches))]
            self._watches[audience, campaign] = Watch(height(campaign, self._situation.identity.device))
        return self._watches[audience, campaign]

    def _say_why_waiting(self, offer: Directive, reason: Reason, detail: str = "") -> None:
        """Report ``due`` once a session for each reason in turn: the time has come, and the device may not start."""
        assert offer.campaign is not None
        if reason is Reason.NONE or self._told.get(offer.campaign) is reason:
            return
        self._told[offer.campaign] = reason
        last = self._situation.last_of(offer.campaign)
        attempt = 1 if last is None else last.attempt + 1
        self._reports.add(
            State.DUE,
            campaign=offer.campaign,
            manifest_digest=offer.manifest_digest,
            attempt=attempt,
            reason=reason,
            detail=detail,
        )
        self._situation.journal.emit(Note("refused", offer.campaign, reason=reason, detail=detail))

    def _look_again_at(self, time: float | None, server_now: float) -> None:
        if time is None:
            return
        at = self._situation.now + max(time - server_now, 0) + DUE_SLACK_S
        self.next_at = at if self.next_at is None else min(self.next_at, at)
