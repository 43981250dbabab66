"""``/v1/store``: looking after the blobs. Both answer with JSON lines, one now and then and the report at the end."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiohttp import web
from pydantic import Field

from server.api.delivery import deliver
from server.api.routing import Call, Empty, Example, Media, Model, route
from server.domain.events import Event, EventType
from server.services.tokens import Right
from server.services.upkeep import GRACE_LEAST, Collection, Progress, Verification

LINE_S: Final = 0.5
"""How often a line comes; the last one has ``"complete": true``, and without it something went wrong."""

MEDIA_TYPE: Final = "application/jsonl"
LINES: Final = Media(
    MEDIA_TYPE,
    "an object on each line, how far it is; the last says `complete`",
    shown='{"seen": 120, "total": 412, "complete": false}\n',
)
_DAY_S: Final = 86_400


class Collect(Model):
    """Blobs that nothing refers to are cleared once nobody has put them for so long."""

    dry_run: bool = False
    grace_seconds: int = Field(_DAY_S, ge=int(GRACE_LEAST.total_seconds()), le=366 * _DAY_S)


@route("POST", "/v1/store/verify", right=Right.ADMINISTER, body=Empty, gives=LINES)
async def verify_store(call: Call[Empty]) -> web.StreamResponse:
    """Read every blob, and say which are not what their names say."""
    return await answer_lines(call.request, _verified(call))


@route(
    "POST", "/v1/store/gc", right=Right.ADMINISTER, body=Collect, gives=LINES, example=Example(body={"dry_run": True})
)
async def collect_store(call: Call[Collect]) -> web.StreamResponse:
    """Clear the blobs that nothing refers to."""
    grace = timedelta(seconds=call.body.grace_seconds)
    return await answer_lines(call.request, _collected(call, grace))


async def _verified(call: Call[Empty]) -> AsyncIterator[Verification]:
    report: Verification | None = None
    async for report in call.context.upkeep.verify():
        yield report
    if report is not None and (report.damaged or report.missing):
        sentence = f"{len(report.damaged)} blobs are damaged, {len(report.missing)} are missing."
        told = Event(EventType.STORE_TROUBLE, "store", datetime.now(UTC), {"sentence": sentence})
        await call.context.feed.tell(told)


async def _collected(call: Call[Collect], grace: timedelta) -> AsyncIterator[Collection]:
    """Blobs are not in the database: that they are to be cleared is written down before, and what came of it after."""
    audit, is_real = call.context.audit, not call.body.dry_run
    if is_real:
        asked = {"grace_seconds": call.body.grace_seconds}
        await audit.note("store.collect", "store", caller=call.caller.name, after=asked)
    report: Collection | None = None
    async for report in call.context.upkeep.collect(grace=grace, dry_run=call.body.dry_run):
        yield report
    if is_real and report is not None:
        done = {"blobs": report.cleared, "bytes": report.cleared_bytes}
        await audit.note("store.collected", "store", caller=call.caller.name, after=done)


async def answer_lines(request: web.Request, reports: AsyncIterator[Progress]) -> web.StreamResponse:
    """Answer with a line now and then while a report grows, and at the end with the report."""
    response = web.StreamResponse()
    response.content_type = MEDIA_TYPE
    return await deliver(request, response, _lines(reports))


async def _lines(reports: AsyncIterator[Progress]) -> AsyncIterator[bytes]:
    said_at = 0.0
    report: Progress | None = None
    async for report in reports:
        if time.monotonic() - said_at >= LINE_S:
            said_at = time.monotonic()
            yield _line(seen=report.seen, total=report.total, complete=False)
    assert report is not None
    yield _line(**asdict(report), complete=True)


def _line(**members: Any) -> bytes:
    return json.dumps(members, default=bytes.hex).encode() + b"\n"
