"""The trust root: which keys may sign what, and how many of them it takes.

A root document is trusted because its bytes are pinned (the first one) or because the one before it says so. It is
verified against its own root role in any case: whoever holds the file can check that it is whole and was meant.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

from firmware_store.codec import Encodable, Value, encode
from firmware_store.documents import MAX_DOCUMENT_BYTES, Kind, Opened, decode_payload, seal, split, unseal
from firmware_store.errors import CodecError, ConfigurationError, ConflictError, ExpiredError, TrustError
from firmware_store.keys import Algorithm, Kid, PublicKey, SigningKey, save_key
from firmware_store.private_files import write_new_file
from firmware_store.roles import (
    CLASS_ID_BYTES,
    ROLE_NUMBERS,
    Role,
    RoleName,
    Scope,
    encode_role,
    parse_kids,
    parse_role,
)
from firmware_store.shapes import as_bool, as_bytes, as_int, as_list, as_map

__all__ = ["ROOT_FILE", "Role", "RoleName", "Root", "Scope", "init_dev_keys", "key_file", "open_root", "read_root"]

FORMAT: Final = 1
FLEET_BYTES: Final = 16
MAX_CLOCK_SKEW: Final = timedelta(days=1)
PRODUCTION_THRESHOLD: Final = 2
ROOT_FILE: Final = "root.cbor"

# Labels of the payload.
_FORMAT, _VERSION, _ISSUED, _EXPIRES, _FLEET, _KEYS, _ROLES, _FLOORS, _DEAD_KIDS, _DEV = range(10)

_DEV_LIFETIME: Final = timedelta(days=365)
# Both algorithms in each role that has two keys, so that every development run exercises both.
_DEV_KEYS: Final = MappingProxyType(
    {
        RoleName.ROOT: (Algorithm.ED25519, Algorithm.ESP256),
        RoleName.RELEASE: (Algorithm.ED25519, Algorithm.ESP256),
        RoleName.STATUS: (Algorithm.ED25519,),
        RoleName.DIRECTIVE: (Algorithm.ED25519,),
        RoleName.SESSION: (Algorithm.ED25519,),
    }
)
_ROLE_OF_KIND: Final = MappingProxyType(
    {
        Kind.ROOT: RoleName.ROOT,
        Kind.STATUS: RoleName.STATUS,
        Kind.DIRECTIVE: RoleName.DIRECTIVE,
        Kind.WELCOME: RoleName.SESSION,
        Kind.RELEASE_RECORD: RoleName.RELEASE,
        Kind.CHECKPOINT: RoleName.SESSION,
        Kind.RESTORE_NOTE: RoleName.SESSION,
    }
)


@dataclass(frozen=True, slots=True)
class Root:
    """A root document's content; ``issued`` and ``expires`` are Unix seconds, ``floors`` lowest sequence numbers.

    Raises:
        TrustError: on creation, for rules that could not be enforced or would enforce nothing.
    """

    version: int
    issued: int
    expires: int
    fleet: bytes
    keys: Mapping[Kid, PublicKey]
    roles: Mapping[RoleName, Role]
    floors: Mapping[bytes, int] = field(default_factory=dict)
    dead_kids: frozenset[Kid] = frozenset()
    dev: bool = False

    def __post_init__(self) -> None:
        if self.version < 1 or not 0 <= self.issued < self.expires or len(self.fleet) != FLEET_BYTES:
            raise TrustError("a root needs a version from 1, an issue before its expiry and a fleet id of 16 bytes")
        if any(kid != key.kid for kid, key in self.keys.items()):
            raise TrustError("a key in the root under an id that is not its own")
        if any(len(class_id) != CLASS_ID_BYTES or floor < 0 for class_id, floor in self.floors.items()):
            raise TrustError("a floor in the root needs a class id of 16 bytes and a number from 0")
        if self.roles.keys() != set(RoleName):
            raise TrustError(f"a root has exactly the roles {', '.join(RoleName)}")
        assigned = [kid for role in self.roles.values() for kid in role.kids]
        if sorted(assigned) != sorted(self.keys):
            raise TrustError("every key of the root belongs to exactly one role, once")
        for name, role in self.roles.items():
            self._check_role(name, role)

    def _check_role(self, name: RoleName, role: Role) -> None:
        alive = len(set(role.kids) - self.dead_kids)
        if not 1 <= role.threshold <= alive:
            raise TrustError(f"the {name} role needs {role.threshold} of {alive} usable keys")
        if role.threshold < PRODUCTION_THRESHOLD and name in (RoleName.ROOT, RoleName.RELEASE) and not self.dev:
            raise TrustError(f"outside of development the {name} role needs a threshold of at least 2")
        if role.epoch < 1:
            raise TrustError("epochs count from 1")
        if role.scopes and name is not RoleName.RELEASE:
            raise TrustError("only the release role has scopes")

    def payload(self) -> dict[int, Encodable]:
        """Return the map that the root role signs."""
        return {
            _FORMAT: FORMAT,
            _VERSION: self.version,
            _ISSUED: self.issued,
            _EXPIRES: self.expires,
            _FLEET: self.fleet,
            _KEYS: [self.keys[kid].to_cose() for kid in sorted(self.keys)],
            _ROLES: {ROLE_NUMBERS[name]: encode_role(role) for name, role in self.roles.items()},
            _FLOORS: dict(self.floors),
            _DEAD_KIDS: sorted(self.dead_kids),
            _DEV: self.dev,
        }

    def keys_for(self, role: RoleName, *, revoked: frozenset[Kid] = frozenset()) -> Mapping[Kid, PublicKey]:
        """Return the keys whose signatures count for ``role``; ``revoked`` are those of the status document."""
        return {kid: self.keys[kid] for kid in self.roles[role].kids if kid not in self.dead_kids | revoked}

    def unseal(
        self,
        kind: Kind,
        data: bytes,
        *,
        max_bytes: int = MAX_DOCUMENT_BYTES,
        revoked: frozenset[Kid] = frozenset(),
    ) -> Opened:
        """Open a document with the keys and the threshold of the role that signs this kind.

        Roots and status documents are never opened with ``revoked``: who holds the status key must not be able to
        keep the root that replaces it from being read.

        Raises:
            CodecError, SignatureError: see ``documents.unseal``.
        """
        role = _ROLE_OF_KIND[kind]
        keys = self.keys_for(role, revoked=revoked)
        return unseal(data, kind, keys=keys, threshold=self.roles[role].threshold, max_bytes=max_bytes)

    def check_time(self, now: int) -> None:
        """Whoever starts or activates something asks this first; halting never does.

        Raises:
            ExpiredError: the root is no longer valid at ``now``, or not yet.
        """
        if now >= self.expires:
            raise ExpiredError("the trust root has expired")
        if now < self.issued - int(MAX_CLOCK_SKEW.total_seconds()):
            raise ExpiredError("the trust root is from the future: check the clock")


def open_root(data: bytes, *, now: int | None) -> Root:
    """Return the root in a sealed document whose bytes the caller has reason to trust.

    ``now`` is None where no clock can be trusted; expiry is then not looked at.

    Raises:
        CodecError, SignatureError, WeakKeyError, TrustError, ExpiredError: the document is not to be used.
    """
    root = read_root(data)
    root.unseal(Kind.ROOT, data)
    if now is not None:
        root.check_time(now)
    return root


def read_root(data: bytes) -> Root:
    """Return what a root document says, with nothing verified: for whoever is to sign it.

    Raises:
        CodecError, WeakKeyError, TrustError: not a root that could ever be used.
    """
    payload, _ = split(data, least=0)
    root = _parse_root(decode_payload(payload))
    # One content has one form: what ``payload`` would write is what was signed.
    if encode(root.payload()) != payload:
        raise CodecError("a root document's keys and ids must be sorted, and each listed once")
    return root


def key_file(directory: Path, role: RoleName, number: int = 1) -> Path:
    """Return where ``init_dev_keys`` puts a role's key: ``release-2.pem``."""
    return directory / f"{role}-{number}.pem"


def init_dev_keys(directory: Path, *, fleet: bytes | None, now: int) -> Root:
    """Write unencrypted key files per role, and ``root.cbor`` last: where that exists, the set is complete.

    For the demo and for tests: the root says so in its dev flag, which a production configuration refuses.
    The thresholds are the numbers of keys: two for root and release, one for the others. ``now`` in Unix seconds.

    Raises:
        ConflictError: the directory holds keys already; none is overwritten.
        ConfigurationError: the directory cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"cannot create {directory}: {exc.strerror}") from exc
    path = directory / ROOT_FILE
    if path.exists():
        raise ConflictError(f"{path} exists: these keys are in use and are not overwritten")
    keys = {
        role: [SigningKey.generate(algorithm) for algorithm in algorithms] for role, algorithms in _DEV_KEYS.items()
    }
    root = Root(
        version=1,
        issued=now,
        expires=now + int(_DEV_LIFETIME.total_seconds()),
        fleet=secrets.token_bytes(FLEET_BYTES) if fleet is None else fleet,
        keys={key.public.kid: key.public for group in keys.values() for key in group},
        roles={role: Role(len(group), tuple(sorted(key.public.kid for key in group))) for role, group in keys.items()},
        dev=True,
    )
    for role, group in keys.items():
        for number, key in enumerate(group, start=1):
            save_key(key_file(directory, role, number), key, None, dev=True)
    write_new_file(path, seal(Kind.ROOT, root.payload(), keys[RoleName.ROOT]), mode=0o644)
    return root


def _parse_root(payload: dict[int, Value]) -> Root:
    members = as_map(payload, "root", labels=range(_DEV + 1))
    as_int(members[_FORMAT], "root format", least=FORMAT, most=FORMAT)
    keys = [PublicKey.from_cose(key) for key in as_list(members[_KEYS], "root keys")]
    roles = as_map(members[_ROLES], "root roles", labels=ROLE_NUMBERS.values())
    floors = as_map(members[_FLOORS], "root floors")
    return Root(
        version=as_int(members[_VERSION], "root version"),
        issued=as_int(members[_ISSUED], "root issue time"),
        expires=as_int(members[_EXPIRES], "root expiry"),
        fleet=as_bytes(members[_FLEET], "root fleet"),
        keys={key.kid: key for key in keys},
        roles={name: parse_role(roles[number]) for name, number in ROLE_NUMBERS.items()},
        floors={as_bytes(label, "floor class"): as_int(floor, "floor") for label, floor in floors.items()},
        dead_kids=frozenset(parse_kids(members[_DEAD_KIDS])),
        dev=as_bool(members[_DEV], "root dev flag"),
    )
