"""``/v1/audit``: who has changed what, and why."""

from typing import Any, Final

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, Field

from server.api.delivery import deliver
from server.api.lists import Page, PageQuery, begin_page, end_page
from server.api.parameters import PRINTABLE, Instant
from server.api.routing import Call, Empty, Example, Media, route
from server.api.store import LINES, MEDIA_TYPE, answer_lines
from server.db.audit import Wanted
from server.domain.audit_file import FORMAT, members_of
from server.services.tokens import Right

_LAST: Final = (1 << 63) - 1


class AuditRow(BaseModel):
    """One change. ``seq`` counts from 1 and leaves no number out; digests are hexadecimal.

    ``token`` is the id of the token that was shown. ``decision`` is the number of the decision of whose evidence
    ``evidence`` is the digest; null for what people do.
    """

    seq: int
    at: AwareDatetime
    who: str
    token: str
    what: str
    object: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str
    request_id: str
    decision: int | None
    evidence: str | None
    previous: str
    digest: str


class AuditList(Page):
    """The newest first; ``next`` is the cursor of the following page, null on the last."""

    rows: list[AuditRow]


class AuditQuery(PageQuery):
    """Which rows are listed."""

    who: str | None = Field(None, max_length=200, pattern=PRINTABLE, description="what one person or part has done")
    what: str | None = Field(None, max_length=200, pattern=PRINTABLE, description="what, such as campaign.halt")
    object: str | None = Field(None, max_length=200, pattern=PRINTABLE, description="what was done to one object")
    since: Instant | None = Field(None, description="what was done then or later")
    until: Instant | None = Field(None, description="what was done before")


@route(
    "GET",
    "/v1/audit",
    right=Right.READ,
    query=AuditQuery,
    example=Example(query={"what": "campaign.halt", "limit": 20}),
)
async def list_audit(call: Call[None, AuditQuery]) -> AuditList:
    """List who has changed what, the newest first."""
    query = call.query
    wanted = Wanted(query.who, query.what, query.object, query.since, query.until)
    rows = await call.context.audit.page(wanted, before=begin_page(call, "audit", int) or _LAST, limit=query.limit)
    following = end_page(call, "audit", rows, lambda row: row.seq)
    return AuditList(rows=[AuditRow(**members_of(row)) for row in rows], next=following)


@route("POST", "/v1/audit/verify", right=Right.READ, body=Empty, gives=LINES)
async def verify_audit(call: Call[Empty]) -> web.StreamResponse:
    """Look through all rows, and name the first that is not as it was written."""
    return await answer_lines(call.request, call.context.audit.verify())


EXPORT: Final = Media(
    MEDIA_TYPE,
    "a row on each line, signed at the end",
    shown='{"exported_at":"2026-03-02T08:00:00+00:00","fleet":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","format":"'
    f'{FORMAT}"}}\n',
)


@route("GET", "/v1/audit/export", right=Right.READ, gives=EXPORT)
async def export_audit(call: Call[None]) -> web.StreamResponse:
    """Get all rows, in a form that can be checked without the server."""
    response = web.StreamResponse()
    response.content_type = MEDIA_TYPE
    return await deliver(call.request, response, call.context.audit.export())
