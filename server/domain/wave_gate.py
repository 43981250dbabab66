"""The gate of the open wave: what it takes to pass, and what breaks it (pure).

A gate asks the numbers of the devices reached; whose word it wants beyond them is `consent`'s matter.
"""

from collections.abc import Sequence
from typing import Final

from server.domain import bounds
from server.domain.halt import Call
from server.domain.snapshot import RegionView, Snapshot, regions_of

_HALF: Final = 0.5
"""Excess silence is an estimate: less than half a device is none."""

_LEAST_ENDED: Final = 5
"""Fewer devices that are over say nothing of a ratio."""

_TRICKLE: Final = 0.02
"""A share of the devices reached; of fewer than 50, nobody."""


def is_passed(snapshot: Snapshot, now: float) -> bool:
    """Tell whether the open wave is through its gate, but for anybody's word."""
    wave = snapshot.current
    assert wave is not None
    views = wave_views(snapshot)
    if snapshot.verdict.call is not Call.GO:
        return False
    if any(view.ramp.l1 < view.target or now < view.ramp.t1 + wave.soak_s for view in views):
        return False
    reached = sum(view.reached for view in views)
    return reached >= wanted_reached(snapshot) and not is_short(snapshot) and few_enough(snapshot)


def broken(snapshot: Snapshot) -> str:
    """Say why the open wave's gate cannot hold as things stand, or nothing.

    It is broken when even the lower bound of the failure ratio is too high, or when all are judged and the upper is.
    """
    wave = snapshot.current
    assert wave is not None
    views = wave_views(snapshot)
    ended = sum(view.confirmed + view.failed + view.silent for view in views)
    failures = _failures(snapshot)
    early = ended >= _LEAST_ENDED and bounds.lower(failures, ended) > wave.gate.failure_ratio
    if early or (failures >= _HALF and all_over(views) and not few_enough(snapshot)):
        return (
            f"Paused by the gate of wave {snapshot.number}: {failures:.0f} of {ended} devices failed or fell silent, "
            f"more than {wave.gate.failure_ratio:.1%} allows."
        )
    return ""


def is_mended(snapshot: Snapshot) -> bool:
    """A gate that was broken holds again only on the word of all: devices thought silent have come back.

    Those who wait are not asked: they may not start before.
    """
    if snapshot.wave is None:
        return True  # no wave is open whose gate could be broken
    if snapshot.consent is not None and snapshot.consent.objection:
        return False  # a person looks at what a webhook has stopped
    return not any(view.in_flight for view in wave_views(snapshot)) and few_enough(snapshot)


def few_under_way(views: Sequence[RegionView]) -> bool:
    """In a large fleet somebody always comes back and updates late: that goes on while the campaign is watched."""
    under_way = sum(view.waiting + view.in_flight for view in views)
    return under_way <= _TRICKLE * sum(view.reached for view in views)


def wave_views(snapshot: Snapshot) -> list[RegionView]:
    wave = snapshot.current
    assert wave is not None
    names = set(regions_of(wave, [view.region for view in snapshot.regions]))
    return [view for view in snapshot.regions if view.region in names]


def wanted_reached(snapshot: Snapshot) -> int:
    """Return how many devices the open wave has to reach.

    Who is offline does not block a wave; but where anybody is online, no wave passes on the word of nobody.
    """
    wave = snapshot.current
    assert wave is not None
    views = wave_views(snapshot)
    if not any(view.eligible_online for view in views):
        return 0
    return min(wave.gate.min_reached, max(1, sum(view.targeted_online for view in views)))


def is_short(snapshot: Snapshot, *, coming: int = 0) -> bool:
    """Tell whether too few of the devices reached have confirmed, even if as many more came and all of them did."""
    wave = snapshot.current
    assert wave is not None
    views = wave_views(snapshot)
    confirmed = sum(view.confirmed for view in views) + coming
    return confirmed < wave.gate.confirmed_ratio * (sum(view.reached for view in views) + coming)


def few_enough(snapshot: Snapshot) -> bool:
    """With fewer than 3 / y reached (the rule of three) there may be none; above, the upper bound decides.

    A gate that tolerates all is never closed by failures.
    """
    wave = snapshot.current
    assert wave is not None
    gate = wave.gate
    if gate.failure_ratio >= 1:
        return True
    failures = _failures(snapshot)
    reached = sum(view.reached for view in wave_views(snapshot))
    if reached < 3 / gate.failure_ratio:
        return failures < _HALF
    return bounds.upper(failures, reached) <= gate.failure_ratio


def all_over(views: Sequence[RegionView]) -> bool:
    return not any(view.waiting + view.in_flight for view in views)


def _failures(snapshot: Snapshot) -> float:
    """Return the open wave's explicit failures, and its excess silence where luck does not explain it.

    A good release loses a device now and then, too: one of 25 is within what the halt rule tolerates.
    """
    names = {view.region for view in wave_views(snapshot)}
    counted = [
        (view, excess) for view, excess in zip(snapshot.regions, _excess(snapshot), strict=True) if view.region in names
    ]
    failed = sum(view.failed for view, _ in counted)
    silent = sum(view.silent for view, _ in counted)
    excess = sum(each for _, each in counted)
    policy = snapshot.policy.halt
    tolerated = policy.beta * (silent - excess) + policy.d0 * sum(view.judged for view, _ in counted)
    return failed + (0.0 if bounds.is_luck(silent, tolerated) else excess)


def _excess(snapshot: Snapshot) -> list[float]:
    """Return each region's silence that its neighbours do not explain, never more than there is.

    The halt rule knows better than a count of the moment does: it compares each device with its own shadows, and judges
    nobody in bad weather.
    """
    given = snapshot.verdict.excess_silent
    if not len(given):
        return [view.excess for view in snapshot.regions]
    return [min(float(each), view.silent) for each, view in zip(given, snapshot.regions, strict=True)]
