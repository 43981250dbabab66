"""How many devices of a site reboot at once (pure): who may reboot now, and who waits.

A site is where devices stand in for each other: the label ``site`` of a device, within its region. A place at a site is
taken from the admit on, until the device has confirmed its release or is back on the one before. One that has gone
silent keeps its place: what it did for its site it does not do now. A device that is held or revoked has none, and
devices without a site wait for nobody.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from server.domain.execution import State
from server.domain.identity import DeviceId, Region

SITE_LABEL: Final = "site"

Site = tuple[Region, str]

AWAY: Final = frozenset({State.REBOOTING, State.TRIAL, State.SILENT})
"""Between the reboot and the confirmation."""


class Rebooter(NamedTuple):
    """A device that has written its release: ``installing`` waits to reboot, what is ``AWAY`` has a place.

    ``told_at``: when it was last told that it may reboot (Unix seconds; 0: never); ``is_told``: what it was told holds
    still. ``site``: None for a device without one.
    """

    told_at: float
    height: int
    device: DeviceId
    site: Site | None
    state: State
    is_told: bool
    is_online: bool


def count_waiting(rebooters: Iterable[Rebooter]) -> int:
    """Return how many have written their release and wait to be told."""
    return sum(one.state is State.INSTALLING and not one.is_told for one in rebooters)


def may_reboot(rebooters: Iterable[Rebooter], *, most: int) -> list[DeviceId]:
    """Return whom to tell that it may reboot now.

    Whoever was never told comes first, the lowest heights first, then whoever was told longest ago and did not: a
    device that cannot reboot keeps no others waiting. One that has said ``rebooting`` has its place, and is told again
    as long as it is there: its session may have ended before it did.
    """
    everybody = sorted(rebooters)
    taken = Counter(one.site for one in everybody if one.state in AWAY or one.is_told)
    chosen = []
    for one in everybody:
        if not one.is_online:
            continue
        if one.state is State.REBOOTING:
            chosen.append(one.device)
        elif one.state is State.INSTALLING and not one.is_told and (one.site is None or taken[one.site] < most):
            taken[one.site] += 1
            chosen.append(one.device)
    return chosen
