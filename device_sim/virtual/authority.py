"""The keys of a virtual fleet, and what is signed with them: real signatures over real bytes, checked by each device.

Anybody can compute these keys, so that the same seed gives the same bytes: they are for nothing but the lab.

Directives and envelopes reach every device as the same bytes, and whether a signature holds does not depend on who
asks: what one device has found out of these bytes is remembered for the others. A welcome is for one session, and is
checked each time.
"""

from functools import lru_cache
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519

from firmware_store.documents import MAX_DOCUMENT_BYTES, Kind, Opened, seal
from firmware_store.keys import Algorithm, Kid, PublicKey, SigningKey
from firmware_store.roles import RoleName
from firmware_store.root import Role, Root
from firmware_store.suit import sign_envelope
from server.protocol.orders import Directive, Welcome, directive_map, welcome_map

_KEYS: Final = {
    RoleName.ROOT: 2,
    RoleName.RELEASE: 2,
    RoleName.STATUS: 1,
    RoleName.DIRECTIVE: 1,
    RoleName.SESSION: 1,
}
_REMEMBERED: Final = frozenset({RoleName.RELEASE, RoleName.DIRECTIVE})
_REMEMBERED_MOST: Final = 4096
_LIFETIME_S: Final = 10 * 366 * 86_400


class RememberingKey(PublicKey):
    """A public key that verifies the same bytes once."""

    def verify(self, signature: bytes, message: bytes) -> bool:
        return _verify(self.algorithm, self.material, signature, message)


class RememberingRoot(Root):
    """A root that opens the same directive once."""

    def unseal(
        self, kind: Kind, data: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES, revoked: frozenset[Kid] = frozenset()
    ) -> Opened:
        if kind is not Kind.DIRECTIVE:
            return super().unseal(kind, data, max_bytes=max_bytes, revoked=revoked)
        return _open(self, data, max_bytes, revoked)

    __hash__ = object.__hash__


@lru_cache(maxsize=_REMEMBERED_MOST)
def _open(root: RememberingRoot, data: bytes, max_bytes: int, revoked: frozenset[Kid]) -> Opened:
    return Root.unseal(root, Kind.DIRECTIVE, data, max_bytes=max_bytes, revoked=revoked)


@lru_cache(maxsize=_REMEMBERED_MOST)
def _verify(algorithm: Algorithm, material: bytes, signature: bytes, message: bytes) -> bool:
    return PublicKey(algorithm, material).verify(signature, message)


class Authority:
    """A virtual fleet's keys. ``root`` is what its devices have pinned."""

    def __init__(self, *, fleet: bytes, issued: int) -> None:
        """``fleet``: 16 bytes; ``issued``: Unix seconds."""
        self._keys = {role: [_key(role, number) for number in range(count)] for role, count in _KEYS.items()}
        public = {
            role: [_public(key, remembers=role in _REMEMBERED) for key in keys] for role, keys in self._keys.items()
        }
        self.root = RememberingRoot(
            version=1,
            issued=issued,
            expires=issued + _LIFETIME_S,
            fleet=fleet,
            keys={key.kid: key for keys in public.values() for key in keys},
            roles={role: Role(len(keys), tuple(sorted(key.kid for key in keys))) for role, keys in public.items()},
            dev=True,
        )

    def sign_release(self, envelope: bytes, *, strangers: bool = False) -> bytes:
        """Return the envelope with as many signatures as it needs, or with those of keys that nobody knows."""
        for number, key in enumerate(self._keys[RoleName.RELEASE]):
            envelope = sign_envelope(envelope, _key("stranger", number) if strangers else key)
        return envelope

    def sign_directive(self, directive: Directive) -> bytes:
        return seal(Kind.DIRECTIVE, directive_map(directive), self._keys[RoleName.DIRECTIVE])

    def sign_welcome(self, welcome: Welcome) -> bytes:
        return seal(Kind.WELCOME, welcome_map(welcome), self._keys[RoleName.SESSION])


def _key(role: str, number: int) -> SigningKey:
    seed = sha256(f"virtual fleet {role} {number}".encode()).digest()
    return SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(seed))


def _public(key: SigningKey, *, remembers: bool) -> PublicKey:
    public = key.public
    return RememberingKey(public.algorithm, public.material) if remembers else public
