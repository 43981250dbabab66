"""What part of the fleet somebody may see and change: some regions, some cohorts, or all of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from server.domain.filter import Compare, Conjunction, Disjunction, Expression, Relation
from server.domain.identity import Cohort, Region


@dataclass(frozen=True, slots=True)
class Scope:
    """None: all regions, all cohorts. With both, a device must be in one of these regions and one of these cohorts."""

    regions: frozenset[Region] | None = None
    cohorts: frozenset[Cohort] | None = None

    @property
    def is_limited(self) -> bool:
        return self.regions is not None or self.cohorts is not None

    @property
    def region_names(self) -> list[Region] | None:
        """The regions as a parameter of SQL."""
        return None if self.regions is None else sorted(self.regions)

    @property
    def cohort_names(self) -> list[Cohort] | None:
        """The cohorts as a parameter of SQL."""
        return None if self.cohorts is None else sorted(self.cohorts)

    def has_region(self, region: Region) -> bool:
        return self.regions is None or region in self.regions

    def has_cohort(self, cohort: Cohort) -> bool:
        return self.cohorts is None or cohort in self.cohorts

    def has(self, region: Region, cohort: Cohort) -> bool:
        """Tell whether a device that is there is within it."""
        return self.has_region(region) and self.has_cohort(cohort)

    def has_some(self, regions: Iterable[Region], cohort: Cohort) -> bool:
        """Tell whether a campaign over these may be looked at: one of its regions is enough."""
        return self.has_cohort(cohort) and any(map(self.has_region, regions))

    def has_all(self, regions: Iterable[Region], cohort: Cohort) -> bool:
        """Tell whether a campaign over these may be changed."""
        return self.has_cohort(cohort) and all(map(self.has_region, regions))

    def is_within(self, other: "Scope") -> bool:
        """Tell whether whoever has this sees nothing that ``other`` does not."""
        return _is_within(self.regions, other.regions) and _is_within(self.cohorts, other.cohorts)

    def limited_to(self, other: "Scope") -> "Scope":
        """Return the scope with the limits of ``other`` where it has none of its own."""
        return Scope(
            other.regions if self.regions is None else self.regions,
            other.cohorts if self.cohorts is None else self.cohorts,
        )

    def limit(self, expression: Expression) -> Expression:
        """Return a filter that lets through what ``expression`` does, of what is within."""
        limits = [
            Disjunction(tuple(Compare(field, Relation.EQUAL, name) for name in sorted(names)))
            for field, names in (("region", self.regions), ("cohort", self.cohorts))
            if names is not None
        ]
        return Conjunction((expression, *limits)) if limits else expression

    def __str__(self) -> str:
        parts = [
            f"the {what} {', '.join(sorted(names))}"
            for what, names in (("regions", self.regions), ("cohorts", self.cohorts))
            if names is not None
        ]
        return " and ".join(parts) or "the whole fleet"


EVERYTHING: Final = Scope()
"""For whoever has no limits, and for the server itself."""


def _is_within(own: frozenset[str] | None, other: frozenset[str] | None) -> bool:
    return other is None or (own is not None and own <= other)
