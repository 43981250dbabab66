"""``/v1/tokens``: make, list, end. ``/v1/me``: who one is oneself."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, Field

from server.api.lists import Page, PageQuery, begin_page, end_page
from server.api.parameters import PRINTABLE, CohortName, RegionName
from server.api.routing import Call, Example, Model, route
from server.db.tokens import TokenRecord
from server.domain.scope import Scope
from server.services.tokens import NAME_MOST, RIGHTS, Right, Role

LIMITS_MOST = 256

Several = Field(min_length=1, max_length=LIMITS_MOST)


class TokenCreate(Model):
    """A token for somebody. Null: what whoever makes it has: no end, all regions, all cohorts, if they have no limits.

    Nobody makes a token with more rights than their own, nor for other regions or cohorts, nor for longer.
    """

    name: str = Field(min_length=1, max_length=NAME_MOST, pattern=PRINTABLE)
    role: Role
    valid_seconds: int | None = Field(None, ge=60, le=10 * 366 * 86_400)
    regions: Annotated[tuple[RegionName, ...], Several] | None = None
    cohorts: Annotated[tuple[CohortName, ...], Several] | None = None


class TokenView(BaseModel):
    """A token without its secret. ``regions``, ``cohorts`` null: all of them; ``created_by`` null: the first start.

    ``last_used_at`` is right to a minute. ``is_good``: it lets in.
    """

    id: str
    name: str
    role: Role
    regions: list[str] | None
    cohorts: list[str] | None
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    is_good: bool


class TokenCreated(TokenView):
    """``token`` is shown this once."""

    token: str


class TokenList(Page):
    """The newest first."""

    tokens: list[TokenView]


class Me(BaseModel):
    """Who is asking: ``token`` is the id of the token, null where it is not one of this server."""

    name: str
    role: Role
    rights: list[Right]
    regions: list[str] | None
    cohorts: list[str] | None
    token: str | None
    expires_at: datetime | None


@route("GET", "/v1/me", right=Right.READ)
async def show_me(call: Call[None]) -> Me:
    """Say who is asking, and what they may do."""
    caller = call.caller
    return Me(
        name=caller.name,
        role=caller.role,
        rights=sorted(RIGHTS[caller.role]),
        regions=_shown(caller.scope.region_names),
        cohorts=_shown(caller.scope.cohort_names),
        token=caller.token,
        expires_at=caller.expires_at,
    )


@route(
    "POST",
    "/v1/tokens",
    right=Right.ADMINISTER,
    body=TokenCreate,
    status=201,
    secret=True,
    example=Example(
        body={"name": "night shift", "role": "operator", "valid_seconds": 2_592_000, "regions": ["eu", "us"]}
    ),
)
async def create_token(call: Call[TokenCreate]) -> TokenCreated:
    """Make a token for somebody; its text is shown this once."""
    body = call.body
    limits = Scope(
        None if body.regions is None else frozenset(body.regions),
        None if body.cohorts is None else frozenset(body.cohorts),
    )
    valid = None if body.valid_seconds is None else timedelta(seconds=body.valid_seconds)
    text, record = await call.context.tokens.create(
        name=body.name, role=body.role, valid=valid, limits=limits, by=call.caller
    )
    return TokenCreated(**_view(record).model_dump(), token=text)


@route("GET", "/v1/tokens", right=Right.ADMINISTER, query=PageQuery)
async def list_tokens(call: Call[None, PageQuery]) -> TokenList:
    """List tokens, the newest first, also those that let nobody in any more."""
    before = begin_page(call, "tokens", str)
    records = await call.context.tokens.newest(call.query.limit, before=before)
    following = end_page(call, "tokens", records, lambda record: record.id)
    return TokenList(tokens=[_view(record) for record in records], next=following)


@route("DELETE", "/v1/tokens/{token_id}", right=Right.ADMINISTER, problems=[409])
async def revoke_token(call: Call[None]) -> TokenView:
    """End a token, from the next request on."""
    return _view(await call.context.tokens.revoke(call.request.match_info["token_id"], caller=call.caller.name))


def _view(record: TokenRecord) -> TokenView:
    return TokenView(
        id=record.id,
        name=record.name,
        role=Role(record.role),
        regions=_shown(record.scope.region_names),
        cohorts=_shown(record.scope.cohort_names),
        created_at=record.created_at,
        created_by=record.created_by,
        expires_at=record.expires_at,
        last_used_at=record.last_used_at,
        revoked_at=record.revoked_at,
        revoked_by=record.revoked_by,
        is_good=record.is_good(datetime.now(UTC)),
    )


def _shown(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)
