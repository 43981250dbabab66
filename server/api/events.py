"""``/v1/events``: what happens, as server-sent events (HTML, 9.2) of CloudEvents 1.0."""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Final

from aiohttp import web
from pydantic import Field

from firmware_store.errors import InvalidInputError
from server.api.delivery import deliver
from server.api.parameters import PATH, Digits, Flag
from server.api.routing import Call, Example, Media, Model, route
from server.domain.events import Choice, EventType, Published, cloud_event
from server.domain.identity import CampaignId
from server.services import identifiers
from server.services.feed import Quiet
from server.services.tokens import Right

EVENT_STREAM: Final = "text/event-stream"
RETRY_MS: Final = 3000
"""A browser that was cut off comes back after so long."""

RECHECK_S: Final = 15.0
"""How often it is asked whether who listens would still be let in: before what is told, a heartbeat included."""

STREAM: Final = Media(
    EVENT_STREAM,
    "events as they come: `id` is their number, `event` their type, `data` a CloudEvent in JSON",
    {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "event", "data")}},
    {"id": "1024", "event": "campaign.halted", "data": '{"specversion": "1.0", "type": "campaign.halted"}'},
)

_NUMBER_DIGITS_MOST: Final = 18


class EventQuery(Model):
    """Which events are told, and from where on; the header Last-Event-ID outweighs ``after``."""

    type: tuple[EventType, ...] = Field((), description="of these types; without it, of all")
    campaign: str | None = Field(None, pattern=PATH["campaign"].pattern, description="of one campaign")
    after: Annotated[int | None, Field(ge=0), Digits] = Field(
        None, description="from the one after this number on; without it, from now on"
    )
    follow: Flag = Field(True, description="false: end when all was told that is there")


@route(
    "GET",
    "/v1/events",
    right=Right.READ,
    query=EventQuery,
    gives=STREAM,
    problems=(410, 429),
    example=Example(query={"type": ["campaign.halted"], "after": 0, "follow": False}),
)
async def stream_events(call: Call[None, EventQuery]) -> web.StreamResponse:
    """Hear what happens, from any place on that is kept, without gaps."""
    query = call.query
    campaign = None if query.campaign is None else identifiers.parse(identifiers.CAMPAIGN, query.campaign)
    choice = Choice(frozenset(query.type), None if campaign is None else CampaignId(campaign))
    told = call.context.feed.follow(choice, after=_place(call), for_ever=query.follow)
    response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.content_type = EVENT_STREAM
    async with aclosing(_lines(told, call.context.authority.root.fleet, call.recheck)) as lines:
        try:
            return await deliver(call.request, response, lines)
        except ConnectionResetError:
            return response  # whoever listened has gone


def _place(call: Call[None, EventQuery]) -> int | None:
    text = call.request.headers.get("Last-Event-ID")
    if text is None:
        return call.query.after
    if not (text.isascii() and text.isdigit() and len(text) <= _NUMBER_DIGITS_MOST):
        raise InvalidInputError("Last-Event-ID is the `id` of an event.", pointer="Last-Event-ID")
    return int(text)


async def _lines(
    told: AsyncGenerator[Published | Quiet, None],
    fleet: bytes,
    recheck: Callable[[], Awaitable[object]],
    *,
    recheck_s: float = RECHECK_S,
) -> AsyncGenerator[bytes, None]:
    retry = f"retry: {RETRY_MS}\n".encode()
    checked_at = time.monotonic()
    async with aclosing(told):
        async for one in told:
            if time.monotonic() - checked_at >= recheck_s:
                await recheck()
                checked_at = time.monotonic()
            if isinstance(one, Quiet):
                # Without data nobody hears of it, but a client remembers where it is.
                yield b": nothing new\n" + retry + f"id: {one.seq}\n\n".encode()
                retry = b""
            else:
                data = json.dumps(cloud_event(one, fleet=fleet), ensure_ascii=False)
                yield f"id: {one.seq}\nevent: {one.type}\ndata: {data}\n\n".encode()
