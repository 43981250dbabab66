"""From what a person says about a new root to that root: checked before anybody is asked to sign it."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

from firmware_store.errors import InvalidInputError
from firmware_store.keys import KID_BYTES, Kid, PublicKey, load_public_key
from firmware_store.root import FLEET_BYTES, PRODUCTION_THRESHOLD, Role, RoleName, Root, Scope
from firmware_store.root_walk import check_succession
from firmware_store.suit import class_id, vendor_id
from server.cli.ask import parse_hex

DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class RootPlan:
    """The arguments of ``tidegate root new``, as they were typed."""

    keys: Sequence[str] = ()
    thresholds: Sequence[str] = ()
    scopes: Sequence[str] = ()
    floors: Sequence[str] = ()
    stolen: Sequence[str] = ()
    fleet: str | None = None
    dev: bool = False


@dataclass(frozen=True, slots=True)
class _Base:
    """What a new root starts from; a first root has roles, and no keys in them yet."""

    version: int
    fleet: bytes
    dev: bool
    roles: Mapping[RoleName, Role]
    keys: Mapping[Kid, PublicKey] = field(default_factory=dict)
    floors: Mapping[bytes, int] = field(default_factory=dict)
    dead_kids: frozenset[Kid] = frozenset()


def plan_root(plan: RootPlan, before: Root | None, *, now: int, days: int) -> Root:
    """Return the root that ``plan`` describes, which has yet to be signed.

    Raises:
        InvalidInputError: arguments that say nothing, or contradict each other.
        ConfigurationError: a key file that cannot be read.
        TrustError: no root, or none that could follow the one ``before``.
    """
    base = _first(plan) if before is None else _next(plan, before)
    stolen = frozenset(Kid(parse_hex(kid, "a key id", KID_BYTES)) for kid in plan.stolen)
    keys = _keys_by_role(plan, base, stolen)
    thresholds = {_role(name): _number(number) for name, number in _pairs(plan.thresholds)}
    root = Root(
        version=base.version,
        issued=now,
        expires=now + days * DAY_S,
        fleet=base.fleet,
        keys={key.kid: key for group in keys.values() for key in group},
        roles={
            name: Role(
                threshold=thresholds.get(name, role.threshold),
                kids=tuple(sorted(key.kid for key in keys[name])),
                epoch=role.epoch + bool(stolen & set(role.kids)),
                scopes=tuple(map(parse_scope, plan.scopes))
                if plan.scopes and name is RoleName.RELEASE
                else role.scopes,
            )
            for name, role in base.roles.items()
        },
        floors={**base.floors, **parse_floors(plan.floors)},
        dead_kids=base.dead_kids | stolen,
        dev=base.dev,
    )
    if before is not None:
        check_succession(before, root)
    return root


def parse_floors(floors: Iterable[str]) -> dict[bytes, int]:
    """Return the lowest sequence number by class, of CLASS=NUMBER.

    Raises:
        InvalidInputError: any other form.
    """
    return {parse_class(target): _number(floor) for target, floor in _pairs(floors)}


def parse_class(text: str) -> bytes:
    """Return the class of a UUID, or of VENDOR:MODEL.

    Raises:
        InvalidInputError: any other form.
    """
    vendor, separator, model = text.partition(":")
    if separator and vendor and model:
        return class_id(vendor_id(vendor), model)
    try:
        return UUID(text).bytes
    except ValueError as exc:
        raise InvalidInputError(f"a class is a UUID or VENDOR:MODEL, and not {text!r}") from exc


def parse_scope(text: str) -> Scope:
    """Return the scope of PREFIX,PREFIX@CLASS,CLASS, where nothing on one side stands for everything.

    Raises:
        InvalidInputError: a class that is none.
    """
    prefixes, _, classes = text.partition("@")
    return Scope(tuple(filter(None, prefixes.split(","))), tuple(map(parse_class, filter(None, classes.split(",")))))


def _first(plan: RootPlan) -> _Base:
    fleet = secrets.token_bytes(FLEET_BYTES) if plan.fleet is None else parse_hex(plan.fleet, "a fleet", FLEET_BYTES)
    many = 1 if plan.dev else PRODUCTION_THRESHOLD
    thresholds = {RoleName.ROOT: many, RoleName.RELEASE: many}
    return _Base(1, fleet, plan.dev, {name: Role(thresholds.get(name, 1), ()) for name in RoleName})


def _next(plan: RootPlan, before: Root) -> _Base:
    if plan.fleet is not None or plan.dev:
        raise InvalidInputError("the fleet, and whether its keys are for development, is said in its first root only")
    return _Base(
        before.version + 1,
        before.fleet,
        before.dev,
        before.roles,
        keys=before.keys,
        floors=before.floors,
        dead_kids=before.dead_kids,
    )


def _keys_by_role(plan: RootPlan, base: _Base, stolen: frozenset[Kid]) -> dict[RoleName, list[PublicKey]]:
    named: dict[RoleName, list[PublicKey]] = {}
    for role, path in _pairs(plan.keys):
        named.setdefault(_role(role), []).append(load_public_key(Path(path)))
    kept = {name: [base.keys[kid] for kid in role.kids if kid not in stolen] for name, role in base.roles.items()}
    return {**kept, **named}


def _pairs(arguments: Iterable[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator or not name or not value:
            raise InvalidInputError(f"{argument!r} must be NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _role(name: str) -> RoleName:
    try:
        return RoleName(name)
    except ValueError as exc:
        raise InvalidInputError(f"the roles are {', '.join(RoleName)}, and not {name!r}") from exc


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidInputError(f"{text!r} is not a number")
    return int(text)
