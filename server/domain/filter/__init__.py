"""The one language of filters: its grammar, its fields, and what it says of an object in memory (all of it pure)."""

from server.domain.filter.expression import (
    Begins,
    Compare,
    Conjunction,
    Disjunction,
    Expression,
    Look,
    Negation,
    Present,
    Relation,
    fields_of,
    holds,
    ignoring,
)
from server.domain.filter.fields import (
    BUNDLES,
    CAMPAIGNS,
    DEVICES,
    EXECUTIONS,
    FLEET_EXECUTIONS,
    LIVE,
    Field,
    Fields,
    Kind,
    read_filter,
)
from server.domain.filter.grammar import COMPARISONS_MOST, DEPTH_MOST, POINTER
from server.domain.filter.values import version_order

__all__ = [
    "BUNDLES",
    "CAMPAIGNS",
    "COMPARISONS_MOST",
    "DEPTH_MOST",
    "DEVICES",
    "EXECUTIONS",
    "FLEET_EXECUTIONS",
    "LIVE",
    "POINTER",
    "Begins",
    "Compare",
    "Conjunction",
    "Disjunction",
    "Expression",
    "Field",
    "Fields",
    "Kind",
    "Look",
    "Negation",
    "Present",
    "Relation",
    "fields_of",
    "holds",
    "ignoring",
    "read_filter",
    "version_order",
]
