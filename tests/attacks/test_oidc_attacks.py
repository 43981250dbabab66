"""Attacks with tokens of an OpenID provider, whose keys everybody can have."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc.jwk import ECKey, OctKey, RSAKey

from firmware_store.errors import AuthenticationError, IssuerUnavailableError
from server.services.oidc import AGAIN_S, KEYS_MOST, REFRESH_S, STALE_S
from tests.oidc_issuer import Checked, Issuer, claims, rsa_key, signed

OURS, THEIRS = rsa_key("one"), rsa_key("one")
"""Two issuers may well give their keys the same ids."""


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer(OURS).serving() as serving:
        yield serving


@pytest.fixture
def checked(issuer: Issuer) -> Checked:
    return Checked(issuer)


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def refused(checked: Checked, token: str) -> None:
    """Only what the attack changes is wrong: the same issuer's good token is taken just after."""
    assert isinstance(await checked.ask(token), AuthenticationError)
    assert (await checked.ask(signed(OURS))).name == "oidc:ann"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
async def test_a_token_that_nobody_has_signed_lets_nobody_in(checked: Checked, algorithm: str) -> None:
    await refused(checked, f"{part({'alg': algorithm, 'kid': 'one'})}.{part(claims())}.")
    good = signed(OURS).split(".")
    await refused(checked, f"{part({'alg': algorithm, 'kid': 'one'})}.{good[1]}.{good[2]}")


@pytest.mark.parametrize("form", ["PEM", "DER", "JWK", "modulus", "nothing"])
async def test_the_public_key_is_no_secret_to_sign_with(checked: Checked, form: str) -> None:
    public = OURS.as_dict(private=False)
    secret = {
        "PEM": OURS.as_pem(private=False),
        "DER": OURS.as_der(private=False),
        "JWK": json.dumps(public).encode(),
        "modulus": str(public["n"]).encode(),
        "nothing": b"",
    }[form]
    content = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims())}"

    await refused(checked, f"{content}.{part(hmac.digest(secret, content.encode(), hashlib.sha256))}")


async def test_a_secret_that_an_issuer_gives_out_is_no_key(issuer: Issuer, checked: Checked) -> None:
    secret = OctKey.import_key({"kty": "oct", "k": part(b"s" * 32), "kid": "secret"})
    issuer.keys.append({"kty": "oct", "k": part(b"s" * 32), "kid": "secret", "alg": "HS256"})

    await refused(checked, signed(secret, algorithm="HS256"))


@pytest.mark.parametrize(
    "audience", ["somebody-else", ["a", "b"], "tidegate2", "", None, 7, {"tidegate": True}], ids=str
)
async def test_a_token_for_somebody_else_lets_nobody_in(checked: Checked, audience: Any) -> None:
    await refused(checked, signed(OURS, claims(aud=audience)))


@pytest.mark.parametrize(
    "issuer_named", ["https://id.example.evil", "https://id.example/", "", None, ["https://id.example"]]
)
async def test_a_token_in_another_issuers_name_lets_nobody_in(checked: Checked, issuer_named: Any) -> None:
    await refused(checked, signed(OURS, claims(iss=issuer_named)))


@pytest.mark.parametrize("expires", [-61, -3600, None])
async def test_a_token_that_has_expired_or_never_does_lets_nobody_in(checked: Checked, expires: int | None) -> None:
    await refused(checked, signed(OURS, claims(exp=None if expires is None else int(time.time()) + expires)))


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_token_of_tomorrow_lets_nobody_in_today(checked: Checked, claim: str) -> None:
    await refused(checked, signed(OURS, claims(**{claim: int(time.time()) + 3600})))


async def test_a_key_of_another_issuer_under_the_same_id_is_no_key(checked: Checked) -> None:
    await refused(checked, signed(THEIRS))


@pytest.mark.parametrize("header", ["jku", "x5u", "jwk", "x5c"])
async def test_nobody_brings_the_key_of_their_own_token(checked: Checked, header: str) -> None:
    async with Issuer(THEIRS).serving() as attacker:
        brought: dict[str, Any] = {
            "jku": attacker.url,
            "x5u": attacker.url,
            "jwk": THEIRS.as_dict(private=False),
            "x5c": [part(THEIRS.as_der(private=False))],
        }
        await refused(checked, signed(THEIRS, **{header: brought[header]}))
        await refused(checked, signed(THEIRS, **{header: brought[header]}, kid="mine"))

        assert attacker.fetches == 0


async def test_unknown_keys_do_not_make_us_flood_the_issuer(issuer: Issuer, checked: Checked) -> None:
    for number in range(200):
        assert isinstance(await checked.ask(signed(OURS, kid=f"unknown-{number}")), AuthenticationError)
    assert issuer.fetches == 1

    checked.now += AGAIN_S
    for number in range(200):
        await checked.ask(signed(OURS, kid=f"unknown-{number}"))
    assert issuer.fetches == 2
    assert (await checked.ask(signed(OURS))).name == "oidc:ann"


async def test_what_was_signed_is_what_counts(checked: Checked) -> None:
    head, _, seal = signed(OURS).split(".")

    await refused(checked, f"{head}.{part(claims(sub='root', realm={'roles': ['fleet-admins']}))}.{seal}")
    await refused(checked, f"{part({'alg': 'RS512', 'kid': 'one'})}.{signed(OURS).split('.')[1]}.{seal}")


@pytest.mark.parametrize(
    "header",
    [{"typ": "logout+jwt"}, {"typ": 5}, {"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"kid": None}, {"kid": 7}],
    ids=str,
)
async def test_a_header_that_means_something_else_lets_nobody_in(checked: Checked, header: dict[str, Any]) -> None:
    body, head = part(claims()), part({"alg": "RS256", "kid": "one"} | header)
    seal = OURS.private_key.sign(f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())

    await refused(checked, f"{head}.{body}.{part(seal)}")


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
async def test_keys_for_other_things_and_keys_that_are_too_short_sign_nothing(issuer: Issuer, checked: Checked) -> None:
    other, short = rsa_key("encrypts"), RSAKey.generate_key(1024, {"kid": "short"})
    pinned = ECKey.generate_key("P-256", {"kid": "pinned"})
    issuer.keys += [other.as_dict(private=False) | {"use": "enc"}, pinned.as_dict(private=False) | {"alg": "ES384"}]
    issuer.keys.append(short.as_dict(private=False))
    issuer.keys += [{"kty": "RSA", "kid": "odd"}, "no key", {"kty": "ML-DSA", "kid": "new"}, None, {}]

    await refused(checked, signed(other))
    await refused(checked, signed(short))
    await refused(checked, signed(pinned, algorithm="ES256"))


@pytest.mark.parametrize(
    "text", ["", "x", "a.b", "a.b.c", "....", "a.b.c.d.e", "é.é.é", "e30.e30.e30", f"{'a' * 9000}.b.c", "\udcff.x.x"]
)
async def test_what_is_no_token_at_all_lets_nobody_in(checked: Checked, text: str) -> None:
    await refused(checked, text)


@pytest.mark.parametrize("name", [None, "", 7, "a\nb", "a" * 129])
async def test_nobody_without_a_name_comes_in(checked: Checked, name: Any) -> None:
    await refused(checked, signed(OURS, claims(sub=name)))


# --- the issuer's keys ---


async def test_a_key_that_the_issuer_adds_is_good_soon_and_one_that_it_drops_not_for_long(
    issuer: Issuer, checked: Checked
) -> None:
    await checked.ask(signed(OURS))
    new = rsa_key("two")
    issuer.keys = [new.as_dict(private=False)]

    assert isinstance(await checked.ask(signed(new)), AuthenticationError)
    checked.now += AGAIN_S
    assert (await checked.ask(signed(new))).name == "oidc:ann"
    assert isinstance(await checked.ask(signed(OURS)), AuthenticationError)

    issuer.keys = []
    checked.now += REFRESH_S
    assert isinstance(await checked.ask(signed(new)), AuthenticationError)


async def test_an_issuer_that_is_away_shuts_nobody_out_for_a_day(issuer: Issuer, checked: Checked) -> None:
    await checked.ask(signed(OURS))
    issuer.status = 503
    checked.now += STALE_S - 1
    assert (await checked.ask(signed(OURS))).name == "oidc:ann"

    checked.now += AGAIN_S
    assert isinstance(await checked.ask(signed(OURS)), IssuerUnavailableError)
    issuer.status = 200
    checked.now += AGAIN_S
    assert (await checked.ask(signed(OURS))).name == "oidc:ann"


async def test_an_endless_set_of_keys_is_none(issuer: Issuer, checked: Checked) -> None:
    issuer.keys = [OURS.as_dict(private=False)] * (KEYS_MOST + 1)

    assert isinstance(await checked.ask(signed(OURS)), IssuerUnavailableError)
