"""``/v1/policies``: policies under a name, for campaigns to refer to. A version, once published, stays as it is."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from server.api.conditions import policy_tag
from server.api.lists import Page, PageQuery, begin_page, end_page
from server.api.parameters import PATH, AnyPolicy, Digits, PolicyName, Reason
from server.api.routing import Call, Example, Model, route
from server.db.policies import PolicyRecord
from server.domain.campaign import NO_REASON
from server.domain.plan import Policy
from server.services.tokens import Right

_CAREFUL: Final = {"approvals": 2, "largest_step": 0.25}


class PolicyPublish(Model):
    """What a policy does not say has its default."""

    policy: Policy
    reason: Reason = NO_REASON


class PolicyAdd(PolicyPublish):
    """The first version of a policy."""

    name: PolicyName


class PolicyView(BaseModel):
    """One version of a policy; versions count from 1."""

    name: str
    version: int
    policy: Policy
    reason: str
    created_by: str
    created_at: datetime


class PolicyList(Page):
    policies: list[PolicyView]


class VersionQuery(Model):
    """Which version."""

    version: Annotated[int | None, Field(ge=1, le=999_999_999), Digits] = Field(
        None, description="that one; without it, the newest"
    )


@route(
    "POST",
    "/v1/policies",
    right=Right.ADMINISTER,
    body=PolicyAdd,
    status=201,
    problems=(409,),
    example=Example(body={"name": PATH["policy"].example, "policy": _CAREFUL}),
)
async def add_policy(call: Call[PolicyAdd]) -> PolicyView:
    """Keep a policy under a name."""
    return _answered(call, await call.context.policies.add(_record(call, call.body.name, call.body)))


@route("GET", "/v1/policies", right=Right.READ, query=PageQuery)
async def list_policies(call: Call[None, PageQuery]) -> PolicyList:
    """List policies by their names, each in its newest version."""
    after = begin_page(call, "policies", str) or ""
    records = await call.context.policies.page(after=after, limit=call.query.limit)
    following = end_page(call, "policies", records, lambda record: record.name)
    return PolicyList(policies=[_view(record) for record in records], next=following)


@route("GET", "/v1/policies/{policy}", right=Right.READ, query=VersionQuery)
async def get_policy(call: Call[None, VersionQuery]) -> PolicyView:
    """Get a policy, in its newest version or another one."""
    return _answered(call, await call.context.policies.get(_named(call), call.query.version))


@route(
    "PUT",
    "/v1/policies/{policy}",
    right=Right.ADMINISTER,
    body=PolicyPublish,
    matched=True,
    problems=(409,),
    example=Example(body={"policy": _CAREFUL, "reason": "after the last one"}),
)
async def publish_policy(call: Call[PolicyPublish]) -> PolicyView:
    """Publish the next version of a policy; campaigns that there are keep theirs."""
    record = _record(call, _named(call), call.body)
    return _answered(call, await call.context.policies.add(record, seen=call.match.policy))


async def resolved(call: Call[Any, Any], policy: AnyPolicy) -> tuple[Policy, str]:
    """Return what a campaign is drawn up by, and where that is from (name@version); empty: it was given.

    Raises:
        NotFoundError: there is no policy of this name.
    """
    if isinstance(policy, Policy):
        return policy, ""
    record = await call.context.policies.get(policy)
    return record.policy, record.shown


def _named(call: Call[Any, Any]) -> str:
    return call.request.match_info["policy"]


def _record(call: Call[Any, Any], name: str, body: PolicyPublish) -> PolicyRecord:
    return PolicyRecord(name, 0, body.policy, body.reason, call.caller.name, datetime.now(UTC))


def _answered(call: Call[Any, Any], record: PolicyRecord) -> PolicyView:
    call.tag(policy_tag(record))
    return _view(record)


def _view(record: PolicyRecord) -> PolicyView:
    return PolicyView(
        name=record.name,
        version=record.version,
        policy=record.policy,
        reason=record.reason,
        created_by=record.created_by,
        created_at=record.created_at,
    )
