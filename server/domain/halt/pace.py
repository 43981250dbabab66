"""Pace by evidence: how many devices may be in flight while so little is known of the release.

This, and not the statistic, decides how many devices a very bad release bricks. The bound of the excess is
(excess + 3) / (judged + 3), about the upper 95 % limit of a rate with nothing seen yet; a class has room for 5 and a
region for 10 devices divided by it. A device that stays silent keeps its slot. While the weather is unknown the whole
campaign has room for 3, or for one in a thousand of the devices that went well before: few, but never for ever.
"""

from typing import Final

import numpy as np

from server.domain.halt.policy import HaltPolicy
from server.domain.halt.view import UNBOUNDED, Floats, Indices

SMALL_FLEET: Final = 50
"""Fleets of fewer devices go in steps of ``SMALL_STEPS`` with a full verdict between."""

SMALL_STEPS: Final = (1, 3, 10)

_CREDIT_MOST: Final = 50.0
_CREDIT_SHARE: Final = 20.0
_SLOW_SHARE: Final = 0.001
_BRAKED: Final = 10


def bound(excess: Floats, judged: Floats) -> Floats:
    """Return the upper bound of the share that the release makes silent, 0..1 (both of any one shape)."""
    out: Floats = np.minimum(1.0, (np.maximum(excess, 0) + 3) / (judged + 3))
    return out


def rooms(
    *,
    judged: Floats,
    excess: Floats,
    in_flight: Indices,
    moving: int,
    started: int,
    fleet: int,
    is_known: bool,
    policy: HaltPolicy,
) -> tuple[Indices, Indices, int]:
    """Return how many more devices may start: by region, by class, and in all (none of them below 0).

    Args:
        judged: devices with a verdict, shape (regions, classes), as the next two.
        excess: silent ones beyond what their neighbours explain.
        in_flight: devices that hold a slot.
        moving: those of them that are on their way and not stuck, failed or silent; the slow pace counts these alone.
        started: devices that have ever begun.
        fleet: how many devices there are.
        is_known: whether the weather is.
        policy: ``region_room``, ``class_room``, ``slow_room``.
    """
    credit = min(_CREDIT_MOST, float(judged.sum()) / _CREDIT_SHARE)
    least = policy.slow_room
    by_region = policy.region_room / bound(excess.sum(axis=1), judged.sum(axis=1) + credit)
    by_class = policy.class_room / bound(excess.sum(axis=0), judged.sum(axis=0))
    whole = UNBOUNDED
    if fleet < SMALL_FLEET:
        whole = small_room(started=started, flying=moving)
    elif not is_known:
        whole = max(0, max(least, int(judged.sum() * _SLOW_SHARE)) - moving)
    regions = np.maximum(np.maximum(by_region, least).astype(np.int64) - in_flight.sum(axis=1), 0)
    classes = np.maximum(np.maximum(by_class, least).astype(np.int64) - in_flight.sum(axis=0), 0)
    return np.minimum(regions, whole), np.minimum(classes, whole), whole


def room_of_sleepers(*, judged: float, excess: float, in_flight: int, is_braked: bool, policy: HaltPolicy) -> int:
    """Return how many more devices that sleep may start, in all regions and classes together (never below 0).

    They are bounded by what is known of their like alone, and take no room from others: a verdict takes hours. While
    the brake is on, they have a tenth of their room, at least one.
    """
    share = float(bound(np.array(excess), np.array(judged)))
    room = int(max(policy.sleeper_room / share, policy.slow_room))
    return max(0, (max(1, room // _BRAKED) if is_braked else room) - in_flight)


def small_room(*, started: int, flying: int) -> int:
    """Return how many of a small fleet may start: the step's rest, or the next step when nothing is in flight."""
    reached = 0
    for step in (*SMALL_STEPS, *[SMALL_STEPS[-1]] * SMALL_FLEET):
        if started == reached:
            return step if flying == 0 else 0
        reached += step
        if started < reached:
            return reached - started
    return 0


def level_within(
    heights: Indices, classes: Indices, *, room: int, room_in_classes: Indices, level: int, now_due: int = 0
) -> int:
    """Return the highest level, at most ``level``, at which the newly due of a region fit the rooms.

    Args:
        heights: of the region's devices that may start and are not due yet, ascending.
        classes: their hardware classes, in the same order.
        room: how many may start in the region.
        room_in_classes: how many may start of each class; shared by all regions, so give each what is left of it.
        level: the level that is wanted, 0..2^32.
        now_due: devices below today's level that have not begun; they use up ``room`` first.

    The level itself may still be below today's: the caller never lowers one.
    """
    wanted = int(np.searchsorted(heights, level, side="left"))
    room = max(0, room - now_due)
    if wanted == 0:
        return level
    mine = classes[:wanted]
    blocked = room
    sizes = np.bincount(mine, minlength=len(room_in_classes))
    for each in np.flatnonzero(sizes > np.maximum(room_in_classes, 0)):
        places = np.flatnonzero(mine == each)
        blocked = min(blocked, int(places[max(0, int(room_in_classes[each]))]))
    return level if blocked >= wanted else int(heights[blocked])
