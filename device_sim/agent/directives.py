"""The directives in force for this device, its cohort's and its own, and what they order together."""

from types import MappingProxyType
from typing import NamedTuple

from device_sim.agent.events import Note
from device_sim.agent.journal import Journal
from device_sim.agent.state import Held
from device_sim.agent.trust import DEVICE_AUDIENCE, Identity, cohort_key, open_directive, reopen_directive
from firmware_store.root import Root
from server.domain.identity import CampaignId, Cohort, Region
from server.protocol.orders import Action, Directive
from server.protocol.topics import CohortAudience


class Order(NamedTuple):
    """What all current directives together say of one release of one campaign."""

    action: Action
    keep_on_halt: bool = False


class Directives:
    """Kept over restarts by the journal: counters for ever, documents for the audiences this device is in now."""

    def __init__(self, journal: Journal, *, identity: Identity, root: Root) -> None:
        self._journal = journal
        self._identity = identity
        self._root = root
        self._current: dict[str, Directive] = {}
        for audience in (DEVICE_AUDIENCE, cohort_key(journal.state)):
            held = journal.state.held.get(audience)
            if held is not None:
                stored = reopen_directive(held, root=root, device=identity.device, state=journal.state)
                if stored is not None:
                    self._current[audience] = stored

    def accept(self, sealed: bytes) -> None:
        """Take a directive in, if it is one for this device and not an old one.

        The counter reaches the disk at once when the order changes. A mere renewal stays in memory until something is
        done on its strength, or renewals would wear the flash out; losing it lets nothing in but the same order.

        Raises:
            CodecError, TrustError: see ``open_directive``; nothing has changed.
        """
        audience, directive, fresh = open_directive(
            sealed, root=self._root, device=self._identity.device, state=self._journal.state
        )
        before = self._current.get(audience)
        self._current[audience] = directive
        held = MappingProxyType({**self._journal.state.held, audience: fresh})
        if before is not None and _order(before) == _order(directive):
            self._journal.remember(held=held)
            return
        self._journal.update(held=held)
        self._journal.emit(Note(_NOTES[directive.action], directive.campaign))

    def move(self, to_region: Region, to_cohort: Cohort) -> None:
        """Follow the device to another region or cohort: its counters stay known, the old cohort's orders do not."""
        left = cohort_key(self._journal.state)
        held = dict(self._journal.state.held)
        if left in held:
            held[left] = Held(held[left].counter, held[left].payload_digest)
        self._current.pop(left, None)
        self._journal.update(region=to_region, cohort=to_cohort, held=MappingProxyType(held))

    def order(self, campaign: CampaignId, manifest_digest: bytes) -> Order:
        """Return the most restrictive order there is for a release of a campaign; ``none`` when nothing names it.

        A release on any list of halted ones is halted: so a device that slept through a halt still learns of it.
        """
        orders = [
            Order(directive.action, directive.keep_on_halt)
            for directive in self._current.values()
            if directive.campaign == campaign
            and (directive.action is not Action.OFFER or directive.manifest_digest == manifest_digest)
        ]
        strongest = max(orders, key=lambda order: order.action, default=Order(Action.NONE))
        if strongest.action is not Action.HALT and self.is_halted(manifest_digest):
            return Order(Action.HALT)
        return strongest

    def is_halted(self, manifest_digest: bytes) -> bool:
        """Tell whether a current directive lists the release as halted."""
        return any(manifest_digest in directive.halted for directive in self._current.values())

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


_NOTES = MappingProxyType(
    {
        Action.NONE: "none_received",
        Action.OFFER: "offered",
        Action.HOLD: "hold_received",
        Action.ROLLBACK: "rollback_received",
        Action.HALT: "halt_received",
    }
)


def _order(directive: Directive) -> tuple[object, ...]:
    return (
        directive.action,
        directive.campaign,
        directive.manifest_digest,
        directive.keep_on_halt,
        directive.halted,
    )
