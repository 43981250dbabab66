"""``/v1/devices/{id}/why``: why a device does not update, in one sentence and with every check behind it."""

from datetime import UTC, datetime

from pydantic import BaseModel, Field

from server.api.devices import named_device
from server.api.parameters import PATH
from server.api.routing import Call, Example, Model, route
from server.domain.identity import CampaignId
from server.services import identifiers
from server.services.tokens import Right
from server.services.why_facts import Outcome


class WhyQuery(Model):
    """In which campaign."""

    campaign: str | None = Field(
        None,
        pattern=PATH["campaign"].pattern,
        description="its id; without it, the campaign that is active where the device is, or was the last one",
    )


class CheckView(BaseModel):
    """One check. ``changes``: what would change it; ``at``: when that is expected, where somebody knows."""

    name: str
    outcome: Outcome
    says: str
    changes: str
    at: datetime | None


class WhyView(BaseModel):
    """``checks`` are in the order of decisiveness: the first that fails is what the sentence says.

    ``campaign`` is null where none is for the device's cohort and region.
    """

    device: str
    campaign: str | None
    campaign_name: str | None
    updating: bool
    sentence: str
    checks: list[CheckView]


@route("GET", "/v1/devices/{device}/why", right=Right.READ, query=WhyQuery, example=Example())
async def explain_device(call: Call[None, WhyQuery]) -> WhyView:
    """Say why a device does not update, or how far it is."""
    asked = call.query.campaign
    campaign = None if asked is None else CampaignId(identifiers.parse(identifiers.CAMPAIGN, asked))
    answer = await call.context.why.ask(named_device(call), campaign)
    found = answer.campaign
    return WhyView(
        device=answer.device,
        campaign=None if found is None else identifiers.show(identifiers.CAMPAIGN, found.id),
        campaign_name=None if found is None else found.name,
        updating=answer.is_updating,
        sentence=answer.sentence,
        checks=[
            CheckView(
                name=check.name,
                outcome=check.outcome,
                says=check.says,
                changes=check.changes,
                at=None if check.at is None else datetime.fromtimestamp(check.at, UTC),
            )
            for check in answer.checks
        ],
    )
