"""What a virtual broker retains for each region of the fleet: the directive in force, really signed."""

from dataclasses import dataclass, replace
from typing import Final

from device_sim.virtual.authority import Authority
from device_sim.virtual.campaign import VirtualCampaign
from server.db.campaign_records import RegionRecord
from server.domain.gate import DEAD_MAN_S
from server.domain.identity import Cohort
from server.protocol.messages import Counter
from server.protocol.orders import Action, Deadlines, Directive
from server.protocol.topics import CohortAudience
from server.services.directives import RENEW_S

COHORT: Final = Cohort("lab")


@dataclass(frozen=True, slots=True)
class Order:
    """One directive, and its signed bytes.

    ``said_since``: the counter from which on the same has been said, with one stretch of the line after the other.
    """

    directive: Directive
    sealed: bytes
    said_since: int

    @property
    def is_news(self) -> bool:
        """It is more than another stretch of the line."""
        return self.said_since == self.counter.counter

    @property
    def counter(self) -> Counter:
        return self.directive.counter


class Orders:
    """Level-triggered: ``renew`` compares what is retained with what should be."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._current: dict[str, Order] = {}
        self._halted: dict[str, frozenset[bytes]] = {}

    def of(self, region: str) -> Order | None:
        """Return what a region is told; None before its first order."""
        return self._current.get(region)

    def counter(self, region: str) -> Counter:
        order = self._current.get(region)
        return Counter() if order is None else order.counter

    def renew(self, campaign: VirtualCampaign, now: float, *, within_s: float) -> list[tuple[str, Order]]:
        """Return the orders that are new at ``now`` (Unix seconds); the next look is in ``within_s``."""
        found: list[tuple[str, Order]] = []
        for region in campaign.record.regions:
            if campaign.hears(region) and self._is_stale(campaign, region, now, within_s=within_s):
                found.append((region.region, self._say(campaign, region, now)))
        return found

    def _is_stale(self, campaign: VirtualCampaign, region: RegionRecord, now: float, *, within_s: float) -> bool:
        known = self._current.get(region.region)
        if known is None or known.directive.action is not campaign.action:
            return True
        if known.directive.campaign != campaign.id:
            return campaign.action is not Action.NONE
        if campaign.action is not Action.OFFER:
            return False
        published, line = known.directive.ramp, region.ramp
        assert published is not None
        rising = published.t1 < line.t1 and published.t1 - now < RENEW_S + within_s
        stopped = line.t1 < published.t1
        half_s = campaign.order.policy.offer_s / 2
        return rising or stopped or known.directive.expires - now < half_s

    def _say(self, campaign: VirtualCampaign, region: RegionRecord, now: float) -> Order:
        action, release, policy = campaign.action, campaign.release, campaign.order.policy
        known = self._current.get(region.region)
        before = Counter() if known is None else known.counter
        issued = int(now)
        if action is Action.HALT:
            halted = self._halted.get(region.region, frozenset()) | {release.manifest_digest}
            self._halted[region.region] = halted
        directive = Directive(
            fleet=self._authority.root.fleet,
            audience=CohortAudience(region.region, COHORT),
            counter=Counter(1, max(before.counter + 1, int(now * 1000))),
            issued=issued,
            expires=issued + policy.offer_s,
            action=Action.NONE,
            halted=tuple(sorted(self._halted.get(region.region, ()))),
        )
        if action is not Action.NONE:
            directive = replace(
                directive,
                action=action,
                campaign=campaign.id,
                manifest_digest=release.manifest_digest,
                sequence_number=release.sequence_number,
                envelope=release.envelope,
                ramp=region.ramp.until(issued + DEAD_MAN_S) if action is Action.OFFER else None,
                deadlines=Deadlines(policy.download_s, policy.trial_s, policy.confirm_s),
                keep_on_halt=policy.on_halt == "keep",
                windows=policy.device_windows,
            )
        is_same = known is not None and _says(known.directive) == _says(directive)
        since = known.said_since if known is not None and is_same else directive.counter.counter
        order = self._current[region.region] = Order(directive, self._authority.sign_directive(directive), since)
        return order


def _says(directive: Directive) -> tuple[Action, object]:
    return directive.action, directive.campaign
