"""What the server says over REST: is it there, is its clock ours, who are we to it, and is it well?"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509

from firmware_store.errors import TidegateError
from firmware_store.root import read_root
from firmware_store.status import read_status
from server.cli.client import Client
from server.cli.doctor.finding import DAY_S, Finding, State, ends

SKEW_WARN_S: Final = 5.0
SKEW_MOST_S: Final = 60.0
STATUS_SOON_S: Final = 2 * DAY_S
"""A status is made for a week at a time."""

_ANSWER_S: Final = 10.0
_LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_REMEDIES: Final = MappingProxyType(
    {
        "database": "see that PostgreSQL runs and that TIDEGATE_DATABASE_URL is right; the server goes on by itself",
        "broker": "see that the broker runs, that TIDEGATE_MQTT_URL is right, and that it lets the server in",
        "store": "see that the blobs' folder or bucket is there, writable, and has room",
        "evaluator": "look at the server's log for evaluation_failed and evaluation_postponed",
        "trust": "publish a root and a status that are valid: `tidegate root publish`, `tidegate status publish`",
    }
)


async def examine(url: str, token: str) -> AsyncIterator[Finding]:
    """Yield what there is to say; after a server that does not answer, nothing more."""
    found = await _reach(url)
    for finding in found:
        yield finding
    if found[0].state is State.FAIL:
        yield Finding("token", State.SKIPPED, "the server does not answer")
        return
    yield await _certificate(url)
    async with Client(url, token or None) as client:
        yield await _release(client)
        yield await _token(client, token)
        async for finding in _readiness(url):
            yield finding
        if token:
            async for finding in _documents(client):
                yield finding


async def _reach(url: str) -> list[Finding]:
    """Ask for nothing much; the answer has the server's clock."""
    began = time.time()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session,
            session.get(f"{url.rstrip('/')}/healthz") as response,
        ):
            await response.read()
            date, status = response.headers.get("Date", ""), response.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        why = str(exc) or type(exc).__name__
        remedy = "start it (`tidegate serve`), and look at TIDEGATE_URL, the firewall, and the CA of its certificate"
        return [Finding("server", State.FAIL, f"{url} does not answer: {why}", remedy)]
    ended = time.time()
    if status != 200:
        remedy = "look at TIDEGATE_URL: something else, or a proxy, answers there"
        return [Finding("server", State.FAIL, f"{url} answers {status}, and not as Tidegate does", remedy)]
    took = f"answers in {(ended - began) * 1000:.0f} ms"
    return [Finding("server", State.OK, f"{url} {took}"), _clock(date, began, ended)]


def _clock(date: str, began: float, ended: float) -> Finding:
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return Finding("clock", State.SKIPPED, "the answer has no date")
    skew = max(theirs - ended, began - theirs - 1, 0.0)  # the date has whole seconds
    says = f"its clock and ours differ by {skew:.0f} s"
    if skew < SKEW_WARN_S:
        return Finding("clock", State.OK, says)
    remedy = "set both by NTP: devices, tokens and documents go by the server's time"
    return Finding("clock", State.FAIL if skew > SKEW_MOST_S else State.WARN, says, remedy)


async def _certificate(url: str) -> Finding:
    """Look at the certificate as it is shown; whether we trust it, the first request has said."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https":
        if host in _LOCAL:
            return Finding("tls", State.OK, "plain HTTP, on this machine alone")
        remedy = "set TIDEGATE_TLS_CERTIFICATE and TIDEGATE_TLS_KEY, or put a proxy with TLS before it"
        return Finding("tls", State.WARN, "plain HTTP: whoever is on the way reads the token", remedy)
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection(host, parts.port or 443, ssl=anybody, server_hostname=host)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    except (OSError, TimeoutError) as exc:
        return Finding("tls", State.FAIL, f"no TLS: {exc}", "look at the server's certificate and key")
    at = x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()
    return ends(
        "tls", "its certificate", at, now=time.time(), remedy="renew it: the server takes new files up by itself"
    )


async def _release(client: Client) -> Finding:
    ours = version("tidegate")
    try:
        theirs = (await client.get("/v1/openapi.json"))["info"]["version"]
    except (TidegateError, KeyError, TypeError) as exc:
        return Finding("version", State.SKIPPED, f"it does not say its version: {exc}")
    if theirs == ours:
        return Finding("version", State.OK, f"the server and this command are {ours}")
    says = f"the server is {theirs}, and this command {ours}"
    return Finding("version", State.WARN, says, f"install tidegate {theirs} where you run commands")


async def _token(client: Client, token: str) -> Finding:
    if not token:
        remedy = "set TIDEGATE_TOKEN; the first one is printed when a server starts on an empty database"
        return Finding("token", State.SKIPPED, "there is no token", remedy)
    try:
        me: dict[str, Any] = await client.get("/v1/me")
    except TidegateError as exc:
        remedy = "make another: `tidegate token create` with an administrator's token"
        return Finding("token", State.FAIL, f"it is refused: {exc}", remedy)
    who = f"{me['name']}, {me['role']}"
    limits = [*(me["regions"] or []), *(me["cohorts"] or [])]
    who += f", limited to {', '.join(limits)}" if limits else ""
    if me["expires_at"] is None:
        return Finding("token", State.OK, f"{who}; it does not expire")
    at = datetime.fromisoformat(me["expires_at"]).timestamp()
    return ends("token", f"that of {who}", at, now=time.time(), remedy="make another: `tidegate token create`")


async def _readiness(url: str) -> AsyncIterator[Finding]:
    """What the server says of what it stands on; a check that fails is 503, and still an answer."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session,
            session.get(f"{url.rstrip('/')}/readyz") as response,
        ):
            checks = (await response.json())["checks"]
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as exc:
        yield Finding("readiness", State.FAIL, f"/readyz does not answer: {exc}", "look at the server's log")
        return
    for check in checks:
        name = str(check["name"])
        remedy = "" if check["ok"] else _REMEDIES.get(name, "look at the server's log")
        yield Finding(name, State.OK if check["ok"] else State.FAIL, str(check["text"]), remedy)


async def _documents(client: Client) -> AsyncIterator[Finding]:
    """Root and status: what has expired keeps every device from starting."""
    now = time.time()
    try:
        root = read_root(await client.get_bytes("/v1/trust/root"))
    except TidegateError as exc:
        yield Finding("root", State.SKIPPED, f"it cannot be read: {exc}")
    else:
        remedy = "sign a next one offline (`tidegate root new|sign`), and publish it"
        yield ends("root", f"root {root.version}", root.expires, now=now, remedy=remedy)
    try:
        status = read_status(await client.get_bytes("/v1/trust/status"))
    except TidegateError as exc:
        remedy = "publish one (`tidegate status new|sign|publish`): without it nothing can be taken back"
        yield Finding("status", State.WARN, f"there is none: {exc}", remedy)
    else:
        remedy = "make the next one: `tidegate status new --after`, sign, publish"
        what = f"status {status.version}"
        yield ends("status", what, status.expires, now=now, remedy=remedy, soon_s=STATUS_SOON_S)
