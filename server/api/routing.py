"""Typed routes: one decorator says what a route takes, gives and may refuse; validation and OpenAPI follow from it."""

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Generic, get_type_hints

import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypeVar

from firmware_store.errors import AuthenticationError, TidegateError
from server.api import problems
from server.api.conditions import Match, read_match
from server.api.context import CONTEXT, Context
from server.api.intake import JSON_MOST_BYTES, QueryError, read_json, read_query
from server.api.request_key import REPLAYED, read_key
from server.api.scoped import narrow
from server.db.audit import ORIGIN, Origin
from server.db.request_keys import KeptAnswer
from server.services.tokens import Caller, Right, Role

log = structlog.get_logger(__name__)

REQUEST_ID: Final = web.RequestKey("request_id", str)
LINK: Final = web.RequestKey("link", str)
TAG: Final = web.RequestKey("tag", str)
ANYTHING: Final = Match(frozenset())

ANYBODY: Final = Caller("anybody", Role.VIEWER)

B_co = TypeVar("B_co", covariant=True)
Q_co = TypeVar("Q_co", covariant=True, default=None)


class Model(BaseModel):
    """What requests carry: unknown members are refused, so that a typo never passes for a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Empty(Model):
    """No body, or an empty object."""


@dataclass(frozen=True, slots=True)
class Media:
    """A body that is no JSON object: its media type, and what it holds; ``schema``: of each of its parts, if any.

    ``shown``: what it looks like, where it is text.
    """

    kind: str
    said: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string", "format": "binary"})
    shown: Any = None


@dataclass(frozen=True, slots=True)
class Example:
    """A request that works: the members of its query, and its body; what its path names is in ``PATH``."""

    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None


NOTHING_ASKED: Final = Example()


@dataclass(frozen=True, slots=True)
class Call(Generic[B_co, Q_co]):
    """One request, authenticated and validated. ``context``: as much of the server as the caller may see."""

    context: Context
    caller: Caller
    body: B_co
    query: Q_co
    request: web.Request
    recheck: Callable[[], Awaitable[Caller]]
    """For what goes on for long. Raises: AuthenticationError: its caller would not be let in any more."""
    match: Match = ANYTHING

    def after(self, of: str, cursor: str) -> str:
        """Return what the page of the list ``of`` begins after. Raises: InvalidInputError."""
        return self.context.cursors.open(of, cursor)

    def following(self, of: str, after: str | None) -> str | None:
        """Return the cursor of the next page, which the answer links to; None: this is the last."""
        if after is None:
            return None
        cursor = self.context.cursors.seal(of, after)
        link = self.request.rel_url.update_query(cursor=cursor)
        self.request[LINK] = f'<{link}>; rel="next"'
        return cursor

    def tag(self, tag: str) -> None:
        """Give the answer this ETag."""
        self.request[TAG] = tag


_Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
Handler = Callable[[Call[Any, Any]], Awaitable[BaseModel | web.StreamResponse]]
Answer = type[BaseModel] | Media | None


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the API; ``server.api.openapi`` tells the world what it says.

    ``right`` None: open to anybody (health, metrics, and devices that enrol). ``limited``: only so often.
    ``fetched``: by devices; HEAD is answered, too, and a device's ticket lets in as well as a token with the right.
    ``claimed``: a device shows its claim. ``answers``: what a status brings, where it is no problem.
    """

    method: str
    path: str
    handler: Handler
    right: Right | None
    body: type[BaseModel] | None
    query: type[BaseModel] | None
    takes: Media | None
    status: int
    answers: Mapping[int, Answer]
    problems: frozenset[int]
    example: Example
    limited: bool
    most_bytes: int
    fetched: bool
    claimed: bool
    matched: bool
    secret: bool

    @property
    def is_keyed(self) -> bool:
        """It may be sent again under the same Idempotency-Key."""
        answers_json = isinstance(self.answers[self.status], type)
        return self.method == "POST" and self.right is not None and self.body is not None and answers_json

    @property
    def name(self) -> str:
        """Its operationId."""
        return self.handler.__name__


ROUTES: Final[list[Route]] = []


def route(
    method: str,
    path: str,
    *,
    right: Right | None,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    takes: Media | None = None,
    gives: type[BaseModel] | Media | None = None,
    status: int = 200,
    also: Mapping[int, Answer] = MappingProxyType({}),
    problems: Iterable[int] = (),
    example: Example = NOTHING_ASKED,
    limited: bool = False,
    most_bytes: int = JSON_MOST_BYTES,
    fetched: bool = False,
    claimed: bool = False,
    matched: bool = False,
    secret: bool = False,
) -> Callable[[Handler], Handler]:
    """Register a handler; its docstring is the summary, and what it returns the model of the answer.

    ``body``, ``query``: the models of its JSON and of its query; without, there may be none. ``takes``: what it reads
    from the request's stream. ``gives``: what it answers, where the handler returns a response. ``also``: the answers
    of other statuses. ``matched``: it needs If-Match. ``secret``: its answer is shown once, so it is not kept.
    ``problems``: statuses beyond those that follow from the rest (see ``server.api.openapi``).
    """

    def register(handler: Handler) -> Handler:
        answers = {status: gives or _returned(handler), **also}
        ROUTES.append(
            Route(
                method=method,
                path=path,
                handler=handler,
                right=right,
                body=body,
                query=query,
                takes=takes,
                status=status,
                answers=MappingProxyType(answers),
                problems=frozenset(problems),
                example=example,
                limited=limited,
                most_bytes=most_bytes,
                fetched=fetched,
                claimed=claimed,
                matched=matched,
                secret=secret,
            )
        )
        return handler

    return register


def _returned(handler: Handler) -> type[BaseModel]:
    """Return the model that a handler says it returns."""
    found = get_type_hints(handler).get("return")
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise TypeError(f"{handler.__name__} returns no model: say what it gives.")
    return found


async def _let_in_anybody() -> Caller:
    return ANYBODY


def bind(entry: Route) -> _Handle:
    """Return the aiohttp handler of a route."""

    async def handle(request: web.Request) -> web.StreamResponse:
        context = request.app[CONTEXT]
        if entry.limited:
            context.admission.admit(request.remote, now=time.monotonic())
        let_in = _let_in_anybody
        if entry.right is not None:
            shown, address = bearer(request, "tg_<id>_<secret>"), request.remote
            let_in = partial(context.authentication.let_in, shown, address=address, is_device=entry.fetched)
        caller = await let_in()
        ORIGIN.set(Origin(caller.name, caller.token or "", request[REQUEST_ID]))
        if entry.right is not None:
            caller.require(entry.right)
        query = read_query(request, entry.query)
        body = None if entry.body is None else await read_json(request, entry.body, entry.most_bytes)
        match = read_match(request) if entry.matched else ANYTHING
        call = Call(narrow(context, caller.scope), caller, body, query, request, let_in, match)
        if entry.is_keyed and (named := read_key(request, caller, body)) is not None:
            answered, is_old = await context.request_keys.once(
                named, partial(_serve, entry, call), is_secret=entry.secret
            )
            response = _respond(answered)
            if is_old:
                response.headers[REPLAYED] = "true"
            return response
        answer = await entry.handler(call)
        if isinstance(answer, web.StreamResponse):
            return answer
        response = _respond(_answered(entry, call, answer))
        if LINK in request:
            response.headers[hdrs.LINK] = request[LINK]
        return response

    return handle


async def _serve(entry: Route, call: Call[Any, Any]) -> KeptAnswer:
    answer = await entry.handler(call)
    if isinstance(answer, web.Response):  # of another status
        return KeptAnswer(answer.status, answer.text, answer.headers.get(hdrs.ETAG))
    assert isinstance(answer, BaseModel), "is_keyed"
    return _answered(entry, call, answer)


def _answered(entry: Route, call: Call[Any, Any], answer: BaseModel) -> KeptAnswer:
    return KeptAnswer(entry.status, answer.model_dump_json(), call.request.get(TAG))


def _respond(answer: KeptAnswer) -> web.Response:
    assert answer.status is not None
    assert answer.body is not None
    response = web.Response(status=answer.status, body=answer.body.encode(), content_type="application/json")
    if answer.tag is not None:
        response.headers[hdrs.ETAG] = answer.tag
    return response


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
        response = problems.from_validation(exc, request_id, place="body")
    except QueryError as exc:
        response = problems.from_validation(exc.found, request_id, place="query")
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
