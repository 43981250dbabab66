"""``/v1/campaigns/{id}/explain``: why a campaign is where it is, and what would move it."""

from datetime import UTC, datetime

from pydantic import BaseModel

from server.api.routing import Call, route
from server.domain.campaign import Cause, State
from server.domain.identity import CampaignId
from server.services import identifiers
from server.services.explain import Explanation
from server.services.tokens import Right


class OutlookView(BaseModel):
    """What the halt rule knows. ``odds`` against bad luck: it brakes at ``brake_at`` and halts at ``halt_at``.

    Of ``judged`` devices, comparable ones explain ``expected`` silent ones. ``failed`` and ``succeeded`` say so
    themselves. ``until_brake``, ``until_halt``: so many updated devices, one after the other and none of their
    comparable ones, would have to go dark; null: more than 30. After ``brake_budget_seconds`` of braking a person is
    asked.
    """

    call: str
    odds: float
    brake_at: float
    halt_at: float
    why: str
    in_flight: int
    judged: int
    expected: float
    failed: int
    succeeded: int
    explicit_odds: float
    until_brake: int | None
    until_halt: int | None
    braked_seconds: float
    brake_budget_seconds: float
    weather_known: bool
    bad_weather: list[str]
    room: int | None


class StepView(BaseModel):
    """A wave that is open or ahead, by its plan alone: when it opens, is at its target, and has soaked."""

    wave: int
    target: str
    opens_at: datetime
    risen_at: datetime
    through_at: datetime


class ExplanationView(BaseModel):
    """``next_at`` and the times of ``steps`` are the earliest ones: gates, evidence and weather may take longer.

    ``halt`` is null where the halt rule does not look at the campaign, or the caller sees a part of the fleet only.
    """

    campaign: str
    name: str
    state: State
    causes: list[Cause]
    sentence: str
    waits_for: list[str]
    next: str
    next_at: datetime | None
    halt: OutlookView | None
    steps: list[StepView]


@route("GET", "/v1/campaigns/{campaign}/explain", right=Right.READ)
async def explain_campaign(call: Call[None]) -> ExplanationView:
    """Say why a campaign is where it is, what it waits for, and what comes next."""
    campaign = CampaignId(identifiers.parse(identifiers.CAMPAIGN, call.request.match_info["campaign"]))
    return _view(await call.context.explain.ask(campaign))


def _view(found: Explanation) -> ExplanationView:
    record, halt = found.campaign, found.halt
    return ExplanationView(
        campaign=identifiers.show(identifiers.CAMPAIGN, record.id),
        name=record.name,
        state=record.state,
        causes=sorted(record.causes),
        sentence=found.sentence,
        waits_for=list(found.waits_for),
        next=found.next,
        next_at=None if found.next_at is None else _moment(found.next_at),
        halt=None
        if halt is None
        else OutlookView(
            call=halt.call,
            odds=halt.odds,
            brake_at=halt.brake_at,
            halt_at=halt.halt_at,
            why=halt.why,
            in_flight=halt.in_flight,
            judged=halt.judged,
            expected=halt.expected,
            failed=halt.failed,
            succeeded=halt.succeeded,
            explicit_odds=halt.explicit_odds,
            until_brake=halt.until_brake,
            until_halt=halt.until_halt,
            braked_seconds=halt.braked_s,
            brake_budget_seconds=halt.brake_budget_s,
            weather_known=halt.is_weather_known,
            bad_weather=list(halt.bad_weather),
            room=halt.room,
        ),
        steps=[
            StepView(
                wave=step.wave + 1,
                target=record.plan.waves[step.wave].target,
                opens_at=_moment(step.opens_at),
                risen_at=_moment(step.risen_at),
                through_at=_moment(step.through_at),
            )
            for step in found.steps
        ],
    )


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
