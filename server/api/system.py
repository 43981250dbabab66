"""Health and metrics."""

import time
from typing import Final

from aiohttp import web
from prometheus_client import generate_latest
from pydantic import BaseModel

from firmware_store.errors import ExpiredError, StoreUnavailableError
from server.api.context import Context
from server.api.routing import Call, Media, route

EVALUATOR_LATE_S: Final = 10.0


class Check(BaseModel):
    """One thing that must be well, with a text that says how it is."""

    name: str
    ok: bool
    text: str


class Readiness(BaseModel):
    ready: bool
    checks: list[Check]


class Health(BaseModel):
    ok: bool


@route("GET", "/healthz", right=None)
async def health(call: Call[None]) -> Health:
    """Say that the process answers."""
    del call  # answering at all is the answer
    return Health(ok=True)


@route("GET", "/readyz", right=None, gives=Readiness, also={503: Readiness})
async def readiness(call: Call[None]) -> web.StreamResponse:
    """Say whether all that the server needs is well, and how each of it is."""
    context = call.context
    checks = [
        await _database(context),
        _broker(context),
        await _store(context),
        _evaluator(context),
        _trust(context),
        *(Check(name=f"certificate of {name}", ok=ok, text=text) for name, ok, text in context.certificates.states),
    ]
    answer = Readiness(ready=all(check.ok for check in checks), checks=checks)
    return web.Response(
        status=200 if answer.ready else 503,
        body=answer.model_dump_json().encode(),
        content_type="application/json",
    )


METRICS: Final = Media(
    "text/plain", "the text format of Prometheus", shown='tidegate_devices{presence="online"} 1940.0\n'
)


@route("GET", "/metrics", right=None, gives=METRICS)
async def metrics(call: Call[None]) -> web.StreamResponse:
    """Get the metrics."""
    context = call.context
    online = context.fleet.online(time.time())
    context.metrics.devices.labels("online").set(online)
    for name, ends_at in context.certificates.ends.items():
        context.metrics.certificate_ends.labels(name).set(ends_at)
    context.metrics.devices.labels("dark").set(len(context.fleet) - online)
    return web.Response(
        body=generate_latest(context.metrics.registry), headers={"Content-Type": "text/plain; version=0.0.4"}
    )


async def _database(context: Context) -> Check:
    try:
        await context.database.ping()
    except StoreUnavailableError as exc:
        return Check(name="database", ok=False, text=str(exc))
    return Check(name="database", ok=True, text="answers")


async def _store(context: Context) -> Check:
    state = await context.store_watch.state()
    return Check(name="store", ok=state.is_well, text=state.text)


def _broker(context: Context) -> Check:
    since = context.wire.up_since
    if since is None:
        return Check(name="broker", ok=False, text="no session; levels stop rising by themselves")
    return Check(name="broker", ok=True, text=f"session up for {time.time() - since:.0f} s")


def _evaluator(context: Context) -> Check:
    at = context.orchestrator.evaluated_at
    age = None if at is None else time.time() - at
    if age is None or age > EVALUATOR_LATE_S:
        return Check(name="evaluator", ok=False, text="has not evaluated" if age is None else f"{age:.0f} s late")
    return Check(name="evaluator", ok=True, text=f"evaluated {age:.1f} s ago")


def _trust(context: Context) -> Check:
    """Without valid documents, and keys that count, nothing is offered; halts go out all the same."""
    mandate = context.authority.mandate
    trust = mandate.trust
    named = f"root {trust.root.version}" + ("" if trust.status is None else f", status {trust.status.version}")
    if not (mandate.directive and mandate.session):
        return Check(name="trust", ok=False, text=f"{named}: no usable key here; publish a root that names one")
    try:
        trust.check_time(int(time.time()))
    except ExpiredError as exc:
        return Check(name="trust", ok=False, text=f"{named}: {exc}")
    return Check(name="trust", ok=True, text=named)
