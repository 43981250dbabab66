"""``/v1/rehearsals``: campaigns in virtual time, on the fleet as it is. JSON lines: how far it is, then the report."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Literal

from aiohttp import web
from pydantic import Field

from server.api.delivery import deliver
from server.api.parameters import AnyPolicy, CohortName, RegionNames
from server.api.policies import resolved
from server.api.routing import Call, Example, Media, Model, route
from server.api.store import MEDIA_TYPE
from server.domain.identity import CampaignId
from server.domain.plan import Plan, Policy
from server.services import identifiers
from server.services.rehearsals import Rehearsal
from server.services.replay.rehearsal import BRICKED
from server.services.tokens import Right

LINES = Media(
    MEDIA_TYPE,
    "an object on each line, how far it is (`done`); the last says `complete` and has `effects`",
    shown='{"done": 3, "complete": false}\n',
)

EFFECTS_MOST: Final = 8
"""Bad releases of one rehearsal: each takes as long as a good one."""


class BadRelease(Model):
    """One that never lets a share of the devices return from its reboot."""

    kind: Literal["brick"] = "brick"
    share: float = Field(gt=0, le=1)


class RehearsalOf(Model):
    """``effects``: the bad releases that are played beside a good one."""

    effects: tuple[BadRelease, ...] = Field(
        tuple(BadRelease(share=share) for share in BRICKED), min_length=1, max_length=EFFECTS_MOST
    )

    @property
    def bricked(self) -> tuple[float, ...]:
        return tuple(effect.share for effect in self.effects)


class RehearsalDraft(RehearsalOf):
    """A campaign that need not be there, for every device of its regions. Without a plan the default one is taken."""

    cohort: CohortName
    regions: RegionNames
    plan: Plan | None = None
    policy: AnyPolicy = Policy()


@route(
    "POST",
    "/v1/rehearsals",
    right=Right.OPERATE,
    body=RehearsalDraft,
    gives=LINES,
    problems=(404, 409),
    example=Example(body={"cohort": "main", "regions": ["eu"], "effects": [{"kind": "brick", "share": 0.02}]}),
)
async def rehearse_draft(call: Call[RehearsalDraft]) -> web.StreamResponse:
    """Rehearse a campaign that is not there yet."""
    body = call.body
    policy, _ = await resolved(call, body.policy)
    prepared = await call.context.rehearsals.of_draft(
        body.cohort, body.regions, body.plan, policy, bricked=body.bricked
    )
    return await _answer(call, prepared)


@route(
    "POST",
    "/v1/campaigns/{campaign}/rehearse",
    right=Right.OPERATE,
    body=RehearsalOf,
    gives=LINES,
    problems=(409,),
)
async def rehearse_campaign(call: Call[RehearsalOf]) -> web.StreamResponse:
    """Rehearse a campaign as if it began now."""
    campaign = CampaignId(identifiers.parse(identifiers.CAMPAIGN, call.request.match_info["campaign"]))
    return await _answer(call, await call.context.rehearsals.of_campaign(campaign, bricked=call.body.bricked))


async def _answer(call: Call[Any], prepared: Rehearsal) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = MEDIA_TYPE
    async with aclosing(_lines(call, prepared)) as pieces:  # the process ends with its listener
        return await deliver(call.request, response, pieces)


async def _lines(call: Call[Any], prepared: Rehearsal) -> AsyncGenerator[bytes, None]:
    async with aclosing(call.context.rehearsals.run(prepared)) as lines:
        async for line in lines:
            yield json.dumps(line).encode() + b"\n"
