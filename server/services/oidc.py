"""Callers whom an OpenID provider vouches for, by a signed token (RFC 7519, RFC 9068) that it gave them.

Signed by one of the issuer's keys, which are asked for where the settings say and nowhere else: what a token's header
says of places and keys (``jku``, ``x5u``, ``jwk``, ``x5c``) is not looked at (RFC 8725 3.10). Only algorithms with
public keys are known here, so that nobody can sign with what is public (RFC 8725 3.1).
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import structlog
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key

from firmware_store.errors import AuthenticationError, ForbiddenError, InvalidInputError, IssuerUnavailableError
from server.domain.identity import cohort, region
from server.domain.scope import Scope
from server.services.tokens import Caller, Role

log = structlog.get_logger(__name__)

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
TYPES: Final = frozenset({None, "jwt", "at+jwt", "application/at+jwt"})
"""What a token may say it is, in lower case; one that is for something else, such as a logout, lets nobody in."""

SKEW_S: Final = 60
"""By so much the issuer's clock may differ from ours."""

REFRESH_S: Final = 3600.0
"""A key that the issuer has withdrawn is good for so long at most."""
AGAIN_S: Final = 30.0
"""Tokens under keys that nobody knows make us ask the issuer so often, however many come."""
STALE_S: Final = 24 * 3600.0
"""While the issuer does not answer, what it said last holds for so long."""

KEYS_MOST: Final = 100
RSA_BITS_LEAST: Final = 2048
NAME_MOST: Final = 128
EVERYWHERE: Final = "*"

_LOOSE: Final = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)

_Key: TypeAlias = RSAKey | ECKey | OKPKey


class KeySource(Protocol):
    """Where an issuer's keys are."""

    async def fetch(self) -> bytes:
        """Return the JWK set (RFC 7517 5). Raises: IssuerUnavailableError."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the claims of a token mean here. A claim is a name, or a path of names with dots.

    ``roles``: what a value of the claim ``role_claim`` makes somebody, the first that fits. Without ``region_claim``,
    or with the value ``*``, somebody may see all regions; so with cohorts.
    """

    roles: Sequence[tuple[str, Role]]
    role_claim: str = "roles"
    name_claim: str = "sub"
    region_claim: str | None = None
    cohort_claim: str | None = None

    def caller(self, claims: Mapping[str, Any]) -> Caller:
        """Raises: AuthenticationError: it does not say who; ForbiddenError: whoever it is may do nothing here."""
        name = _claim(claims, self.name_claim)
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= NAME_MOST:
            raise AuthenticationError(f"The claim {self.name_claim} of this token names nobody.")
        held = _texts(_claim(claims, self.role_claim))
        role = next((role for value, role in self.roles if value in held), None)
        if role is None:
            raise ForbiddenError(f"The claim {self.role_claim} of this token has no role of this server.")
        scope = Scope(_limits(claims, self.region_claim, region), _limits(claims, self.cohort_claim, cohort))
        return Caller(f"oidc:{name}", role, scope)


class IssuerKeys:
    """The keys of an issuer by their ids, asked for when one is not known, within bounds."""

    def __init__(self, source: KeySource, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._keys: dict[str, _Key] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._asking = asyncio.Lock()

    async def get(self, kid: str) -> _Key:
        """Raises: AuthenticationError: the issuer has no such key; IssuerUnavailableError: nobody knows."""
        known = self._fetched_at is not None and kid in self._keys
        if not known or (self._age() >= REFRESH_S and not self._asking.locked()):
            async with self._asking:
                await self._ask()
        if self._age() >= STALE_S:
            raise IssuerUnavailableError("The issuer of this token does not give out its keys; try again.")
        key = self._keys.get(kid)
        if key is None:
            raise AuthenticationError("This token is signed by no key of its issuer.")
        return key

    def _age(self) -> float:
        return STALE_S if self._fetched_at is None else self._clock() - self._fetched_at

    async def _ask(self) -> None:
        now = self._clock()
        if self._tried_at is not None and now - self._tried_at < AGAIN_S:
            return
        self._tried_at = now
        try:
            self._keys = read_keys(await self._source.fetch())
        except IssuerUnavailableError as exc:
            log.warning("issuer_keys_unavailable", reason=str(exc))
            return
        self._fetched_at = self._clock()
        log.info("issuer_keys_read", keys=sorted(self._keys))


class Oidc:
    """Checks tokens of one issuer, for one audience. ``clock``: Unix seconds."""

    def __init__(
        self, *, issuer: str, audience: str, keys: IssuerKeys, rules: Rules, clock: Callable[[], float] = time.time
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._rules = rules
        self._clock = clock

    async def authenticate(self, text: str) -> Caller:
        """Return who the issuer says somebody is.

        Raises:
            AuthenticationError: it does not say so, not to us, or not now.
            ForbiddenError: it does, and whoever it is may do nothing here.
            IssuerUnavailableError: its keys are not known.
        """
        try:
            header = jws.extract_compact(text.encode()).headers()
        except (JoseError, ValueError) as exc:
            raise AuthenticationError("Not a token of this server, nor one that an issuer has signed.") from exc
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
        if algorithm not in ALGORITHMS:
            raise AuthenticationError(f"A token is signed with one of {', '.join(ALGORITHMS)}.")
        if (
            not isinstance(kid, str)
            or "crit" in header
            or (kind.lower() if isinstance(kind, str) else kind) not in TYPES
        ):
            raise AuthenticationError("The header of this token is not that of an access token with a key id.")
        key = await self._keys.get(kid)
        try:
            claims = jwt.decode(text, key, registry=_LOOSE).claims
            jwt.JWTClaimsRegistry(
                now=int(self._clock()),
                leeway=SKEW_S,
                iss={"essential": True, "value": self._issuer},
                aud={"essential": True, "value": self._audience},
                exp={"essential": True},
            ).validate(claims)
        except (JoseError, ValueError) as exc:
            raise AuthenticationError(f"This token is not good: {exc}.") from exc
        return self._rules.caller(claims)


def read_keys(body: bytes) -> dict[str, _Key]:
    """Return the keys of a JWK set that tokens may be signed with; others are left out.

    Raises:
        IssuerUnavailableError: it is no JWK set.
    """
    try:
        entries = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise IssuerUnavailableError("What the issuer gives out is no JWK set.") from exc
    if not isinstance(entries, list) or len(entries) > KEYS_MOST:
        raise IssuerUnavailableError(f"A JWK set has a list of up to {KEYS_MOST} keys.")
    found: dict[str, _Key] = {}
    for entry in entries:
        key = _read_key(entry)
        if key is not None and isinstance(entry.get("kid"), str):
            found.setdefault(entry["kid"], key)
    return found


def _read_key(entry: Any) -> _Key | None:
    """Return a public key that signatures are made for; None for all others, and for secrets above all."""
    if not isinstance(entry, dict) or entry.get("kty") not in {"RSA", "EC", "OKP"} or entry.get("use", "sig") != "sig":
        return None
    try:
        key = import_key(entry)
        if not isinstance(key, RSAKey | ECKey | OKPKey):
            return None
        if isinstance(key, RSAKey) and key.public_key.key_size < RSA_BITS_LEAST:
            return None
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return key


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim of this name, or what is there along a path of names; None where there is nothing."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def _texts(value: Any) -> list[str]:
    """Return the values of a claim that is a list, or a text with several words."""
    if isinstance(value, str):
        return [value, *value.split()]
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _limits(claims: Mapping[str, Any], path: str | None, check: Callable[[str], Any]) -> frozenset[Any] | None:
    if path is None:
        return None
    value = _claim(claims, path)
    named = value.split() if isinstance(value, str) else _texts(value)
    if EVERYWHERE in named:
        return None
    try:
        found = frozenset(check(name) for name in named)
    except InvalidInputError as exc:
        raise ForbiddenError(f"The claim {path} of this token is not one for this server: {exc}") from exc
    if not found:
        raise ForbiddenError(f"The claim {path} of this token names nothing that its holder may see.")
    return found
