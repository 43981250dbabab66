"""A filter with its meaning, and what it says of one object in memory (pure).

There are two truth values. What is not there is equal to nothing and neither below nor above anything, and ``NOT`` of
that is true: ``NOT labels.x = y`` keeps devices without x, and ``a != b`` is ``NOT a = b``. The database has to say the
same, see ``server.db.filters``.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, assert_never

from server.domain.filter.values import Order, version_order

Value = str | int | bool | datetime | Order
"""A bool for flags, an ``Order`` for versions; a version that is none of ours is compared as text, for equality."""

Look = Callable[[str, str], Any]
"""What an object has under a field and, of labels, a key; None: nothing."""


class Relation(StrEnum):
    """How a value is compared."""

    EQUAL = "="
    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="


@dataclass(frozen=True, slots=True)
class Present:
    """There is something under a field, or under a key of labels."""

    field: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison; ``value`` is of the field's kind."""

    field: str
    relation: Relation
    value: Value
    key: str = ""


@dataclass(frozen=True, slots=True)
class Begins:
    """A text that begins with ``prefix``."""

    field: str
    prefix: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Negation:
    """The opposite."""

    of: "Expression"


@dataclass(frozen=True, slots=True)
class Conjunction:
    """All of these; true where there are none."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Disjunction:
    """One of these at least; false where there are none."""

    parts: tuple["Expression", ...]


Leaf = Present | Compare | Begins
Expression = Leaf | Negation | Conjunction | Disjunction

_RELATIONS: Final[Mapping[Relation, Callable[[Any, Any], bool]]] = MappingProxyType(
    {
        Relation.EQUAL: operator.eq,
        Relation.BELOW: operator.lt,
        Relation.AT_MOST: operator.le,
        Relation.ABOVE: operator.gt,
        Relation.AT_LEAST: operator.ge,
    }
)


def holds(expression: Expression, look: Look) -> bool:
    """Tell whether a filter lets an object through."""
    match expression:
        case Present(field, key):
            return look(field, key) is not None
        case Compare(field, relation, value, key):
            found = look(field, key)
            if isinstance(value, tuple) and found is not None:
                found = version_order(found)
            return found is not None and _RELATIONS[relation](found, value)
        case Begins(field, prefix, key):
            found = look(field, key)
            return found is not None and found.startswith(prefix)
        case Negation(inner):
            return not holds(inner, look)
        case Conjunction(parts):
            return all(holds(part, look) for part in parts)
        case Disjunction(parts):
            return any(holds(part, look) for part in parts)
        case _:
            assert_never(expression)


def fields_of(expression: Expression) -> frozenset[str]:
    """Return the names of the fields that a filter looks at."""
    match expression:
        case Present() | Compare() | Begins():
            return frozenset({expression.field})
        case Negation(inner):
            return fields_of(inner)
        case Conjunction(parts) | Disjunction(parts):
            return frozenset().union(*map(fields_of, parts))
        case _:
            assert_never(expression)


def ignoring(expression: Expression, fields: frozenset[str], *, wider: bool = True) -> Expression:
    """Return a filter that does not look at these fields, and lets through whatever the given one does.

    ``wider`` false: one that lets nothing through that the given one does not.
    """
    match expression:
        case Present() | Compare() | Begins():
            if expression.field not in fields:
                return expression
            return Conjunction(()) if wider else Disjunction(())
        case Negation(inner):
            return Negation(ignoring(inner, fields, wider=not wider))
        case Conjunction(parts):
            return Conjunction(tuple(ignoring(part, fields, wider=wider) for part in parts))
        case Disjunction(parts):
            return Disjunction(tuple(ignoring(part, fields, wider=wider) for part in parts))
        case _:
            assert_never(expression)
