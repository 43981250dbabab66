"""An OpenID provider, by the settings: where its keys are read, and what its claims mean."""

import asyncio
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp

from firmware_store.errors import ConfigurationError, IssuerUnavailableError
from server.config import Settings
from server.services.tokens import Role

if TYPE_CHECKING:
    from server.services.oidc import Oidc

FETCH_S: Final = 5.0
KEYS_MOST_BYTES: Final = 256 * 1024


class FileKeys:
    """A JWK set in a file, which may be replaced at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self) -> bytes:
        try:
            return await asyncio.to_thread(self._path.read_bytes)
        except OSError as exc:
            raise IssuerUnavailableError(f"Cannot read {self._path}: {exc.strerror}.") from exc


class HttpKeys:
    """A JWK set at a URL; redirects are not followed."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def fetch(self) -> bytes:
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=FETCH_S), cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                session.get(self._url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise IssuerUnavailableError(f"{self._url} answers {response.status}.")
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > KEYS_MOST_BYTES:
                        raise IssuerUnavailableError(f"{self._url} has more than {KEYS_MOST_BYTES} bytes.")
                return bytes(body)
        except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
            raise IssuerUnavailableError(f"{self._url} does not answer as it should ({type(exc).__name__}).") from exc


def open_issuer(settings: Settings) -> "Oidc | None":
    """Return who checks the tokens of the issuer in the settings; None where there is none.

    Raises:
        ConfigurationError: the settings do not go together, or what it takes is not installed.
    """
    if settings.oidc_issuer is None:
        return None
    if settings.oidc_audience is None or settings.oidc_keys is None or not settings.oidc_roles:
        raise ConfigurationError(
            "With TIDEGATE_OIDC_ISSUER set TIDEGATE_OIDC_AUDIENCE, TIDEGATE_OIDC_KEYS and TIDEGATE_OIDC_ROLES, too."
        )
    try:
        from server.services.oidc import IssuerKeys, Oidc, Rules  # noqa: PLC0415 - an extra that need not be here
    except ImportError as exc:
        raise ConfigurationError("TIDEGATE_OIDC_ISSUER takes the extra [oidc]: pip install 'tidegate[oidc]'.") from exc
    return Oidc(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        keys=IssuerKeys(_source(settings.oidc_keys)),
        rules=Rules(
            roles=_roles(settings.oidc_roles),
            role_claim=settings.oidc_role_claim,
            name_claim=settings.oidc_name_claim,
            region_claim=settings.oidc_region_claim,
            cohort_claim=settings.oidc_cohort_claim,
        ),
    )


def _source(where: str) -> FileKeys | HttpKeys:
    parts = urlsplit(where)
    if parts.scheme not in {"http", "https"}:
        return FileKeys(Path(where))
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ConfigurationError("TIDEGATE_OIDC_KEYS is an https:// URL, or a file: who is let in depends on it.")
    return HttpKeys(where)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _roles(text: str) -> list[tuple[str, Role]]:
    """Read ``VALUE=ROLE,...``; a value may have an equals sign itself."""
    found = []
    for entry in text.split(","):
        value, _, role = entry.strip().rpartition("=")
        if not value or role not in set(Role):
            raise ConfigurationError(f"TIDEGATE_OIDC_ROLES is VALUE=ROLE,..., with the roles {', '.join(Role)}.")
        found.append((value, Role(role)))
    return found
