"""An OpenID provider as far as we need one: it signs tokens, and serves its keys over real HTTP."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from firmware_store.errors import TidegateError
from server.issuer import HttpKeys
from server.services.oidc import ALGORITHMS, IssuerKeys, Oidc, Rules
from server.services.tokens import Role

ISSUER, AUDIENCE = "https://id.example", "tidegate"
RULES = Rules(
    roles=[("fleet-admins", Role.ADMIN), ("fleet-ops", Role.OPERATOR)],
    role_claim="realm.roles",
    region_claim="regions",
)


def rsa_key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})


class Issuer:
    """``keys`` is what it gives out; tests change it. ``fetches`` counts how often somebody asked."""

    def __init__(self, *keys: RSAKey | ECKey | OKPKey) -> None:
        self.keys: list[Any] = [key.as_dict(private=False) for key in keys]
        self.status = 200
        self.fetches = 0
        self.url = ""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        del request
        self.fetches += 1
        return web.Response(
            status=self.status, body=json.dumps({"keys": self.keys}).encode(), content_type="application/jwk-set+json"
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Issuer"]:
        application = web.Application()
        application.router.add_get("/jwks", self._answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
            yield self
        finally:
            await runner.cleanup()


class Checked:
    """Our side of an issuer, with clocks that a test moves."""

    def __init__(self, issuer: Issuer, *, rules: Rules = RULES) -> None:
        self.now = 1000.0
        keys = IssuerKeys(HttpKeys(issuer.url), clock=lambda: self.now)
        self._oidc = Oidc(issuer=ISSUER, audience=AUDIENCE, keys=keys, rules=rules)

    async def ask(self, text: str) -> Any:
        """Return whoever is let in, or the error."""
        try:
            return await self._oidc.authenticate(text)
        except TidegateError as exc:
            return exc


def claims(**others: Any) -> dict[str, Any]:
    """What a good token says; a member that is None is left out."""
    now = int(time.time())
    given: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 300}
    given |= {"realm": {"roles": ["fleet-ops", "other"]}, "regions": ["eu"]} | others
    return {name: value for name, value in given.items() if value is not None}


def signed(key: Any, said: dict[str, Any] | None = None, *, algorithm: str = "RS256", **header: Any) -> str:
    """Return a token; members of the header that are None are left out."""
    given = {"alg": algorithm, "kid": getattr(key, "kid", None)} | header
    given = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(given, said or claims(), key, algorithms=[*ALGORITHMS, "HS256"])
