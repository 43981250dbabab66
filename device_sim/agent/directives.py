"""The directives in force for this device, its cohort's and its own, and what they order together.

A directive whose key has died, or whose epoch is over, orders nothing any more. But until its audience has been told
anew, what it offered is not cancelled and what it stopped does not go on: all of it is on hold.
"""

from types import MappingProxyType
from typing import Final, NamedTuple

from device_sim.agent.events import Note
from device_sim.agent.journal import Journal
from device_sim.agent.state import Held
from device_sim.agent.switch import REASONS
from device_sim.agent.trust import DEVICE_AUDIENCE, Identity, cohort_key, holds, open_directive, read_held
from device_sim.agent.trust_store import TrustStore
from server.domain.identity import CampaignId, Cohort, Region
from server.protocol.orders import Action, Directive, StatusRef
from server.protocol.reasons import Reason
from server.protocol.topics import CohortAudience


class Order(NamedTuple):
    """What all current directives together say of one release of one campaign."""

    action: Action
    keep_on_halt: bool = False
    because: Reason = Reason.NONE
    """Why, where it is not the action itself."""

    @property
    def reason(self) -> Reason:
        """What a report says about an update that this ended."""
        return self.because or REASONS.get(self.action, Reason.NONE)


class Directives:
    """Kept over restarts by the journal: counters for ever, documents for the audiences this device is in now."""

    def __init__(self, journal: Journal, *, identity: Identity, store: TrustStore) -> None:
        self._journal = journal
        self._identity = identity
        self._store = store
        self._current: dict[str, Directive] = {}
        self._void: dict[str, Directive] = {}
        self._orders: dict[tuple[CampaignId, bytes], Order] = {}
        """What was asked for since the last change: an agent asks anew at each event."""
        self.changes = 0
        """Rises whenever another directive is in force, renewals included."""
        self.recheck()

    def recheck(self) -> None:
        """Ask again who may sign: after a boot, and whenever root or status has changed."""
        state = self._journal.state
        self._changed()
        self._current.clear()
        self._void.clear()
        for audience in (DEVICE_AUDIENCE, cohort_key(state)):
            held = state.held.get(audience)
            directive = None if held is None else read_held(held)
            if held is not None and directive is not None:
                stands = holds(held, trust=self._store.trust, device=self._identity.device, state=state)
                (self._current if stands else self._void)[audience] = directive

    def accept(self, sealed: bytes) -> None:
        """Take a directive in, if it is one for this device and not an old one.

        The counter reaches the disk at once when the order changes. A mere renewal stays in memory until something is
        done on its strength, or renewals would wear the flash out; losing it lets nothing in but the same order.

        Raises:
            CodecError, TrustError: see ``open_directive``; nothing has changed.
        """
        audience, directive, fresh = open_directive(
            sealed, trust=self._store.trust, device=self._identity.device, state=self._journal.state
        )
        before = self._current.get(audience)
        self._changed()
        self._current[audience] = directive
        self._void.pop(audience, None)
        held = MappingProxyType({**self._journal.state.held, audience: fresh})
        if before is not None and _order(before) == _order(directive):
            self._journal.remember(held=held)
            return
        self._journal.update(held=held)
        self._journal.emit(Note(_NOTES[directive.action], directive.campaign))

    def move(self, to_region: Region, to_cohort: Cohort) -> None:
        """Follow the device to another region or cohort: its counters stay known, the old cohort's orders do not."""
        left = cohort_key(self._journal.state)
        self._changed()
        held = dict(self._journal.state.held)
        if left in held:
            held[left] = Held(held[left].counter, held[left].payload_digest)
        self._current.pop(left, None)
        self._void.pop(left, None)
        self._journal.update(region=to_region, cohort=to_cohort, held=MappingProxyType(held))

    def order(self, campaign: CampaignId, manifest_digest: bytes) -> Order:
        """Return the most restrictive order there is for a release of a campaign; ``none`` when nothing names it.

        A release on any list of halted ones is halted: so a device that slept through a halt still learns of it. Its
        rollback, which most often follows a halt, asks for all that a halt does and more, and is not weakened by it.
        """
        asked = (campaign, manifest_digest)
        known = self._orders.get(asked)
        if known is None:
            known = self._orders[asked] = self._strongest(campaign, manifest_digest)
        return known

    def is_halted(self, manifest_digest: bytes) -> bool:
        """Tell whether a current directive lists the release as halted."""
        return any(manifest_digest in directive.halted for directive in self._current.values())

    @property
    def named_statuses(self) -> list[StatusRef]:
        """The status documents that the current directives were signed under."""
        return [directive.status for directive in self._current.values() if directive.status is not None]

    @property
    def issued(self) -> int:
        """When the newest of the current directives was signed (Unix seconds): it is no earlier now."""
        return max((directive.issued for directive in self._current.values()), default=0)

    def offers(self) -> list[Directive]:
        """Return the offers that nothing more restrictive speaks against, the device's own before its cohort's."""
        offers = [
            directive
            for directive in self._current.values()
            if directive.action is Action.OFFER
            and directive.campaign is not None
            and self.order(directive.campaign, directive.manifest_digest).action is Action.OFFER
        ]
        return sorted(offers, key=lambda offer: isinstance(offer.audience, CohortAudience))

    def offer(self, campaign: CampaignId, manifest_digest: bytes) -> Directive | None:
        """Return the offer of this release of this campaign that is in force, if there is one."""
        named = (campaign, manifest_digest)
        return next((one for one in self.offers() if (one.campaign, one.manifest_digest) == named), None)

    def _changed(self) -> None:
        """Call it before ``_current`` or ``_void`` changes: what follows from them is worked out anew."""
        self.changes += 1
        self._orders.clear()

    def _strongest(self, campaign: CampaignId, manifest_digest: bytes) -> Order:
        orders = [
            Order(directive.action, directive.keep_on_halt)
            for directive in self._current.values()
            if _names(directive, campaign, manifest_digest)
        ]
        strongest = max(orders, key=lambda order: order.action, default=Order(Action.NONE))
        if strongest.action < Action.ROLLBACK and self.is_halted(manifest_digest):
            return Order(Action.HALT)
        if strongest.action < Action.HOLD and self._awaits_word_on(campaign, manifest_digest, or_offered=not orders):
            return Order(Action.HOLD)
        return strongest

    def _awaits_word_on(self, campaign: CampaignId, manifest_digest: bytes, *, or_offered: bool) -> bool:
        """Tell whether a directive that is void spoke of this release: against it, or (``or_offered``) at all."""
        return any(
            manifest_digest in directive.halted
            or (_names(directive, campaign, manifest_digest) and (or_offered or directive.action is not Action.OFFER))
            for directive in self._void.values()
        )


_NOTES: Final = MappingProxyType(
    {
        Action.NONE: "none_received",
        Action.OFFER: "offered",
        Action.HOLD: "hold_received",
        Action.ROLLBACK: "rollback_received",
        Action.HALT: "halt_received",
    }
)


def _names(directive: Directive, campaign: CampaignId, manifest_digest: bytes) -> bool:
    """Offers are for one release; anything else is for whatever the campaign has brought here."""
    if directive.campaign != campaign:
        return False
    return directive.action is not Action.OFFER or directive.manifest_digest == manifest_digest


def _order(directive: Directive) -> tuple[object, ...]:
    return (
        directive.action,
        directive.campaign,
        directive.manifest_digest,
        directive.keep_on_halt,
        directive.halted,
        directive.status,
        directive.members_before,
        directive.windows,
        directive.reboots_admitted,
    )
