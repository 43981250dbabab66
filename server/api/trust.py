"""``/v1/trust``: roots and status documents, and the revocations that halts propose."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, Field

from firmware_store.documents import MAX_DOCUMENT_BYTES
from firmware_store.errors import NotFoundError
from server.api.intake import read_body
from server.api.lists import Page, PageQuery, begin_page, end_page
from server.api.parameters import Reason
from server.api.routing import Call, Example, Media, Model, route
from server.db.campaign_records import CampaignRecord
from server.db.revocations import RevocationId, RevocationRecord, Stage
from server.services import identifiers
from server.services.tokens import Right

CBOR: Final = "application/cbor"
ROOT_MEDIA_TYPE: Final = "application/tidegate-root+cbor"
STATUS_MEDIA_TYPE: Final = "application/tidegate-status+cbor"


class RootAccepted(BaseModel):
    """What holds after an upload. ``is_new`` false: it was known. ``halted``: campaigns that it has halted."""

    version: int
    expires_at: datetime
    is_expired: bool
    is_new: bool
    halted: list[str]


class StatusAccepted(RootAccepted):
    epoch: int


class TrustEvent(BaseModel):
    """A document that came, and what became of it."""

    at: datetime
    actor: str
    document: str
    accepted: bool
    sentence: str


class TrustEvents(Page):
    events: list[TrustEvent]


class RevocationView(BaseModel):
    """A release that somebody should take back with the status key, or that was; the digest is hexadecimal."""

    id: str
    state: Stage
    manifest_digest: str
    campaign: str
    sentence: str
    proposed_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None


class RevocationList(Page):
    revocations: list[RevocationView]


class RevocationQuery(PageQuery):
    """Which revocations are listed."""

    state: Stage | None = Field(None, description="those in this state")


class Decline(Model):
    """Why a release is not taken back."""

    reason: Reason


@route("POST", "/v1/trust/root", right=Right.RELEASE, takes=Media(ROOT_MEDIA_TYPE, "a signed root"), problems=(409,))
async def publish_root(call: Call[None]) -> RootAccepted:
    """Publish the next root of trust."""
    data = await _document(call, ROOT_MEDIA_TYPE)
    accepted = await call.context.trust.accept_root(data, actor=call.caller.name)
    root = call.context.authority.root
    return RootAccepted(
        version=root.version,
        expires_at=_instant(root.expires),
        is_expired=root.expires <= time.time(),
        is_new=accepted.is_new,
        halted=_names(accepted.halted),
    )


@route("GET", "/v1/trust/root", right=Right.READ, gives=Media(CBOR, "the signed root that holds"))
async def get_root(call: Call[None]) -> web.StreamResponse:
    """Get the root that holds."""
    return web.Response(body=call.context.authority.trust.root_body, content_type=CBOR)


@route("GET", "/v1/trust/root/{version}", right=Right.READ, gives=Media(CBOR, "the signed root of that version"))
async def get_root_version(call: Call[None]) -> web.StreamResponse:
    """Get one of the roots that there were."""
    text = call.request.match_info["version"]
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise NotFoundError("There is no such root.")
    return web.Response(body=call.context.trust.root(int(text)), content_type=CBOR)


@route(
    "POST", "/v1/trust/status", right=Right.RELEASE, takes=Media(STATUS_MEDIA_TYPE, "a signed status"), problems=(409,)
)
async def publish_status(call: Call[None]) -> StatusAccepted:
    """Publish the next status: floors, and releases that are taken back."""
    data = await _document(call, STATUS_MEDIA_TYPE)
    accepted = await call.context.trust.accept_status(data, actor=call.caller.name)
    status = call.context.authority.trust.status
    assert status is not None
    return StatusAccepted(
        version=status.version,
        epoch=status.epoch,
        expires_at=_instant(status.expires),
        is_expired=status.expires <= time.time(),
        is_new=accepted.is_new,
        halted=_names(accepted.halted),
    )


@route("GET", "/v1/trust/status", right=Right.READ, gives=Media(CBOR, "the signed status that holds"), problems=(404,))
async def get_status(call: Call[None]) -> web.StreamResponse:
    """Get the status that holds."""
    return web.Response(body=call.context.trust.status(), content_type=CBOR)


@route("GET", "/v1/trust/events", right=Right.READ, query=PageQuery)
async def list_trust_events(call: Call[None, PageQuery]) -> TrustEvents:
    """List the documents that came, the newest first."""
    events = await call.context.trust.events(call.query.limit, before=begin_page(call, "trust events", int))
    return TrustEvents(
        events=[
            TrustEvent(
                at=event.at,
                actor=event.actor,
                document=event.document.value,
                accepted=event.accepted,
                sentence=event.sentence,
            )
            for event in events
        ],
        next=end_page(call, "trust events", events, lambda event: event.number),
    )


@route("GET", "/v1/trust/revocations", right=Right.READ, query=RevocationQuery)
async def list_revocations(call: Call[None, RevocationQuery]) -> RevocationList:
    """List the revocations that halts have proposed, the newest first."""
    query, before = call.query, begin_page(call, "revocations", lambda after: RevocationId(UUID(after)))
    records = await call.context.revocations.newest(query.limit, stage=query.state, before=before)
    following = end_page(call, "revocations", records, lambda record: record.id)
    return RevocationList(revocations=[_view(record) for record in records], next=following)


@route(
    "POST",
    "/v1/trust/revocations/{revocation}/decline",
    right=Right.RELEASE,
    body=Decline,
    problems=(409,),
    example=Example(body={"reason": "the cable was cut"}),
)
async def decline_revocation(call: Call[Decline]) -> RevocationView:
    """Say that a release is not taken back."""
    revocation = RevocationId(identifiers.parse(identifiers.REVOCATION, call.request.match_info["revocation"]))
    return _view(await call.context.revocations.decline(revocation, caller=call.caller.name, reason=call.body.reason))


async def _document(call: Call[None], media_type: str) -> bytes:
    """Read a body that is a signed document; no more of it than such a document can have."""
    request = call.request
    if request.content_type not in {media_type, CBOR}:
        raise web.HTTPUnsupportedMediaType(reason=f"The body must be {media_type}.")
    if "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType(reason="A document is sent as it is, with no Content-Encoding.")
    return await read_body(request, MAX_DOCUMENT_BYTES)


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC)


_LAST_SECOND: Final = 253_402_300_799
"""9999-12-31: a document may say any 63-bit number, a datetime ends there."""


def _names(campaigns: Sequence[CampaignRecord]) -> list[str]:
    return [identifiers.show(identifiers.CAMPAIGN, campaign.id) for campaign in campaigns]


def _view(record: RevocationRecord) -> RevocationView:
    return RevocationView(
        id=identifiers.show(identifiers.REVOCATION, record.id),
        state=record.stage,
        manifest_digest=record.manifest_digest.hex(),
        campaign=identifiers.show(identifiers.CAMPAIGN, record.campaign),
        sentence=record.sentence,
        proposed_at=record.proposed_at,
        decided_at=record.decided_at,
        decided_by=record.decided_by,
        reason=record.reason,
    )
