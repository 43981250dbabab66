"""Every error as RFC 9457 problem+json: one table from our error families to HTTP."""

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import structlog
from aiohttp import web
from pydantic import ValidationError

from firmware_store import errors
from server.api.ranges import RangeNotSatisfiableError

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
        errors.ConflictError: (409, "conflict"),
        errors.AuthenticationError: (401, "not-authenticated"),
        errors.ForbiddenError: (403, "forbidden"),
        errors.RateLimitedError: (429, "too-many-requests"),
        errors.TrustError: (422, "not-trusted"),
        errors.StoreFullError: (507, "store-full"),
        errors.StoreUnavailableError: (503, "store-unavailable"),
        errors.BrokerUnavailableError: (503, "broker-unavailable"),
        errors.SignerUnavailableError: (503, "signer-unavailable"),
        errors.TidegateError: (500, "internal"),
    }
)

_ROUTER: Final = MappingProxyType(
    {400: "malformed", 404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "unsupported-media-type"}
)


def from_error(error: errors.TidegateError, request_id: str) -> web.Response:
    """Answer with what the caller can act on."""
    status, kind = next(row for family, row in STATUS.items() if isinstance(error, family))
    members: dict[str, Any] = {}
    if isinstance(error, errors.InvalidInputError) and error.pointer:
        members["errors"] = [{"pointer": error.pointer, "detail": str(error)}]
    if isinstance(error, errors.IllegalTransitionError):
        members["state"] = error.state
        members["allowed"] = list(error.allowed)
    response = respond(status, kind, str(error), request_id, members)
    if isinstance(error, errors.RateLimitedError):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, RangeNotSatisfiableError):
        response.headers["Content-Range"] = f"bytes */{error.size_bytes}"
    return response


def from_validation(error: ValidationError, request_id: str) -> web.Response:
    """Answer 422 with one entry for each member that is wrong."""
    entries = [
        {"pointer": "".join(f"/{part}" for part in entry["loc"]), "detail": entry["msg"], "code": entry["type"]}
        for entry in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return respond(422, "invalid-input", f"{len(entries)} members are wrong.", request_id, {"errors": entries})


def from_router(error: web.HTTPException, request_id: str) -> web.Response:
    """Answer what aiohttp itself refuses; the path is not repeated to whoever asked."""
    kind = _ROUTER.get(error.status, "http")
    response = respond(error.status, kind, error.reason, request_id, {})
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def respond(status: int, kind: str, detail: str, request_id: str, members: Mapping[str, Any]) -> web.Response:
    body = {"type": _TYPE_BASE + kind, "title": kind.replace("-", " "), "status": status, "detail": detail}
    response = web.Response(
        status=status,
        body=json.dumps({**body, "request_id": request_id, **members}).encode(),
        content_type="application/problem+json",
    )
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
