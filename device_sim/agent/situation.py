"""What the parts of the agent's core share: who the device is, what it runs, what it was told, and the time."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from device_sim.agent.boot_environment import SlotInfo
from device_sim.agent.directives import Directives, Order
from device_sim.agent.events import Note, Obstacle
from device_sim.agent.journal import Journal
from device_sim.agent.state import PAST_MOST, AgentState, Phase, Update
from device_sim.agent.trust import (
    DEVICE_AUDIENCE,
    Identity,
    Trust,
    check_at_work,
    check_not_revoked,
    check_offer_time,
    check_sequence,
    cohort_key,
    own_floor,
    reason_of,
)
from device_sim.agent.trust_store import TrustStore
from firmware_store.errors import TrustError
from server.domain.identity import CampaignId
from server.domain.windows import fits, needed_s, next_opening
from server.protocol.messages import Counter
from server.protocol.orders import Action, Directive, Welcome
from server.protocol.reasons import Reason
from server.protocol.topics import Topics

WINDOWS_AGAIN_S: Final = 3600.0
"""Look at closed windows so often, though none should open: the offset from UTC may have changed."""


class Permit(NamedTuple):
    """Whether a device may start or activate now; ``reason`` is set where more than a welcome is missing."""

    granted: bool
    reason: Reason = Reason.NONE
    detail: str = ""


@dataclass(slots=True)
class Situation:
    """Mutable, and owned by the core; ``now`` and ``booted_at`` are monotonic seconds."""

    identity: Identity
    store: TrustStore
    topics: Topics
    rng: random.Random
    boot_id: bytes
    journal: Journal
    directives: Directives
    slots: tuple[SlotInfo, ...]
    booted: str
    booted_at: float
    now: float
    is_up: bool = False
    welcome: Welcome | None = None
    """The welcome of the present session; None from its beginning, and while there is none."""
    clock_offset: float | None = None
    """Server time minus monotonic time, by the latest welcome of this boot."""
    latest_offset: float | None = None
    """The highest ``clock_offset`` of this boot: what has expired once does not become valid again."""
    is_trust_late: bool = False
    """A root or a status that was announced has not come in good time."""
    has_http: bool = False
    """The platform has an HTTP client."""
    codecs: frozenset[str] = frozenset()
    """Of deltas, those that the platform can apply."""
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of HTTP requests: none comes twice in a boot."""
    obstacle: Obstacle | None = None
    """What on the device itself keeps it from starting and activating."""
    refusals: int = 0

    @property
    def trust(self) -> Trust:
        return self.store.trust

    @property
    def state(self) -> AgentState:
        return self.journal.state

    @property
    def update(self) -> Update | None:
        return self.journal.state.update

    def last_of(self, campaign: CampaignId) -> Update | None:
        """The last attempt of a campaign on this device."""
        known = (*self.state.past, *([] if self.update is None else [self.update]))
        return next((update for update in reversed(known) if update.campaign == campaign), None)

    def take_up(self, update: Update) -> None:
        """Make ``update`` the current one; the one before it joins the past."""
        known = (*self.state.past, *([] if self.update is None else [self.update]))
        others = tuple(one for one in known if one.campaign != update.campaign)
        self.journal.update(update=update, past=others[-PAST_MOST:])

    @property
    def confirmed_here(self) -> Update | None:
        """The update that brought the running release, if one did and was confirmed."""
        known = (*self.state.past, *([] if self.update is None else [self.update]))
        digest = self.running.manifest_digest
        confirmed = (one for one in known if one.phase is Phase.CONFIRMED and one.manifest_digest == digest)
        return next(confirmed, None)

    @property
    def server_now(self) -> float | None:
        """Unix seconds by the server's clock, or None before the first welcome of this boot."""
        return None if self.clock_offset is None else self.clock_offset + self.now

    def slot(self, name: str) -> SlotInfo | None:
        return next((slot for slot in self.slots if slot.name == name), None)

    @property
    def running(self) -> SlotInfo:
        """The slot that runs."""
        running = self.slot(self.booted)
        assert running is not None
        return running

    def counter(self, audience: str) -> Counter:
        """The counter held for an audience; zero where there never was a directive."""
        held = self.state.held.get(audience)
        return Counter() if held is None else held.counter

    def permit(self, offer: Directive) -> Permit:
        """Ask this before starting and before activating: a fresh welcome, no hold, nothing missing or expired."""
        welcome, server_now = self.welcome, self.server_now
        if not self.is_up or welcome is None or server_now is None or self.lags(welcome):
            return Permit(False)
        if welcome.held:
            return Permit(False, Reason.HELD)
        if self.lacks_root(welcome) or self.lacks_status(welcome):
            return Permit(False, Reason.TRUST_BEHIND if self.is_trust_late else Reason.NONE)
        try:
            check_offer_time(offer, self.trust, server_now)
            check_offer_time(offer, self.trust, max(server_now, self._least_now))
        except TrustError as exc:
            return Permit(False, reason_of(exc))
        needs_s = needed_s(offer.deadlines.trial_s)
        for windows in (offer.windows, self.identity.windows):
            if not fits(windows, server_now, utc_offset_minutes=self._utc_offset_minutes, needed_s=needs_s):
                return Permit(False, Reason.OUTSIDE_WINDOW)
        if self.obstacle is not None:
            return Permit(False, self.obstacle.reason, self.obstacle.detail)
        return Permit(True)

    def next_look_at_windows(self, offer: Directive) -> float | None:
        """Return when to ask again for a permit that was refused outside of the offer's windows (Unix seconds)."""
        server_now = self.server_now
        if server_now is None:
            return None
        openings = [
            opening
            for windows in (offer.windows, self.identity.windows)
            if (opening := next_opening(windows, server_now, utc_offset_minutes=self._utc_offset_minutes)) is not None
        ]
        return min((*openings, server_now + WINDOWS_AGAIN_S))

    def is_admitted(self, campaign: CampaignId) -> bool:
        """Tell whether the welcome of this session lets a late device start the campaign now."""
        admit = None if self.welcome is None else self.welcome.admit
        server_now = self.server_now
        return admit is not None and server_now is not None and admit.campaign == campaign and server_now < admit.until

    def may_reboot(self, offer: Directive) -> bool:
        """Tell whether the device may reboot into what was offered as far as its neighbours are concerned.

        Where reboots are admitted, the welcome of this session has to name the campaign.
        """
        if not offer.reboots_admitted:
            return True
        admit = None if self.welcome is None else self.welcome.reboot
        server_now = self.server_now
        return (
            admit is not None
            and server_now is not None
            and admit.campaign == offer.campaign
            and server_now < admit.until
        )

    def joined_too_late(self, offer: Directive) -> bool:
        """Tell whether the offer is for those who were in the cohort before this device."""
        if offer.members_before is None or self.welcome is None:
            return False
        return self.welcome.member_since >= offer.members_before

    @property
    def _utc_offset_minutes(self) -> int:
        """The device's own, else what the server says of it, else none."""
        if self.identity.utc_offset_minutes is not None:
            return self.identity.utc_offset_minutes
        told = None if self.welcome is None else self.welcome.utc_offset_minutes
        return 0 if told is None else told

    @property
    def _least_now(self) -> float:
        """Unix seconds that have passed for certain, whatever a welcome says: the clock is turned back by nobody.

        By the signed documents that are held, and by the welcomes of this boot. The latter are not stored: a server
        whose clock was a year ahead for a minute would else stop its fleet for that year.
        """
        signed = max(self.trust.issued, self.directives.issued)
        return signed if self.latest_offset is None else max(signed, self.latest_offset + self.now)

    def lags(self, welcome: Welcome) -> tuple[str, ...]:
        """The audiences whose current directive, according to ``welcome``, has not arrived yet."""
        told = {cohort_key(self.state): welcome.cohort_counter, DEVICE_AUDIENCE: welcome.device_counter}
        return tuple(audience for audience, counter in told.items() if self.counter(audience) < counter)

    def lacks_root(self, welcome: Welcome) -> bool:
        """Tell whether the server knows a newer root."""
        return self.trust.root.version < welcome.root_version

    def lacks_status(self, welcome: Welcome) -> bool:
        """Tell whether the server, or a directive, knows a newer status, or the one there was holds no longer."""
        status = self.trust.status
        return (
            (0 if status is None else status.version) < welcome.status_version
            or self.store.is_status_missing
            or not all(map(self.store.has_status, self.directives.named_statuses))
        )

    @property
    def floor(self) -> int:
        """The lowest sequence number that root and status let this hardware run."""
        return own_floor(self.trust, self.identity)

    def is_revoked(self, manifest_digest: bytes) -> bool:
        status = self.trust.status
        return status is not None and manifest_digest in status.revoked_digests

    def check_release(self, number: int, digest: bytes) -> None:
        """Check what an offer says of its release, before anything of it is fetched.

        Raises:
            RollbackError, RevokedError: it may not run here, or not any more.
        """
        check_not_revoked(digest, self.trust)
        check_sequence(number, digest, trust=self.trust, identity=self.identity, state=self.state)

    def order(self, update: Update) -> Order:
        """Return what is ordered for an update at work. What the trust documents take back is halted, for good."""
        order = self.directives.order(update.campaign, update.manifest_digest)
        try:
            check_at_work(update, trust=self.trust, identity=self.identity, state=self.state)
        except TrustError as exc:
            return Order(Action.HALT, because=reason_of(exc))
        return order

    def note(self, event: str, reason: Reason = Reason.NONE, detail: str = "") -> None:
        """Write a fact about the current update into the device's log."""
        update = self.update
        if update is None:
            self.journal.emit(Note(event, slot=self.booted, reason=reason, detail=detail))
            return
        slot = update.slot or self.booted
        self.journal.emit(Note(event, update.campaign, update.version, slot, reason, detail))
