"""What a request brings, read with bounds: its query, its JSON, its bytes."""

import asyncio
import json
from typing import Any, Final, NoReturn, TypeVar, get_origin

from aiohttp import web
from pydantic import BaseModel, ValidationError

from firmware_store.errors import InvalidInputError, TooLargeError

JSON_MOST_BYTES: Final = 1 << 20
BODY_S: Final = 30.0
"""How long a JSON body may take to arrive."""

M = TypeVar("M", bound=BaseModel)


class QueryError(Exception):
    """Parameters of a query that are not as their model says. ``found``: what pydantic says of them."""

    def __init__(self, found: ValidationError) -> None:
        super().__init__(str(found))
        self.found = found


def read_query(request: web.Request, model: type[M] | None) -> M | None:
    """Return the query as its model; without one there may be none.

    Raises:
        InvalidInputError: a parameter that is not known, or that is given twice and is no list.
        QueryError: one of them is wrong.
    """
    fields = {} if model is None else model.model_fields
    given: dict[str, Any] = {}
    for name in request.query:
        if name not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise InvalidInputError(f"There is no such parameter here; there are: {known}.", pointer=f"?{name[:64]}")
        texts = request.query.getall(name)
        if get_origin(fields[name].annotation) is tuple:
            given[name] = texts
        elif len(texts) > 1:
            raise InvalidInputError("This parameter is given once.", pointer=f"?{name}")
        else:
            given[name] = texts[0]
    if model is None:
        return None
    try:
        return model.model_validate(given)
    except ValidationError as exc:
        raise QueryError(exc) from exc


async def read_json(request: web.Request, model: type[M], most_bytes: int) -> M:
    """Return the body as its model; no body is an empty object. JSON's own types are not turned into one another.

    Raises:
        ValidationError: JSON of another shape.
        TooLargeError; HTTPBadRequest, HTTPRequestTimeout, HTTPUnsupportedMediaType.
    """
    data = b"{}"
    if request.can_read_body:
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(reason="The body must be application/json.")
        data = await read_body(request, most_bytes)
        try:
            data = json.dumps(json.loads(data, parse_constant=_refuse, parse_float=_number)).encode()
        except (ValueError, RecursionError) as exc:
            raise web.HTTPBadRequest(reason="The body is not JSON.") from exc
    return model.model_validate_json(data, strict=True)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON (RFC 8259 6)")


def _number(text: str) -> float | int:
    """Read a number with a fraction or an exponent; 58.0 is an integer (JSON Schema 2020-12, 4.2.3)."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


_EXACT: Final = 2.0**53


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
