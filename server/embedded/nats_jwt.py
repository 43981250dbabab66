"""Keys and tokens of a NATS server in operator mode: who may connect, and to which subjects.

An operator key signs accounts, an account's key or one of its signing keys signs users, and a user's token is the
password in the MQTT CONNECT packet. Device tokens are signed by a *scoped* signing key: whatever they claim, their
permissions are the template that the account's token states for that key, with ``{{name()}}`` replaced by the name in
the token. So a device's name is a piece of its permissions, and ``*`` would be the whole fleet: the caller checks ids.

Formats: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/jwt and the libraries nkeys and jwt
(version 2) of nats-io. A key's text is base32 of a kind byte, 32 bytes, and their CRC-16.
"""

import base64
import binascii
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_store.errors import ConfigurationError

UNLIMITED: Final = -1

_SEED_MARK: Final = 18 << 3  # a seed's text starts with S, then the letter of its kind
_SEED_BYTES: Final = 32


class KeyKind(IntEnum):
    """The value of the first byte, which makes the first letter of the text: O, A, U."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3


class NKey:
    """An Ed25519 key pair of one kind."""

    def __init__(self, kind: KeyKind, seed: bytes) -> None:
        self.kind = kind
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public = _to_text(bytes([kind]) + public)

    @classmethod
    def generate(cls, kind: KeyKind) -> Self:
        return cls(kind, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_seed_text(cls, text: str) -> Self:
        """Raises: ConfigurationError: not the text of a seed of a known kind."""
        try:
            raw = base64.b32decode(text + "=" * (-len(text) % 8))
            body, check = raw[:-2], raw[-2:]
            kind = KeyKind((body[0] & 7) << 5 | body[1] >> 3)
        except (ValueError, IndexError) as exc:
            raise ConfigurationError("A key of the embedded broker is not the text of a seed.") from exc
        if len(body) != 2 + _SEED_BYTES or body[0] & 0xF8 != _SEED_MARK:
            raise ConfigurationError("A key of the embedded broker is not the text of a seed.")
        if struct.pack("<H", binascii.crc_hqx(body, 0)) != check:
            raise ConfigurationError("A key of the embedded broker is damaged.")
        return cls(kind, body[2:])

    @property
    def seed_text(self) -> str:
        """The secret, as the tools of NATS read it."""
        first = _SEED_MARK | self.kind >> 5
        second = (self.kind & 0x1F) << 3
        return _to_text(bytes([first, second]) + self._seed)

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def derive_public(self, kind: KeyKind, name: str) -> str:
        """Return the public text of a key that belongs to ``name``, always the same, without storing anything."""
        seed = hashlib.sha256(self._seed + b"derive:" + name.encode()).digest()
        return NKey(kind, seed).public


@dataclass(frozen=True)
class Permissions:
    """The subjects (``.`` for ``/``, ``*`` for ``+``, ``>`` for ``#``) that are allowed; all others are not."""

    publish: Sequence[str]
    subscribe: Sequence[str]

    def to_claims(self) -> dict[str, Any]:
        return {"pub": {"allow": list(self.publish)}, "sub": {"allow": list(self.subscribe)}}


_NO_LIMITS: Final[Mapping[str, int]] = {"subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED}

# MQTT clients cannot sign the server's challenge, so the token alone must do; and it must do for nothing but MQTT
_MQTT_ONLY: Final[Mapping[str, Any]] = {"bearer_token": True, "allowed_connection_types": ["MQTT"]}


def operator_token(operator: NKey, *, system_account: str, now: datetime) -> str:
    claims = {"type": "operator", "version": 2, "system_account": system_account}
    return _encode(operator, subject=operator.public, name="tidegate", nats=claims, now=now)


def account_token(
    operator: NKey,
    *,
    account: str,
    name: str,
    templates: Mapping[str, Permissions],
    now: datetime,
    revocations: Mapping[str, int] | None = None,
) -> str:
    """Return the token of an account that clients use.

    ``templates``: public text of a scoped signing key -> what the users it signs may do. ``revocations``: public text
    of a user's key -> Unix seconds; that user's tokens issued then or earlier are refused.
    """
    limits = {
        **_NO_LIMITS,
        **dict.fromkeys(("imports", "exports", "conn", "leaf"), UNLIMITED),
        "wildcards": True,
        # MQTT sessions and retained messages live in JetStream, which an account has only when it is granted
        **dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), UNLIMITED),
    }
    scopes = [
        {
            "kind": "user_scope",
            "key": key,
            "role": "device",
            "template": {**permissions.to_claims(), **_NO_LIMITS, **_MQTT_ONLY},
        }
        for key, permissions in templates.items()
    ]
    claims: dict[str, Any] = {"type": "account", "version": 2, "limits": limits, "signing_keys": scopes}
    if revocations:
        claims["revocations"] = dict(revocations)
    return _encode(operator, subject=account, name=name, nats=claims, now=now)


def system_account_token(operator: NKey, *, account: str, now: datetime) -> str:
    """Return the token of the account that the broker itself uses; it may not have JetStream."""
    limits = {**_NO_LIMITS, **dict.fromkeys(("imports", "exports", "conn", "leaf"), UNLIMITED), "wildcards": True}
    claims = {"type": "account", "version": 2, "limits": limits}
    return _encode(operator, subject=account, name="system", nats=claims, now=now)


def user_token(
    account: NKey, *, subject: str, name: str, permissions: Permissions, now: datetime, expires: datetime | None = None
) -> str:
    """Return the token of a user that the account's own key vouches for, with permissions of its own."""
    claims = {"type": "user", "version": 2, **permissions.to_claims(), **_NO_LIMITS, **_MQTT_ONLY}
    return _encode(account, subject=subject, name=name, nats=claims, now=now, expires=expires)


def scoped_user_token(
    signer: NKey, *, account: str, subject: str, name: str, now: datetime, expires: datetime | None = None
) -> str:
    """Return the token of a user whose permissions are those of the signer's template; it may state none itself."""
    claims = {"type": "user", "version": 2, "issuer_account": account}
    return _encode(signer, subject=subject, name=name, nats=claims, now=now, expires=expires)


def _encode(
    issuer: NKey,
    *,
    subject: str,
    name: str,
    nats: Mapping[str, Any],
    now: datetime,
    expires: datetime | None = None,
) -> str:
    claims: dict[str, Any] = {"iat": int(now.timestamp()), "iss": issuer.public, "name": name, "sub": subject}
    if expires is not None:
        claims["exp"] = int(expires.timestamp())
    claims["nats"] = nats
    claims["jti"] = base64.b32encode(hashlib.sha256(_compact(claims)).digest()).decode().rstrip("=")
    signed = _part(_compact({"typ": "JWT", "alg": "ed25519-nkey"})) + "." + _part(_compact(claims))
    return signed + "." + _part(issuer.sign(signed.encode()))


def _compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _to_text(body: bytes) -> str:
    return base64.b32encode(body + struct.pack("<H", binascii.crc_hqx(body, 0))).decode().rstrip("=")
