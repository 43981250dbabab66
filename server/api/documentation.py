"""``/v1/openapi.json``, and ``/docs``: Swagger UI from this server alone."""

import json
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from aiohttp import web

from server.api.openapi import build_document
from server.api.routing import ROUTES, Call, Media, route

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, and no script in the page. Swagger UI sets styles of elements, which scripts are not."""

_Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]

FILES: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Tidegate API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""

_START: Final = """SwaggerUIBundle({
  url: "/v1/openapi.json", dom_id: "#swagger-ui", validatorUrl: null, deepLinking: true, tryItOutEnabled: false
});
"""


DOCUMENT: Final = Media("application/json", "an OpenAPI 3.1 document", shown='{"openapi": "3.1.0"}')


@route("GET", "/v1/openapi.json", right=None, gives=DOCUMENT)
async def get_openapi(call: Call[None]) -> web.StreamResponse:
    """Get this document."""
    del call  # it is the same for all
    return web.Response(body=document(), content_type="application/json")


@cache
def document() -> bytes:
    """Return the document as it is served, and as it lies in ``docs/openapi.json``."""
    return json.dumps(build_document(ROUTES), indent=1, ensure_ascii=False).encode() + b"\n"


def add_pages(application: web.Application) -> None:
    """Add ``/docs``, which is for people and no part of the API."""
    pages = {"": (_PAGE.encode(), "text/html"), "/start.js": (_START.encode(), "text/javascript")}
    for name, (body, kind) in pages.items():
        application.router.add_get(f"/docs{name}", _page(body, kind), allow_head=False)
    for name, kind in FILES.items():
        application.router.add_get(f"/docs/{name}", _file(_folder() / name, kind), allow_head=False)


def _page(body: bytes, kind: str) -> _Handle:
    async def answer(request: web.Request) -> web.StreamResponse:
        del request
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

    return answer


def _file(path: Path, kind: str) -> _Handle:
    async def answer(request: web.Request) -> web.StreamResponse:
        del request
        return web.FileResponse(path, headers={**_HEADERS, "Content-Type": kind})

    return answer


def _folder() -> Path:
    """Return where the package keeps what browsers load; its own code is not run."""
    found = find_spec("swagger_ui")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "static"


_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
