"""Every error as RFC 9457 problem+json: one table from our error families to HTTP."""

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import structlog
from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from firmware_store import errors
from server.api.ranges import RangeNotSatisfiableError
from server.domain.choices import members_of

log = structlog.get_logger(__name__)

_TYPE_BASE: Final = "https://tidegate.dev/problems/"

# First match wins, so a family stands behind its members.
STATUS: Final[Mapping[type[errors.TidegateError], tuple[int, str]]] = MappingProxyType(
    {
        errors.TooLargeError: (413, "too-large"),
        RangeNotSatisfiableError: (416, "range-not-satisfiable"),
        errors.InvalidInputError: (422, "invalid-input"),
        errors.WithdrawnError: (410, "withdrawn"),
        errors.NotFoundError: (404, "not-found"),
        errors.IllegalTransitionError: (409, "illegal-transition"),
        errors.KeyReusedError: (409, "key-reused"),
        errors.StaleError: (412, "stale"),
        errors.PreconditionMissingError: (428, "precondition-missing"),
        errors.ConflictError: (409, "conflict"),
        errors.AuthenticationError: (401, "not-authenticated"),
        errors.ForbiddenError: (403, "forbidden"),
        errors.RateLimitedError: (429, "too-many-requests"),
        errors.TrustError: (422, "not-trusted"),
        errors.StoreFullError: (507, "store-full"),
        errors.StoreUnavailableError: (503, "store-unavailable"),
        errors.BrokerUnavailableError: (503, "broker-unavailable"),
        errors.SignerUnavailableError: (503, "signer-unavailable"),
        errors.IssuerUnavailableError: (503, "issuer-unavailable"),
        errors.TidegateError: (500, "internal"),
    }
)

_ROUTER: Final = MappingProxyType(
    {
        400: "malformed",
        404: "not-found",
        405: "method-not-allowed",
        408: "too-slow",
        413: "too-large",
        415: "unsupported-media-type",
    }
)

MEDIA_TYPE: Final = "application/problem+json"


class Wrong(BaseModel):
    """One thing that is wrong. ``pointer``: a JSON pointer into the body, or ``?name`` of a parameter of the query."""

    pointer: str
    detail: str
    code: str


class Problem(BaseModel):
    """Why a request was refused (RFC 9457). ``type`` is stable; ``request_id`` is in the log, too."""

    type: str = Field(pattern=f"^{_TYPE_BASE}")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    request_id: str
    errors: list[Wrong] = Field([], description="what is wrong where, of invalid input")
    state: str | None = Field(None, description="of an illegal transition: the state that it is in")
    allowed: list[str] | None = Field(None, description="of an illegal transition: what that state does allow")


def kinds() -> dict[int, list[str]]:
    """Return the kinds of problem, by their status."""
    found: dict[int, list[str]] = {}
    for status, kind in (*STATUS.values(), *_ROUTER.items()):
        if kind not in found.setdefault(status, []):
            found[status].append(kind)
    return found


def type_of(kind: str) -> str:
    return _TYPE_BASE + kind


def from_error(error: errors.TidegateError, request_id: str) -> web.Response:
    """Answer with what the caller can act on."""
    status, kind = next(row for family, row in STATUS.items() if isinstance(error, family))
    members: dict[str, Any] = {}
    if isinstance(error, errors.InvalidInputError) and error.pointer:
        members["errors"] = [{"pointer": error.pointer, "detail": str(error), "code": kind}]
    if isinstance(error, errors.IllegalTransitionError):
        members["state"] = error.state
        members["allowed"] = list(error.allowed)
    response = respond(status, kind, str(error), request_id, members)
    if isinstance(error, errors.RateLimitedError):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, RangeNotSatisfiableError):
        response.headers["Content-Range"] = f"bytes */{error.size_bytes}"
    return response


def from_validation(error: ValidationError, request_id: str, *, place: Literal["body", "query"]) -> web.Response:
    """Answer 422 with one entry for each member that is wrong."""
    entries = [
        {
            "pointer": _pointer(entry["loc"], place),
            "detail": entry["msg"].removeprefix("Value error, "),
            "code": entry["type"],
        }
        for entry in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    said = "One member is wrong." if len(entries) == 1 else f"{len(entries)} members are wrong."
    return respond(422, "invalid-input", said, request_id, {"errors": entries})


def _pointer(where: Sequence[int | str], place: Literal["body", "query"]) -> str:
    return "".join(f"/{part}" for part in members_of(where)) if place == "body" else f"?{where[0]}"


def from_router(error: web.HTTPException, request_id: str) -> web.Response:
    """Answer what aiohttp itself refuses; the path is not repeated to whoever asked."""
    kind = _ROUTER.get(error.status, "http")
    response = respond(error.status, kind, error.reason, request_id, {})
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def respond(status: int, kind: str, detail: str, request_id: str, members: Mapping[str, Any]) -> web.Response:
    body = {"type": type_of(kind), "title": kind.replace("-", " "), "status": status, "detail": detail}
    response = web.Response(
        status=status,
        body=json.dumps({**body, "request_id": request_id, **members}).encode(),
        content_type=MEDIA_TYPE,
    )
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
