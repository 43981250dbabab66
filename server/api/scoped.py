"""The server's parts as a caller with limits sees them. Here, and nowhere else, limits are put on what routes reach.

A route gets a context whose parts let a caller with limits through to three kinds of things only: methods that take a
``scope``, which they are given; what ``OPEN`` names, because it is the whole fleet's to read or answers to what a
scoped method has returned; and the fleet in memory, less the devices elsewhere. All else is refused, so that a new
route, part or method is closed to such callers until somebody has thought of them.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final, NoReturn

from firmware_store.errors import ForbiddenError
from server.api.context import Context
from server.domain.identity import Cohort, DeviceId, Region
from server.domain.scope import Scope
from server.services.device import Device
from server.services.fleet import Fleet

OPEN: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        # Releases, and the documents by which devices trust them, are the whole fleet's.
        "authority": frozenset({"root", "trust"}),
        "blobs": frozenset({"get", "presign"}),
        "bundles": frozenset({"get", "newest"}),
        "policies": frozenset({"get", "page"}),
        "cursors": frozenset({"seal", "open"}),
        "catalogue": frozenset({"check_blob", "find_image"}),
        "tickets": frozenset({"current"}),
        "trust": frozenset({"root", "status"}),
        # They are asked about a campaign that a scoped method has returned.
        "campaigns": frozenset({"bundle_of"}),
        "evidence": frozenset({"bad_weather"}),
        "room": frozenset({"publication"}),
    }
)
"""By part, what does not depend on where somebody may look."""

PLAIN: Final = frozenset({"topic_root"})
"""Members of the context that are values."""


def narrow(context: Context, scope: Scope) -> Context:
    """Return the context for somebody with these limits; itself where there are none."""
    if not scope.is_limited:
        return context
    parts: dict[str, Any] = {
        field.name: _narrow_part(field.name, getattr(context, field.name), scope)
        for field in fields(context)
        if field.name not in PLAIN
    }
    return replace(context, **parts)


def _narrow_part(name: str, part: Any, scope: Scope) -> Any:
    if isinstance(part, Fleet):
        return _NarrowFleet(part, scope)
    return _NarrowPart(part, scope, OPEN.get(name, frozenset()))


class _NarrowPart:
    """Stands for a part of the server."""

    def __init__(self, part: Any, scope: Scope, is_open: frozenset[str]) -> None:
        self._part = part
        self._scope = scope
        self._open = is_open

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if name in self._open:
            return found
        if not inspect.ismethod(found) or not _takes_scope(found.__func__):
            _refuse(self._scope)
        return partial(found, scope=self._scope)


class _NarrowFleet:
    """Stands for the fleet in memory: devices elsewhere are not there."""

    def __init__(self, fleet: Fleet, scope: Scope) -> None:
        self._fleet = fleet
        self._scope = scope
        self.is_online = fleet.is_online
        self.is_asleep = fleet.is_asleep

    def get(self, device: DeviceId) -> Device | None:
        found = self._fleet.get(device)
        return found if found is not None and self._scope.has(found.region, found.cohort) else None

    def members(self, cohort: Cohort, region: Region) -> Iterable[Device]:
        return self._fleet.members(cohort, region) if self._scope.has(region, cohort) else ()

    def __getattr__(self, name: str) -> NoReturn:
        _refuse(self._scope)


@cache
def _takes_scope(function: Callable[..., Any]) -> bool:
    return "scope" in inspect.signature(function).parameters


def _refuse(scope: Scope) -> NoReturn:
    raise ForbiddenError(f"This concerns the whole fleet, and your access is limited to {scope}.")
