"""Roles of the trust root: who may sign, how many of them it takes, and for what."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from firmware_store.codec import Encodable, Value
from firmware_store.keys import KID_BYTES, Kid
from firmware_store.shapes import as_bytes, as_int, as_list, as_map, as_text

CLASS_ID_BYTES: Final = 16

# Labels of a role and of a scope.
_THRESHOLD, _KIDS, _EPOCH, _SCOPES = 1, 2, 3, 4
_PREFIXES, _CLASSES = 1, 2


class RoleName(StrEnum):
    ROOT = "root"
    RELEASE = "release"
    STATUS = "status"
    DIRECTIVE = "directive"
    SESSION = "session"


ROLE_NUMBERS: Final[Mapping[RoleName, int]] = MappingProxyType(
    {role: number for number, role in enumerate(RoleName, start=1)}
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What release keys may sign for; an empty tuple stands for all of them."""

    component_prefixes: tuple[str, ...] = ()
    classes: tuple[bytes, ...] = ()

    def covers(self, component: str, class_id: bytes) -> bool:
        return (not self.component_prefixes or component.startswith(self.component_prefixes)) and (
            not self.classes or class_id in self.classes
        )


@dataclass(frozen=True, slots=True)
class Role:
    """``epoch`` restarts the counters of whatever the role signs. No scopes: everything is in scope."""

    threshold: int
    kids: tuple[Kid, ...]
    epoch: int = 1
    scopes: tuple[Scope, ...] = ()

    def covers(self, component: str, class_id: bytes) -> bool:
        return not self.scopes or any(scope.covers(component, class_id) for scope in self.scopes)


def encode_role(role: Role) -> Encodable:
    """Return the map of a role inside of a root document."""
    members: dict[int, Encodable] = {_THRESHOLD: role.threshold, _KIDS: role.kids, _EPOCH: role.epoch}
    if role.scopes:
        members[_SCOPES] = [{_PREFIXES: scope.component_prefixes, _CLASSES: scope.classes} for scope in role.scopes]
    return members


def parse_role(value: Value) -> Role:
    """Return what ``encode_role`` wrote.

    Raises:
        CodecError: anything else.
    """
    members = as_map(value, "role", labels=(_THRESHOLD, _KIDS, _EPOCH), optional=(_SCOPES,))
    scopes: tuple[Scope, ...] = ()
    if _SCOPES in members:
        scopes = tuple(_parse_scope(scope) for scope in as_list(members[_SCOPES], "role scopes", least=1))
    return Role(
        threshold=as_int(members[_THRESHOLD], "role threshold"),
        kids=tuple(parse_kids(members[_KIDS])),
        epoch=as_int(members[_EPOCH], "role epoch"),
        scopes=scopes,
    )


def _parse_scope(value: Value) -> Scope:
    members = as_map(value, "scope", labels=(_PREFIXES, _CLASSES))
    prefixes = as_list(members[_PREFIXES], "scope prefixes")
    classes = as_list(members[_CLASSES], "scope classes")
    return Scope(
        component_prefixes=tuple(as_text(prefix, "scope prefix") for prefix in prefixes),
        classes=tuple(as_bytes(class_id, "scope class", size=CLASS_ID_BYTES) for class_id in classes),
    )


def parse_kids(value: Value) -> list[Kid]:
    return [Kid(as_bytes(kid, "key id", size=KID_BYTES)) for kid in as_list(value, "key ids")]
