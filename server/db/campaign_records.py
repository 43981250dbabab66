"""What is kept of a campaign, its regions and its decisions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from server.db.approvals import ApprovalRecord
from server.domain.campaign import Cause, Membership, State
from server.domain.consent import Answer, Awaited
from server.domain.gate import Ramp
from server.domain.identity import BundleId, CampaignId, Cohort, DeviceId, Region
from server.domain.plan import Plan, Policy
from server.protocol.sources import Transport

_AT_ZERO: Final = Ramp.flat(0)


@dataclass(frozen=True, slots=True)
class RegionRecord:
    """The level of one region, and the line that the plan has for it since its wave opened."""

    region: Region
    ramp: Ramp = _AT_ZERO
    planned: Ramp = _AT_ZERO
    opened_at: datetime | None = None

    @property
    def target(self) -> int:
        """The level that the wave is for."""
        return self.planned.l1


@dataclass(frozen=True, slots=True)
class CampaignRecord:
    """One campaign; ``wave`` counts from 0 and is None until the first has opened.

    ``run_at``: when the present run began. ``emergency``: why it was started without approval, freeze and soak; empty
    where it was not. ``approvals`` are those of all runs. ``awaits``: whose word the open wave's gate waits for, which
    ``sentence`` says in words; ``advanced``: the wave that a person has let through in this run;
    ``answer``: the last one of its webhook. ``transport``: how devices fetch first, None while that is not decided.
    ``policy_from``: which named policy ``policy`` was when it was drafted (name@version); empty: none.
    """

    id: CampaignId
    name: str
    cohort: Cohort
    bundle_id: BundleId
    plan: Plan
    policy: Policy
    reason: str
    created_by: str
    created_at: datetime
    regions: tuple[RegionRecord, ...]
    state: State = State.DRAFT
    causes: frozenset[Cause] = frozenset()
    run: int = 1
    started_at: datetime | None = None
    watching_since: datetime | None = None
    ended_at: datetime | None = None
    halted_at: datetime | None = None
    wave: int | None = None
    blobs_ready: bool = False
    sentence: str = ""
    revision: int = 1
    membership: Membership = Membership.DYNAMIC
    emergency: str = ""
    run_at: datetime | None = None
    rolling_since: datetime | None = None
    approvals: tuple[ApprovalRecord, ...] = ()
    awaits: Awaited = Awaited.NOBODY
    advanced: int | None = None
    answer: Answer | None = None
    transport: Transport | None = None
    policy_from: str = ""

    @property
    def members_before(self) -> int | None:
        """Devices that joined the cohort then (Unix seconds) or later are not of this campaign; None where all are."""
        if self.membership is Membership.DYNAMIC or self.started_at is None:
            return None
        return math.ceil(self.started_at.timestamp())

    @property
    def named(self) -> frozenset[DeviceId]:
        """The devices that the open wave, and those before it, let in by name."""
        return frozenset() if self.wave is None else self.plan.named(self.wave + 1)

    @property
    def effective_plan(self) -> Plan:
        """The plan as it is carried out: an emergency does not soak."""
        return self.plan.without_soak() if self.emergency else self.plan


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """Why a campaign changed: who decided, the sentence, and the numbers it was decided on.

    ``run`` is the campaign's at that moment, ``number`` what it is stored under; what is given here does not count.
    """

    at: datetime
    kind: str
    actor: str
    sentence: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    run: int = 1
    number: int = field(default=0, compare=False)
