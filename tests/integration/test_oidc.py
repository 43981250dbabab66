"""Tokens of an OpenID provider: whom they let in as what, and that a real server takes them."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey

from firmware_store.errors import ConfigurationError, ForbiddenError
from server.config import Settings
from server.domain.identity import Cohort, Region
from server.domain.scope import EVERYTHING, Scope
from server.issuer import FileKeys, open_issuer
from server.services.oidc import Rules
from server.services.tokens import Caller, Role
from tests.integration.test_rest import assert_problem
from tests.oidc_issuer import AUDIENCE, ISSUER, RULES, Checked, Issuer, claims, rsa_key, signed
from tests.servers import Api, own_server, unique

KEY = rsa_key("one")
CURVES = [
    (ECKey.generate_key("P-256", {"kid": "p256"}), "ES256"),
    (ECKey.generate_key("P-384", {"kid": "p384"}), "ES384"),
    (OKPKey.generate_key("Ed25519", {"kid": "ed"}), "Ed25519"),
]


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer(KEY, *(key for key, _ in CURVES)).serving() as serving:
        yield serving


async def test_a_token_says_who_somebody_is_and_what_they_may(issuer: Issuer) -> None:
    caller = await Checked(issuer).ask(signed(KEY, claims(aud=["other", AUDIENCE])))

    assert caller == Caller("oidc:ann", Role.OPERATOR, Scope(regions=frozenset({Region("eu")})))


@pytest.mark.parametrize(
    ("key", "algorithm"), pairs := [(KEY, "PS256"), (KEY, "RS512"), *CURVES], ids=[name for _, name in pairs]
)
async def test_every_algorithm_with_public_keys_is_good(issuer: Issuer, key: Any, algorithm: str) -> None:
    assert (await Checked(issuer).ask(signed(key, algorithm=algorithm, typ="at+jwt"))).name == "oidc:ann"


@pytest.mark.parametrize(
    ("said", "role", "scope"),
    [
        ({"realm": {"roles": ["fleet-ops", "fleet-admins"]}}, Role.ADMIN, None),
        ({"realm": {"roles": "x fleet-ops"}}, Role.OPERATOR, None),
        ({"realm": None, "realm.roles": ["fleet-ops"]}, Role.OPERATOR, None),
        ({"regions": "*"}, Role.OPERATOR, EVERYTHING),
        ({"regions": ["eu", "*"]}, Role.OPERATOR, EVERYTHING),
        ({"regions": "eu us"}, Role.OPERATOR, Scope(regions=frozenset({Region("eu"), Region("us")}))),
    ],
)
async def test_claims_are_read_by_the_rules(
    issuer: Issuer, said: dict[str, Any], role: Role, scope: Scope | None
) -> None:
    caller = await Checked(issuer).ask(signed(KEY, claims(**said)))

    assert (caller.role, caller.scope) == (role, scope or Scope(regions=frozenset({Region("eu")})))


@pytest.mark.parametrize(
    "said",
    [
        {"realm": {"roles": []}},
        {"realm": {"roles": ["fleet-op"]}},
        {"realm": ["fleet-ops"]},
        {"realm": None},
        {"regions": []},
        {"regions": None},
        {"regions": ["EU"]},
        {"regions": 7},
    ],
    ids=str,
)
async def test_whoever_has_no_role_or_place_here_may_do_nothing(issuer: Issuer, said: dict[str, Any]) -> None:
    assert isinstance(await Checked(issuer).ask(signed(KEY, claims(**said))), ForbiddenError)


async def test_without_claims_for_them_everybody_sees_all_regions_and_cohorts(issuer: Issuer) -> None:
    rules = Rules(roles=RULES.roles, role_claim="realm.roles")
    assert (await Checked(issuer, rules=rules).ask(signed(KEY))).scope == EVERYTHING

    rules = Rules(roles=RULES.roles, role_claim="realm.roles", cohort_claim="groups")
    caller = await Checked(issuer, rules=rules).ask(signed(KEY, claims(groups=["lab"])))
    assert caller.scope == Scope(cohorts=frozenset({Cohort("lab")}))


@pytest.mark.parametrize(("seconds", "is_in"), [(-30, True), (-90, False)])
async def test_clocks_may_differ_by_a_minute(issuer: Issuer, seconds: int, is_in: bool) -> None:
    found = await Checked(issuer).ask(signed(KEY, claims(exp=int(time.time()) + seconds)))

    assert isinstance(found, Caller) == is_in


async def test_a_key_file_may_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    assert json.loads(await FileKeys(file).fetch())["keys"][0]["kid"] == "one"


COMPLETE = {"oidc_issuer": ISSUER, "oidc_audience": AUDIENCE, "oidc_keys": "/keys.json", "oidc_roles": "a=admin"}


def test_settings_that_go_together_make_an_issuer() -> None:
    assert open_issuer(Settings()) is None
    assert open_issuer(Settings(**COMPLETE)) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"oidc_audience": None},
        {"oidc_keys": None},
        {"oidc_keys": "http://id.example/jwks"},
        {"oidc_roles": ""},
        {"oidc_roles": "admins"},
        {"oidc_roles": "admins=root"},
    ],
    ids=str,
)
def test_settings_that_let_in_whom_nobody_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        open_issuer(Settings(**(COMPLETE | wrong)))


async def test_a_real_server_lets_in_whom_the_issuer_vouches_for(issuer: Issuer) -> None:
    settings = {"oidc_issuer": ISSUER, "oidc_audience": AUDIENCE, "oidc_keys": issuer.url}
    settings |= {"oidc_roles": "fleet-ops=operator", "oidc_role_claim": "realm.roles", "oidc_region_claim": "regions"}
    with own_server(**settings) as server:
        ann, other = Api(server.url, signed(KEY)), Api(server.url, signed(rsa_key("one")))
        try:
            me = (await ann.get("/v1/me")).body
            assert (me["name"], me["role"], me["regions"], me["token"]) == ("oidc:ann", "operator", ["eu"], None)
            device = unique("gw")
            await ann.add_device(device, "eu")
            assert (await ann.get(f"/v1/devices/{device}")).status == 200
            there = {"devices": [{"id": unique("gw"), "region": "us", "cohort": "main"}]}
            assert_problem(await ann.post("/v1/devices", there), 403, "forbidden")
            assert_problem(await ann.get("/v1/tokens"), 403, "forbidden")
            assert_problem(await other.get("/v1/me"), 401, "not-authenticated")
        finally:
            await ann.close()
            await other.close()
