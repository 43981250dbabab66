"""``Idempotency-Key``: how a request names itself, so that it can be sent again."""

import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from aiohttp import web
from pydantic import BaseModel

from firmware_store.errors import InvalidInputError
from server.db.request_keys import NamedRequest
from server.services.tokens import Caller

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
FORM: Final = "^[!-~]{1,200}$"


def read_key(request: web.Request, caller: Caller, body: BaseModel | None) -> NamedRequest | None:
    """Return the request under the name that it gives itself; None: it has none.

    Raises:
        InvalidInputError: that can be no name.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not re.fullmatch(FORM, key):
        raise InvalidInputError("A key is 1 to 200 printable ASCII characters without spaces.", pointer=HEADER)
    said = "" if body is None else body.model_dump_json()
    asked = f"{request.method} {request.path_qs}\n{request.headers.get('If-Match', '')}\n{said}"
    return NamedRequest(
        caller=f"{caller.token or ''} {caller.name}",
        key=key,
        fingerprint=sha256(asked.encode(errors="surrogatepass")).digest(),
        at=datetime.now(UTC),
    )
