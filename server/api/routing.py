"""Typed routes: one decorator that says method, path, right and body; validation and errors follow from it."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

import structlog
from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from firmware_store.errors import AuthenticationError, InvalidInputError, TidegateError, TooLargeError
from server.api import problems
from server.api.context import CONTEXT, Context
from server.domain.filter import Expression, Fields, read_filter
from server.services.tickets import PREFIX
from server.services.tokens import Caller, Right, Role

log = structlog.get_logger(__name__)

JSON_MOST_BYTES: Final = 1 << 20
BODY_S: Final = 30.0
"""How long a JSON body may take to arrive."""

REQUEST_ID: Final = web.RequestKey("request_id", str)

ANYBODY: Final = Caller("anybody", Role.VIEWER)
TICKET_HOLDER: Final = Caller("a device with a ticket", Role.VIEWER)

B_co = TypeVar("B_co", covariant=True)


class Model(BaseModel):
    """What requests carry: unknown members are refused, so that a typo never passes for a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Empty(Model):
    """No body, or an empty object."""


@dataclass(frozen=True, slots=True)
class Call(Generic[B_co]):
    """One request, authenticated and validated."""

    context: Context
    caller: Caller
    body: B_co
    request: web.Request

    def query_int(self, name: str, default: int, *, most: int) -> int:
        """Raises: InvalidInputError."""
        text = self.request.query.get(name, str(default))
        # By its length first: Python refuses to read a number of thousands of digits.
        if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
            raise InvalidInputError(f"{name} is a number from 1 to {most}.", pointer=f"?{name}")
        return int(text)

    def query_text(self, name: str) -> str | None:
        return self.request.query.get(name)

    def query_filter(self, fields: Fields) -> Expression | None:
        """Return what ``?filter=`` lets through of objects with these fields; None: everything.

        Raises:
            InvalidInputError: it is no filter; the text says where.
        """
        text = self.query_text("filter")
        return None if text is None else read_filter(text, fields, datetime.now(UTC))


_Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
Handler = Callable[[Call[Any]], Awaitable[BaseModel | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the API.

    ``right`` None: open to anybody (health, metrics, and devices that enrol). ``limited``: only so often.
    ``fetched``: by devices; HEAD is answered, too, and a device's ticket lets in as well as a token with the right.
    """

    method: str
    path: str
    handler: Handler
    right: Right | None
    body: type[BaseModel] | None
    status: int
    limited: bool
    most_bytes: int
    fetched: bool


ROUTES: Final[list[Route]] = []


def route(
    method: str,
    path: str,
    *,
    right: Right | None,
    body: type[BaseModel] | None = None,
    status: int = 200,
    limited: bool = False,
    most_bytes: int = JSON_MOST_BYTES,
    fetched: bool = False,
) -> Callable[[Handler], Handler]:
    """Register a handler. ``body``: the model of its JSON; None where it reads the request's stream or nothing."""

    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(method, path, handler, right, body, status, limited, most_bytes, fetched))
        return handler

    return register


def bind(entry: Route) -> _Handle:
    """Return the aiohttp handler of a route."""

    async def handle(request: web.Request) -> web.StreamResponse:
        context = request.app[CONTEXT]
        if entry.limited:
            context.admission.admit(request.remote, now=time.monotonic())
        caller = ANYBODY if entry.right is None else await _authenticate(context, request, tickets=entry.fetched)
        if entry.right is not None:
            caller.require(entry.right)
        body = None if entry.body is None else entry.body.model_validate(await _read_json(request, entry.most_bytes))
        answer = await entry.handler(Call(context, caller, body, request))
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.Response(
            status=entry.status, body=answer.model_dump_json().encode(), content_type="application/json"
        )

    return handle


@web.middleware
async def errors(request: web.Request, handler: _Handle) -> web.StreamResponse:
    """Give each request an id, and turn whatever goes wrong into a problem document."""
    request_id = request[REQUEST_ID] = secrets.token_hex(8)
    try:
        response = await handler(request)
    except TidegateError as exc:
        response = problems.from_error(exc, request_id)
        if response.status >= 500:
            log.warning("request_failed", request_id=request_id, path=request.path, reason=str(exc))
    except ValidationError as exc:
        response = problems.from_validation(exc, request_id)
    except web.HTTPException as exc:
        response = problems.from_router(exc, request_id)
    except Exception:
        log.exception("request_crashed", request_id=request_id, path=request.path)
        response = problems.respond(500, "internal", "Something went wrong here; the log has it.", request_id, {})
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
    return response


def bearer(request: web.Request, form: str) -> str:
    """Return the secret in the Authorization header. Raises: AuthenticationError, with the ``form`` it should have."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise AuthenticationError(f"Send a token: Authorization: Bearer {form}.")
    return text.strip()


async def _authenticate(context: Context, request: web.Request, *, tickets: bool) -> Caller:
    text = bearer(request, "tg_<id>_<secret>")
    if not (tickets and text.startswith(PREFIX)):
        return await context.tokens.authenticate(text)
    if not context.tickets.is_valid(text, time.time()):
        raise AuthenticationError("This ticket is not ours, or has expired; the next directive has another.")
    return TICKET_HOLDER


async def _read_json(request: web.Request, most_bytes: int) -> Any:
    if not request.can_read_body:
        return {}
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="The body must be application/json.")
    try:
        return json.loads(await read_body(request, most_bytes))
    except (ValueError, RecursionError) as exc:
        raise web.HTTPBadRequest(reason="The body is not JSON.") from exc


async def read_body(request: web.Request, most_bytes: int) -> bytes:
    """Return the body. Raises: TooLargeError; HTTPRequestTimeout."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            if (request.content_length or 0) <= most_bytes:
                async for piece in request.content.iter_any():
                    body += piece
                    if len(body) > most_bytes:
                        break
                else:
                    return bytes(body)
    except TimeoutError as exc:
        raise web.HTTPRequestTimeout(reason="The body did not arrive in time.") from exc
    raise TooLargeError(f"The body may have {most_bytes} bytes here.", limit_bytes=most_bytes)
