"""``/v1/bundles``: upload (streamed), list, look at."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, Field

from firmware_store.errors import InvalidInputError
from server.api.lists import FilterQuery, Page, begin_page, end_page
from server.api.parameters import PATH
from server.api.routing import Call, Example, Media, Model, route
from server.db.bundles import BundleRecord
from server.domain.filter import BUNDLES
from server.domain.identity import BundleId
from server.services import identifiers
from server.services.tokens import Right

MEDIA_TYPE: Final = "application/vnd.tidegate.bundle"
_READ_BYTES: Final = 1 << 16


class BundleView(BaseModel):
    """A bundle; digests and ids are hexadecimal, sizes in bytes, ``components`` maps names to image sizes."""

    id: str
    version: str
    sequence_number: int
    manifest_digest: str
    vendor_id: str
    class_ids: list[str]
    components: dict[str, int]
    size_bytes: int
    signers: list[str]
    created_by: str
    created_at: datetime


class BundleList(Page):
    bundles: list[BundleView]


class Asked(Model):
    """Blobs of a bundle that somebody is about to upload: what is here already can be left out of it."""

    digests: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(max_length=10_000)


class Missing(BaseModel):
    """Those that are not here, in the order in which they were asked for."""

    missing: list[str]


@route(
    "POST",
    "/v1/bundles",
    right=Right.RELEASE,
    takes=Media(MEDIA_TYPE, "a signed bundle, as `tidegate bundle build` writes it"),
    status=201,
    problems=(409, 507),
)
async def upload_bundle(call: Call[None]) -> BundleView:
    """Upload a bundle; it is verified as it comes, and kept whole or not at all."""
    request = call.request
    if request.content_type != MEDIA_TYPE:
        raise web.HTTPUnsupportedMediaType(reason=f"The body must be {MEDIA_TYPE}.")
    if "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType(reason="A bundle is uploaded as it is, with no Content-Encoding.")
    if request.content_length is not None:
        call.context.bundles.check_size(request.content_length)
    return view(await call.context.bundles.receive(_stream(request), caller=call.caller.name))


@route(
    "POST",
    "/v1/blobs/missing",
    right=Right.RELEASE,
    body=Asked,
    example=Example(body={"digests": [PATH["sha256"].example]}),
)
async def list_missing(call: Call[Asked]) -> Missing:
    """Ask which blobs an upload has to bring."""
    found = await call.context.bundles.missing([bytes.fromhex(digest) for digest in call.body.digests])
    return Missing(missing=[digest.hex() for digest in found])


@route("GET", "/v1/bundles", right=Right.READ, query=FilterQuery)
async def list_bundles(call: Call[None, FilterQuery]) -> BundleList:
    """List bundles, the newest first."""
    before = begin_page(call, "bundles", lambda after: BundleId(UUID(after)))
    records = await call.context.bundles.newest(call.query.limit, call.query.only(BUNDLES), before=before)
    following = end_page(call, "bundles", records, lambda record: record.id)
    return BundleList(bundles=[view(record) for record in records], next=following)


@route("GET", "/v1/bundles/{bundle}", right=Right.READ)
async def get_bundle(call: Call[None]) -> BundleView:
    """Get a bundle."""
    bundle = BundleId(identifiers.parse(identifiers.BUNDLE, call.request.match_info["bundle"]))
    record = await call.context.bundles.get(bundle)
    call.tag(f'"{record.manifest_digest.hex()}"')
    return view(record)


def view(record: BundleRecord) -> BundleView:
    return BundleView(
        id=identifiers.show(identifiers.BUNDLE, record.id),
        version=record.version,
        sequence_number=record.sequence_number,
        manifest_digest=record.manifest_digest.hex(),
        vendor_id=record.vendor_id.hex(),
        class_ids=[class_id.hex() for class_id in record.class_ids],
        components=dict(record.components),
        size_bytes=record.size_bytes,
        signers=[kid.hex() for kid in record.signers],
        created_by=record.created_by,
        created_at=record.created_at,
    )


async def _stream(request: web.Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.content.iter_chunked(_READ_BYTES):
            yield piece
    except (ConnectionResetError, web.RequestPayloadError) as exc:
        raise InvalidInputError("The upload broke off; nothing of it is kept. Send it again.") from exc
