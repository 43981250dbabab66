"""How many devices there are, and what they run, region by region or cohort by cohort."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, Final

from server.db.database import Database
from server.domain.scope import EVERYTHING, Scope


class Kind(Enum):
    """What devices are counted by."""

    REGION = auto()
    COHORT = auto()


@dataclass(frozen=True, slots=True)
class Place:
    """One region, or one cohort. ``versions``: devices by what they say that they run; those that were never heard
    from are in none.
    """

    name: str
    devices: int
    held: int
    never_seen: int
    versions: Mapping[str, int]


def _by(column: str) -> str:
    return f"""
        SELECT {column} AS name, running_version, count(*) AS devices, count(*) FILTER (WHERE held) AS held,
               count(*) FILTER (WHERE last_seen IS NULL) AS never_seen
          FROM device
         WHERE ($1::text[] IS NULL OR region = ANY($1)) AND ($2::text[] IS NULL OR cohort = ANY($2))
         GROUP BY {column}, running_version ORDER BY {column}, count(*) DESC, running_version
    """


BY_REGION: Final = _by("region")

BY_COHORT: Final = _by("cohort")

_BY: Final = MappingProxyType({Kind.REGION: BY_REGION, Kind.COHORT: BY_COHORT})


class PlaceRepository:
    """One method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, kind: Kind, *, scope: Scope = EVERYTHING) -> list[Place]:
        """Return the regions or cohorts that have devices within ``scope``, by name; what runs most comes first."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_BY[kind], scope.region_names, scope.cohort_names)
        places: dict[str, list[Any]] = {}
        for row in rows:
            places.setdefault(row["name"], []).append(row)
        return [
            Place(
                name=name,
                devices=sum(row["devices"] for row in of_it),
                held=sum(row["held"] for row in of_it),
                never_seen=sum(row["never_seen"] for row in of_it),
                versions={
                    row["running_version"]: row["devices"] for row in of_it if row["running_version"] is not None
                },
            )
            for name, of_it in places.items()
        ]
