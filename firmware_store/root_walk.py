"""From one root document to the next: N, then N + 1, and never any other way (TUF 5.3).

A step needs the thresholds of both: of N, so that nobody but the present root keys names the next ones; of N + 1, so
that nobody names keys that do not exist or were not asked. What protects devices only ever grows along the way: dead
keys stay dead, floors and epochs do not fall, and a fleet of development keys does not become anything else, since
anybody may have had those keys.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from firmware_store.documents import Kind
from firmware_store.errors import AudienceError, ConflictError, NotFoundError, ReplayError, SuccessionError
from firmware_store.keys import Kid, PublicKey
from firmware_store.root import Role, Root, open_root


def verify_successor(trusted: Root, data: bytes, *, now: int | None = None) -> Root:
    """Return the root that follows ``trusted``.

    ``now`` is only for the last step of a walk: the roots on the way to it may well have expired (TUF 5.3.10).

    Raises:
        SignatureError: not signed by the thresholds of both roots; nothing was parsed unless the first one signed.
        ReplayError: a version that is not above that of ``trusted``.
        AudienceError: the root of another fleet.
        SuccessionError: see ``check_succession``.
        CodecError, WeakKeyError, TrustError, ExpiredError: see ``open_root``.
    """
    trusted.unseal(Kind.ROOT, data)
    successor = open_root(data, now=now)
    check_succession(trusted, successor)
    return successor


def walk(trusted: Root, documents: Iterable[bytes]) -> Iterator[Root]:
    """Yield each root along the way; keep each as it comes, since a bad one further on takes none of them back.

    Raises:
        TrustError, CodecError: at the first document that does not follow the one before it.
    """
    for data in documents:
        trusted = verify_successor(trusted, data)
        yield trusted


def check_succession(trusted: Root, successor: Root) -> None:
    """Check all that does not depend on who signed.

    Raises:
        AudienceError: another fleet.
        ReplayError: a version that is not above that of ``trusted``.
        SuccessionError: more than one step, or a step that takes protection away.
    """
    if successor.fleet != trusted.fleet:
        raise AudienceError("the root of another fleet")
    if successor.version <= trusted.version:
        raise ReplayError(f"root {successor.version}, where root {trusted.version} is known already")
    if successor.version != trusted.version + 1:
        raise SuccessionError(f"root {successor.version} cannot follow root {trusted.version}: one step at a time")
    if successor.dev != trusted.dev:
        raise SuccessionError("development keys stay development keys: make a new root for a new fleet")
    for name, role in trusted.roles.items():
        if successor.roles[name].epoch < role.epoch:
            raise SuccessionError(f"the epoch of the {name} role fell below {role.epoch}")
    revived = trusted.dead_kids - successor.dead_kids
    if revived:
        raise SuccessionError(f"dead keys stay dead: {', '.join(sorted(kid.hex() for kid in revived))}")
    for class_id, floor in trusted.floors.items():
        if successor.floors.get(class_id, 0) < floor:
            raise SuccessionError(f"the floor of class {class_id.hex()} fell below {floor}")


def replace_key(trusted: Root, kid: Kid, new: PublicKey, *, stolen: bool, issued: int, expires: int) -> Root:
    """Return the root after ``trusted``, with ``new`` in the place of the key ``kid``; it has yet to be signed.

    A ``stolen`` key is dead from then on, and the epoch of its role rises: whatever counter its thief has burnt,
    the next document of that role is newer.

    Raises:
        NotFoundError: no role has that key.
        ConflictError: the new key has a role already, or is dead.
        TrustError: the result would be no root.
    """
    name = next((name for name, role in trusted.roles.items() if kid in role.kids), None)
    if name is None:
        raise NotFoundError(f"no role of root {trusted.version} has the key {kid.hex()}")
    if new.kid in trusted.keys or new.kid in trusted.dead_kids:
        raise ConflictError(f"key {new.kid.hex()} is in use, or dead: a new key must be new")
    role = trusted.roles[name]
    kids = (*(one for one in role.kids if one != kid), new.kid)
    changed = Role(role.threshold, tuple(sorted(kids)), role.epoch + stolen, role.scopes)
    return replace(
        trusted,
        version=trusted.version + 1,
        issued=issued,
        expires=expires,
        keys={**{one: key for one, key in trusted.keys.items() if one != kid}, new.kid: new},
        roles={**trusted.roles, name: changed},
        dead_kids=trusted.dead_kids | ({kid} if stolen else set()),
    )
