"""The aiohttp application: every route of the API, with its errors."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from server.api import (
    audit,
    blobs,
    bundles,
    campaigns,
    devices,
    documentation,
    enrolment,
    events,
    executions,
    explain,
    freezes,
    inventory,
    operations,
    places,
    policies,
    rehearsals,
    store,
    system,
    tokens,
    trust,
    webhooks,
    why,
)
from server.api.context import CONTEXT, Context
from server.api.documentation import document
from server.api.intake import JSON_MOST_BYTES
from server.api.routing import ROUTES, bind, errors

__all__ = ["document", "make_application"]

MODULES: Final = (
    audit,
    blobs,
    bundles,
    campaigns,
    devices,
    documentation,
    enrolment,
    events,
    executions,
    explain,
    freezes,
    inventory,
    operations,
    places,
    policies,
    rehearsals,
    store,
    system,
    tokens,
    trust,
    webhooks,
    why,
)
"""Importing them fills ``ROUTES``."""


def make_application(context: Context) -> web.Application:
    """Return the application; bodies that are streamed (uploads) have limits of their own."""
    application = web.Application(middlewares=[errors], client_max_size=JSON_MOST_BYTES)
    application[CONTEXT] = context
    application.on_shutdown.append(_let_listeners_go)
    for entry in ROUTES:
        for method in (entry.method, *(["HEAD"] if entry.fetched else [])):
            application.router.add_route(method, entry.path, bind(entry))
    for path, methods in _fixed().items():
        application.router.add_route("*", path, _refuse(methods))
    documentation.add_pages(application)
    return application


def _fixed() -> dict[str, set[str]]:
    """Return the methods of each path without a parameter: another path's parameter must not stand for its name."""
    found: dict[str, set[str]] = {}
    for entry in ROUTES:
        if "{" not in entry.path:
            found.setdefault(entry.path, set()).add(entry.method)
    return found


def _refuse(methods: set[str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, methods)

    return refuse


async def _let_listeners_go(application: web.Application) -> None:
    application[CONTEXT].feed.close()
