"""What a change of a campaign leaves behind beside its decision: a row of the audit, and an event."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from server.db import audit, outbox
from server.db.audit import Entry, Evidence
from server.db.campaign_records import CampaignRecord, DecisionRecord
from server.db.database import Connection
from server.domain.events import Event, EventType
from server.domain.identity import BUNDLE, CAMPAIGN, show

STATES: Final = "SELECT state, count(*) FROM execution WHERE campaign_id = $1 GROUP BY state"

TOLD: Final[Mapping[str, EventType]] = MappingProxyType(
    {
        "submit": EventType.CAMPAIGN_SUBMITTED,
        "approve": EventType.CAMPAIGN_APPROVED,
        "start": EventType.CAMPAIGN_STARTED,
        "open_wave": EventType.CAMPAIGN_WAVE_OPENED,
        "wait": EventType.CAMPAIGN_WAITING,
        "advance": EventType.CAMPAIGN_ADVANCED,
        "pause": EventType.CAMPAIGN_PAUSED,
        "resume": EventType.CAMPAIGN_RESUMED,
        "unpause": EventType.CAMPAIGN_RESUMED,
        "halt": EventType.CAMPAIGN_HALTED,
        "complete": EventType.CAMPAIGN_WATCHING,
        "finish": EventType.CAMPAIGN_FINISHED,
        "rollback": EventType.CAMPAIGN_ROLLING_BACK,
        "return": EventType.CAMPAIGN_ROLLED_BACK,
        "cancel": EventType.CAMPAIGN_CANCELLED,
    }
)
"""What a decision of a kind is told as; what devices fetch from ("transport") is told to nobody."""

COUNTED: Final = frozenset({EventType.CAMPAIGN_WATCHING, EventType.CAMPAIGN_FINISHED, EventType.CAMPAIGN_ROLLED_BACK})
"""Told once or twice in a campaign's life, with a count of all its executions."""


async def leave_draft(connection: Connection, campaign: CampaignRecord) -> None:
    """Say, in the caller's transaction, that it was drafted."""
    await audit.write(connection, _drafted(campaign))
    told = {"who": campaign.created_by, "sentence": campaign.reason}
    await outbox.put(connection, _event(EventType.CAMPAIGN_CREATED, campaign, campaign.created_at, told))


async def leave_decision(
    connection: Connection, campaign: CampaignRecord, decision: DecisionRecord, before: Any, evidence: Evidence
) -> None:
    """Say, in the caller's transaction, what was decided; ``before``: its state, causes, run and wave until then."""
    await audit.write(connection, _decided(campaign, decision, before, evidence))
    kind = TOLD.get(decision.kind)
    if kind is None:
        return
    told: dict[str, object] = {"who": decision.actor, "sentence": decision.sentence, "before": str(before["state"])}
    if kind in COUNTED:
        told["devices"] = {row["state"]: row["count"] for row in await connection.fetch(STATES, campaign.id)}
    await outbox.put(connection, _event(kind, campaign, decision.at, told))


def _event(kind: EventType, campaign: CampaignRecord, at: datetime, told: Mapping[str, object]) -> Event:
    regions = tuple(region.region for region in campaign.regions)
    data = {
        "name": campaign.name,
        "bundle": show(BUNDLE, campaign.bundle_id),
        "cohort": campaign.cohort,
        "regions": regions,
        "state": campaign.state,
        "causes": sorted(campaign.causes),
        "run": campaign.run,
        "wave": None if campaign.wave is None else campaign.wave + 1,
        **told,
    }
    return Event(kind, show(CAMPAIGN, campaign.id), at, data, campaign.id, regions, campaign.cohort)


def _drafted(campaign: CampaignRecord) -> Entry:
    return Entry(
        "campaign.create",
        show(CAMPAIGN, campaign.id),
        campaign.created_at,
        who=campaign.created_by,
        after={
            "name": campaign.name,
            "cohort": campaign.cohort,
            "regions": [region.region for region in campaign.regions],
            "bundle": show(BUNDLE, campaign.bundle_id),
            "membership": campaign.membership,
            "plan": campaign.plan.model_dump(mode="json"),
            "policy": campaign.policy.model_dump(mode="json"),
            "policy_from": campaign.policy_from,
        },
        reason=campaign.reason,
    )


def _decided(campaign: CampaignRecord, decision: DecisionRecord, before: Any, evidence: Evidence) -> Entry:
    after = {"state": campaign.state, "causes": sorted(campaign.causes), "run": campaign.run, "wave": campaign.wave}
    return Entry(
        f"campaign.{decision.kind}",
        show(CAMPAIGN, campaign.id),
        decision.at,
        who=decision.actor,
        before=dict(before),
        after=after | ({"emergency": campaign.emergency} if campaign.emergency else {}),
        reason=decision.sentence,
        evidence=evidence,
    )
