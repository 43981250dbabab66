"""``/v1/regions`` and ``/v1/cohorts``: how many devices there are where, and what they run."""

from typing import Any

from pydantic import BaseModel

from server.api.routing import Call, route
from server.db.places import Kind, Place
from server.services.tokens import Right


class PlaceView(BaseModel):
    """``versions``: devices by what they say that they run, most of them first; who was never heard from is in none."""

    name: str
    devices: int
    held: int
    never_seen: int
    versions: dict[str, int]


class RegionList(BaseModel):
    regions: list[PlaceView]


class CohortList(BaseModel):
    cohorts: list[PlaceView]


@route("GET", "/v1/regions", right=Right.READ)
async def list_regions(call: Call[None]) -> RegionList:
    """Count devices by region."""
    return RegionList(regions=await _count(call, Kind.REGION))


@route("GET", "/v1/cohorts", right=Right.READ)
async def list_cohorts(call: Call[None]) -> CohortList:
    """Count devices by cohort."""
    return CohortList(cohorts=await _count(call, Kind.COHORT))


async def _count(call: Call[Any], kind: Kind) -> list[PlaceView]:
    return [_view(place) for place in await call.context.places.count(kind)]


def _view(place: Place) -> PlaceView:
    return PlaceView(
        name=place.name,
        devices=place.devices,
        held=place.held,
        never_seen=place.never_seen,
        versions=dict(place.versions),
    )
