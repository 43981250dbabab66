"""Filters as SQL: values are parameters, and the only columns are those of the tables below.

Every comparison is true or false, never null, so that ``NOT`` means what it means in memory (``domain.filter.holds``).
A property test asks both about the same devices.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, assert_never

from server.domain.filter import (
    BUNDLES,
    CAMPAIGNS,
    DEVICES,
    EXECUTIONS,
    FLEET_EXECUTIONS,
    LIVE,
    Begins,
    Compare,
    Conjunction,
    Disjunction,
    Expression,
    Kind,
    Negation,
    Present,
    Relation,
)
from server.domain.filter import (
    Fields as DomainFields,
)

IS_REVOKED: Final = "coalesce(admitted_at <= revoked_at, revoked_at IS NOT NULL)"
"""As long as it was let in no later than it was revoked; ``services.fleet`` says the same."""


@dataclass(frozen=True, slots=True)
class Column:
    """Where a field is. ``order``: what a version is compared by; ``day``: the day of an instant, which is indexed.

    A flag is an expression that is never null; ``when_true`` holds whenever it does, and may have an index.
    """

    text: str
    order: str = ""
    day: str = ""
    when_true: str = ""


Columns = Mapping[str, Column]

DEVICE_COLUMNS: Final[Columns] = MappingProxyType(
    {
        "id": Column("device.id"),
        "region": Column("device.region"),
        "cohort": Column("device.cohort"),
        "version": Column("device.running_version", order="device.running_order"),
        "sequence": Column("device.running_sequence"),
        "vendor": Column("device.vendor"),
        "hardware": Column("device.hardware"),
        "agent_version": Column("device.agent_version", order="version_order(device.agent_version)"),
        "slot": Column("device.booted_slot"),
        "last_seen": Column("device.last_seen", day="device.seen_on"),
        "member_since": Column("device.member_since"),
        "added": Column("device.created_at"),
        "held": Column("device.held"),
        "revoked": Column(IS_REVOKED, when_true="device.revoked_at IS NOT NULL"),
        "claimed": Column(
            "(device.admitted_at IS NOT NULL OR EXISTS (SELECT FROM device_claim WHERE device_id = device.id))"
        ),
        "labels": Column("device.all_labels"),
    }
)

CAMPAIGN_COLUMNS: Final[Columns] = MappingProxyType(
    {
        "name": Column("name"),
        "cohort": Column("cohort"),
        "state": Column("state"),
        "created_by": Column("created_by"),
        "created": Column("created_at"),
        "started": Column("started_at"),
        "ended": Column("ended_at"),
        "run": Column("run"),
    }
)

EXECUTION_COLUMNS: Final[Columns] = MappingProxyType(
    {
        "device": Column("device_id"),
        "region": Column("region"),
        "state": Column("state"),
        "attempt": Column("attempt"),
        "slot": Column("slot"),
        "detail": Column("detail"),
        "started": Column("started_at"),
        "updated": Column("updated_at"),
    }
)

FLEET_EXECUTION_COLUMNS: Final[Columns] = MappingProxyType(
    {
        **EXECUTION_COLUMNS,
        "campaign": Column("('cmp_' || replace(c.id::text, '-', ''))"),
        "campaign_name": Column("c.name"),
        "cohort": Column("c.cohort"),
    }
)

BUNDLE_COLUMNS: Final[Columns] = MappingProxyType(
    {
        "version": Column("version", order="version_order(version)"),
        "sequence": Column("sequence_number"),
        "created_by": Column("created_by"),
        "created": Column("created_at"),
        "size_bytes": Column("size_bytes"),
    }
)

_TYPES: Final[Mapping[type, str]] = MappingProxyType({str: "text", int: "bigint"})


@dataclass(slots=True)
class Where:
    """A condition under construction; ``values`` are the parameters from ``$first`` on."""

    fields: DomainFields
    columns: Columns
    first: int
    values: list[Any] = field(default_factory=list)

    def compile(self, expression: Expression) -> str:
        """Return the SQL of a filter."""
        match expression:
            case Present(name, key):
                if key:
                    return f"({self.columns[name].text} ? {self._value(key, 'text')})"
                return f"({self.columns[name].day or self.columns[name].text} IS NOT NULL)"
            case Compare():
                return self._comparison(expression)
            case Begins():
                return self._beginning(expression)
            case Negation(inner):
                return f"(NOT {self.compile(inner)})"
            case Conjunction(parts):
                return f"({' AND '.join(map(self.compile, parts))})" if parts else "true"
            case Disjunction(parts):
                return f"({' OR '.join(map(self.compile, parts))})" if parts else "false"
            case _:
                assert_never(expression)

    def _comparison(self, one: Compare) -> str:
        column, kind, value = self.columns[one.field], self.fields[one.field].kind, one.value
        match kind:
            case Kind.FLAG:
                if not value:
                    return f"(NOT {column.text})"
                return f"({column.when_true} AND {column.text})" if column.when_true else column.text
            case Kind.LABELS:
                return f"({column.text} @> {self._value(json.dumps({one.key: value}), 'text')}::jsonb)"
            case Kind.VERSION if isinstance(value, tuple):
                return self._related(column.order, one.relation, self._value(list(value), "bigint[]"))
            case Kind.INSTANT:
                compared = self._related(column.text, one.relation, self._value(value, "timestamptz"))
                if not column.day:
                    return compared
                bound = Relation.AT_MOST if one.relation in {Relation.BELOW, Relation.AT_MOST} else Relation.AT_LEAST
                day = f"(${self.first + len(self.values) - 1} AT TIME ZONE 'UTC')::date"
                return f"({compared} AND {column.day} {bound} {day})"
        return self._related(column.text, one.relation, self._value(value, _TYPES[type(value)]))

    def _related(self, column: str, relation: Relation, value: str) -> str:
        return f"({column} IS NOT NULL AND {column} {relation.value} {value})"

    def _beginning(self, one: Begins) -> str:
        text = self.columns[one.field].text
        if one.key:
            text = f"({text} ->> {self._value(one.key, 'text')})"
        return f"({text} IS NOT NULL AND {text} ^@ {self._value(one.prefix, 'text')})"

    def _value(self, value: object, type_name: str) -> str:
        self.values.append(value)
        return f"${self.first + len(self.values) - 1}::{type_name}"


def where_devices(expression: Expression, first: int) -> tuple[str, list[Any]]:
    """Return the condition on ``device`` and its parameters, which begin at ``$first``.

    Raises:
        KeyError: the filter looks at what the database does not know (``filter.LIVE``); take that out before.
    """
    return _compiled(expression, DEVICES, DEVICE_COLUMNS, first)


def where_campaigns(expression: Expression, first: int) -> tuple[str, list[Any]]:
    """Return the same for ``campaign``."""
    return _compiled(expression, CAMPAIGNS, CAMPAIGN_COLUMNS, first)


def where_executions(expression: Expression, first: int) -> tuple[str, list[Any]]:
    """Return the same for ``execution``."""
    return _compiled(expression, EXECUTIONS, EXECUTION_COLUMNS, first)


def where_fleet_executions(expression: Expression, first: int) -> tuple[str, list[Any]]:
    """Return the same for ``execution`` with its ``campaign AS c``."""
    return _compiled(expression, FLEET_EXECUTIONS, FLEET_EXECUTION_COLUMNS, first)


def where_bundles(expression: Expression, first: int) -> tuple[str, list[Any]]:
    """Return the same for ``bundle``."""
    return _compiled(expression, BUNDLES, BUNDLE_COLUMNS, first)


def _compiled(expression: Expression, fields: DomainFields, columns: Columns, first: int) -> tuple[str, list[Any]]:
    where = Where(fields, columns, first)
    text = where.compile(expression)
    return text, where.values


assert DEVICE_COLUMNS.keys() | LIVE == DEVICES.keys()
