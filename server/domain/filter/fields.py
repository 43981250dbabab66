"""The fields that filters may name, and the reading of a filter with them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from firmware_store.errors import InvalidInputError
from server.domain import campaign, execution
from server.domain.filter.expression import (
    Begins,
    Compare,
    Conjunction,
    Disjunction,
    Expression,
    Negation,
    Present,
    Relation,
    Value,
)
from server.domain.filter.grammar import POINTER, Tree, Words, parse
from server.domain.filter.values import read_instant, read_number, version_order


class Kind(Enum):
    """What a field holds, and so how it is compared."""

    TEXT = auto()
    VERSION = auto()
    INSTANT = auto()
    NUMBER = auto()
    FLAG = auto()
    LABELS = auto()


@dataclass(frozen=True, slots=True)
class Field:
    """``words``: the only values that a text has; empty: any."""

    kind: Kind
    meaning: str
    words: frozenset[str] = frozenset()


Fields = Mapping[str, Field]

DEVICES: Final[Fields] = MappingProxyType(
    {
        "id": Field(Kind.TEXT, "its id"),
        "region": Field(Kind.TEXT, "where it is"),
        "cohort": Field(Kind.TEXT, "which part of the fleet it belongs to"),
        "version": Field(Kind.VERSION, "of the release it runs, as it says"),
        "sequence": Field(Kind.NUMBER, "the sequence number of that release"),
        "vendor": Field(Kind.TEXT, "who made it"),
        "hardware": Field(Kind.TEXT, "its hardware class"),
        "agent_version": Field(Kind.VERSION, "of its agent"),
        "slot": Field(Kind.TEXT, "the slot it has booted"),
        "online": Field(Kind.FLAG, "it has a session now; not for changes of many devices"),
        "last_seen": Field(Kind.INSTANT, "when it was last heard from, up to five minutes late; `:*`: ever"),
        "member_since": Field(Kind.INSTANT, "when it joined its cohort and region"),
        "added": Field(Kind.INSTANT, "when it was added"),
        "held": Field(Kind.FLAG, "it starts nothing"),
        "revoked": Field(Kind.FLAG, "it is shut out until it enrols again"),
        "claimed": Field(Kind.FLAG, "somebody has made a claim for it, or it was given a credential"),
        "labels": Field(Kind.LABELS, "what it says of itself, and what people say of it: `labels.site = hamburg`"),
    }
)
LIVE: Final = frozenset({"online"})
"""Fields of devices that the database does not know."""

CAMPAIGNS: Final[Fields] = MappingProxyType(
    {
        "name": Field(Kind.TEXT, "what people call it"),
        "cohort": Field(Kind.TEXT, "whose devices it is for"),
        "state": Field(Kind.TEXT, "its state", frozenset(campaign.State)),
        "created_by": Field(Kind.TEXT, "who drafted it"),
        "created": Field(Kind.INSTANT, "when it was drafted"),
        "started": Field(Kind.INSTANT, "when it was started"),
        "ended": Field(Kind.INSTANT, "when it ended"),
        "run": Field(Kind.NUMBER, "1, and one more with each resume after a halt"),
    }
)

EXECUTIONS: Final[Fields] = MappingProxyType(
    {
        "device": Field(Kind.TEXT, "whose it is"),
        "region": Field(Kind.TEXT, "where the device was"),
        "state": Field(Kind.TEXT, "its state", frozenset(execution.State)),
        "attempt": Field(Kind.NUMBER, "which attempt"),
        "slot": Field(Kind.TEXT, "the slot that is written"),
        "detail": Field(Kind.TEXT, "what the device adds to its reason"),
        "started": Field(Kind.INSTANT, "when it was first heard of"),
        "updated": Field(Kind.INSTANT, "when something last changed"),
    }
)

FLEET_EXECUTIONS: Final[Fields] = MappingProxyType(
    {
        **EXECUTIONS,
        "campaign": Field(Kind.TEXT, "the id of its campaign (cmp_...)"),
        "campaign_name": Field(Kind.TEXT, "what its campaign is called"),
        "cohort": Field(Kind.TEXT, "of its campaign"),
    }
)

BUNDLES: Final[Fields] = MappingProxyType(
    {
        "version": Field(Kind.VERSION, "of the release"),
        "sequence": Field(Kind.NUMBER, "its sequence number"),
        "created_by": Field(Kind.TEXT, "who uploaded it"),
        "created": Field(Kind.INSTANT, "when it was uploaded"),
        "size_bytes": Field(Kind.NUMBER, "its images together"),
    }
)

_OPERATORS: Final[Mapping[Kind, Collection[str]]] = MappingProxyType(
    {
        Kind.TEXT: ("=", "!=", ":"),
        Kind.VERSION: ("=", "!=", "<", "<=", ">", ">=", ":"),
        Kind.INSTANT: ("<", "<=", ">", ">=", ":"),
        Kind.NUMBER: ("=", "!=", "<", "<=", ">", ">=", ":"),
        Kind.FLAG: ("=", "!="),
        Kind.LABELS: ("=", "!=", ":"),
    }
)


def read_filter(text: str, fields: Fields, now: datetime) -> Expression:
    """Return the meaning of a filter on objects with these fields; ``now`` is what ``now-7d`` counts from.

    Raises:
        InvalidInputError: it is no filter, or names what is not there; the text says where, and what is.
    """
    return _bound(parse(text), fields, now)


def _bound(tree: Tree, fields: Fields, now: datetime) -> Expression:
    if isinstance(tree, Words):
        return _leaf(tree, fields, now)
    parts = tuple(_bound(part, fields, now) for part in tree.parts)
    if tree.word == "NOT":
        return Negation(parts[0])
    if len(parts) == 1:
        return parts[0]
    return Conjunction(parts) if tree.word == "AND" else Disjunction(parts)


def _leaf(words: Words, fields: Fields, now: datetime) -> Expression:
    field = fields.get(words.field)
    if field is None:
        raise _error(words.at, f"there is no field {words.field}; there are {', '.join(fields)}")
    if words.operator not in _OPERATORS[field.kind]:
        raise _error(
            words.at, f"{words.field} is compared by {' '.join(_OPERATORS[field.kind])}, not by {words.operator}"
        )
    if words.key and field.kind is not Kind.LABELS:
        raise _error(words.at, f"{words.field} has no parts")
    if words.operator == ":":
        return _present(words, field)
    if field.kind is Kind.LABELS and not words.key:
        raise _error(words.at, f"name the label: {words.field}.NAME {words.operator} {words.value}")
    if words.operator == "!=":
        return Negation(_compared(words, field, Relation.EQUAL, now))
    return _compared(words, field, Relation(words.operator), now)


def _present(words: Words, field: Field) -> Expression:
    if words.value == "*" and not words.is_quoted:
        if field.kind is Kind.LABELS and not words.key:
            raise _error(words.at, f"name the label: {words.field}.NAME:*")
        return Present(words.field, words.key)
    if field.kind is Kind.LABELS and not words.key:
        return Present(words.field, words.value)
    raise _error(words.value_at, f"after {words.field}: comes *, which asks whether there is any; = compares")


def _compared(words: Words, field: Field, relation: Relation, now: datetime) -> Expression:
    text = words.value
    if "*" in text and not words.is_quoted:
        if field.kind not in {Kind.TEXT, Kind.LABELS} or field.words or text.index("*") < len(text) - 1:
            raise _error(
                words.value_at, f"{words.field} is not compared with {text}: a * ends a text, or stands in quotes"
            )
        return Begins(words.field, text[:-1], words.key)
    value: Value | None = text
    wanted = ""
    match field.kind:
        case Kind.VERSION:
            order = version_order(text)
            value = order if order is not None or relation is not Relation.EQUAL else text
            wanted = "a version such as 1.10.0 or 1.10.0-rc.1"
        case Kind.INSTANT:
            value = read_instant(text, now)
            wanted = "a time such as 2026-03-01T12:00:00Z, or now-7d (s, m, h, d)"
        case Kind.NUMBER:
            value = read_number(text)
            wanted = "a whole number"
        case Kind.FLAG:
            value = {"true": True, "false": False}.get(text)
            wanted = "true or false"
        case Kind.TEXT if field.words and text not in field.words:
            value = None
            wanted = f"one of {', '.join(sorted(field.words))}"
    if value is None:
        raise _error(words.value_at, f"{words.field} is compared with {wanted}")
    return Compare(words.field, relation, value, words.key)


def _error(at: int, what: str) -> InvalidInputError:
    return InvalidInputError(f"At character {at} of the filter: {what}.", pointer=POINTER)
