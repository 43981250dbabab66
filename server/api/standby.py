"""What a node answers that waits for its turn: that it is alive, that it is not ready, and to come again later."""

import secrets
from collections.abc import Callable
from typing import Final

from aiohttp import web

from server.api.problems import respond
from server.api.system import Check, Readiness

RETRY_AFTER_S: Final = 5

Describe = Callable[[], str]
"""Says who holds the lease."""


def make_standby_application(describe: Describe) -> web.Application:
    """Return the application of a standby."""

    async def health(request: web.Request) -> web.StreamResponse:
        del request  # answering at all is the answer
        return web.json_response({"ok": True})

    async def readiness(request: web.Request) -> web.StreamResponse:
        del request
        answer = Readiness(ready=False, checks=[Check(name="lease", ok=False, text=f"standby: {describe()}")])
        return web.Response(status=503, body=answer.model_dump_json().encode(), content_type="application/json")

    async def later(request: web.Request) -> web.StreamResponse:
        del request
        detail = "This node is on standby; ask the one that holds the lease, or come again."
        response = respond(503, "standby", detail, secrets.token_hex(8), {})
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    application = web.Application()
    application.router.add_get("/healthz", health)
    application.router.add_get("/readyz", readiness)
    application.router.add_route("*", "/{path:.*}", later)
    return application
