"""Keys and tokens in NATS's formats."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from firmware_store.errors import ConfigurationError
from server.embedded.credentials import MqttCredential, device_permissions
from server.embedded.nats_jwt import (
    KeyKind,
    NKey,
    Permissions,
    account_token,
    operator_token,
    scoped_user_token,
    system_account_token,
    user_token,
)

# the pair printed by `nk -gen user -pubout` in the documentation of NATS, "NKeys"
DOCUMENTED_SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
DOCUMENTED_PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SOME = Permissions(publish=("a.>",), subscribe=("b.*",))


def decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def claims_of(token: str) -> dict[str, Any]:
    return dict(json.loads(decode(token.split(".")[1])))


def test_the_documented_seed_gives_the_documented_public_key() -> None:
    key = NKey.from_seed_text(DOCUMENTED_SEED)

    assert key.kind is KeyKind.USER
    assert key.public == DOCUMENTED_PUBLIC
    assert key.seed_text == DOCUMENTED_SEED


@pytest.mark.parametrize(("kind", "letter"), [(KeyKind.OPERATOR, "O"), (KeyKind.ACCOUNT, "A"), (KeyKind.USER, "U")])
def test_a_generated_key_survives_its_text(kind: KeyKind, letter: str) -> None:
    key = NKey.generate(kind)
    again = NKey.from_seed_text(key.seed_text)

    assert again.public == key.public
    assert key.public.startswith(letter)
    assert key.seed_text.startswith("S" + letter)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SUAC",
        "not base32!",
        DOCUMENTED_PUBLIC,
        DOCUMENTED_SEED[:-1] + "A",
        DOCUMENTED_SEED.replace("CSSL", "CSSM"),
        DOCUMENTED_SEED + DOCUMENTED_SEED,
    ],
)
def test_a_damaged_seed_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        NKey.from_seed_text(text)


def test_a_token_is_signed_by_the_key_it_names() -> None:
    account = NKey.generate(KeyKind.ACCOUNT)
    token = user_token(account, subject=DOCUMENTED_PUBLIC, name="n", permissions=SOME, now=NOW)
    header, claims, signature = token.split(".")
    raw_public = base64.b32decode(account.public)[1:33]

    assert json.loads(decode(header)) == {"typ": "JWT", "alg": "ed25519-nkey"}
    assert claims_of(token)["iss"] == account.public
    Ed25519PublicKey.from_public_bytes(raw_public).verify(decode(signature), f"{header}.{claims}".encode())


def test_a_users_own_token_states_its_permissions_and_is_good_for_mqtt_only() -> None:
    account = NKey.generate(KeyKind.ACCOUNT)
    claims = claims_of(user_token(account, subject=DOCUMENTED_PUBLIC, name="n", permissions=SOME, now=NOW, expires=NOW))

    assert claims["nats"]["pub"] == {"allow": ["a.>"]}
    assert claims["nats"]["sub"] == {"allow": ["b.*"]}
    assert claims["nats"]["bearer_token"] is True
    assert claims["nats"]["allowed_connection_types"] == ["MQTT"]
    assert (claims["iat"], claims["exp"]) == (1767323045, 1767323045)


def test_a_scoped_token_states_no_permission_and_never_expires_unless_told() -> None:
    signer = NKey.generate(KeyKind.ACCOUNT)
    claims = claims_of(scoped_user_token(signer, account="A", subject=DOCUMENTED_PUBLIC, name="dev1", now=NOW))

    assert claims["nats"] == {"type": "user", "version": 2, "issuer_account": "A"}
    assert claims["name"] == "dev1"
    assert "exp" not in claims


def test_the_accounts_token_holds_the_template_of_the_device_key() -> None:
    operator, signer = NKey.generate(KeyKind.OPERATOR), NKey.generate(KeyKind.ACCOUNT)
    token = account_token(operator, account="A", name="fleet", templates={signer.public: SOME}, now=NOW)
    (scope,) = claims_of(token)["nats"]["signing_keys"]

    assert (scope["kind"], scope["key"]) == ("user_scope", signer.public)
    assert scope["template"]["pub"] == {"allow": ["a.>"]}
    assert scope["template"]["bearer_token"] is True
    assert scope["template"]["allowed_connection_types"] == ["MQTT"]


def test_the_operators_token_is_signed_by_itself_and_the_system_account_has_no_storage() -> None:
    operator = NKey.generate(KeyKind.OPERATOR)
    claims = claims_of(operator_token(operator, system_account="ASYS", now=NOW))
    system = claims_of(system_account_token(operator, account="ASYS", now=NOW))

    assert claims["iss"] == claims["sub"] == operator.public
    assert claims["nats"]["system_account"] == system["sub"] == "ASYS"
    assert "disk_storage" not in system["nats"]["limits"]


def test_derived_keys_differ_by_name_and_by_account_and_stay_the_same() -> None:
    one, other = NKey.generate(KeyKind.ACCOUNT), NKey.generate(KeyKind.ACCOUNT)

    assert one.derive_public(KeyKind.USER, "dev1") == one.derive_public(KeyKind.USER, "dev1")
    assert len({key.derive_public(KeyKind.USER, name) for key in (one, other) for name in ("dev1", "dev2")}) == 4


def test_a_device_may_publish_below_its_up_and_read_its_down_its_cohort_trust_and_blobs() -> None:
    permissions = device_permissions("acme/tg/1")

    assert permissions.publish == ("acme.tg.1.*.device.{{name()}}.up.>",)
    assert permissions.subscribe == (
        "acme.tg.1.*.device.{{name()}}.down.>",
        "acme.tg.1.*.cohort.*.directive",
        "acme.tg.1.trust.root.*",
        "acme.tg.1.trust.status",
        "acme.tg.1.blob.*",
        "$MQTT.sub.>",
    )


def test_a_credential_does_not_print_its_secrets() -> None:
    shown = repr(MqttCredential(username="dev1", password="hunter2", client_id="dev1-4711"))

    assert "dev1" in shown
    assert "hunter2" not in shown
    assert "4711" not in shown
