"""A wave that stands still: what it waits for, in words, and when nothing can come of waiting any more (pure).

A gate that is not broken need not be passed: silence that luck explains breaks none, and yet too few devices may have
confirmed. What a wave waits for is said as soon as waiting is all that happens, and what nobody can make up for is held
for a person. A level that rises, a soak, and devices that are under way for a short time are no standstill.
"""

from typing import Final

from server.domain.halt import Call
from server.domain.snapshot import RegionView, Snapshot
from server.domain.wave_gate import all_over, few_enough, is_short, wanted_reached, wave_views

_BLOCKS: Final = 2
"""A level that rises by evidence stands for about one ``g1_s`` at a time; twice that is a standstill."""

_BRAKES: Final = "the halt rule brakes until it knows more of the devices that have been updated"


def hopeless(snapshot: Snapshot) -> str:
    """Say why the open wave will not pass its gate as things stand, or nothing.

    Everybody is through, too few have confirmed, and those who may still come are too few to make up for it.
    """
    if snapshot.wave is None:
        return ""
    views = wave_views(snapshot)
    is_risen = all(view.ramp.l1 >= view.target for view in views)
    if not is_risen or not all_over(views) or not is_short(snapshot, coming=_coming(snapshot, views)):
        return ""
    return (
        f"Paused by the gate of wave {snapshot.number}: {_counted(snapshot, views)}. It goes on by itself when enough "
        "of them have come back and confirmed; those that a person holds are not asked."
    )


def has_waited(snapshot: Snapshot, now: float) -> bool:
    """Tell whether its silent devices have had a day to come back: whoever is switched off each night has.

    It is the time for which a gate counts a device that sleeps, too.
    """
    since = _soaked_at(snapshot, wave_views(snapshot))
    return since is not None and now - since >= snapshot.policy.halt.sleeper_s


def lacking(snapshot: Snapshot, now: float) -> str:
    """Say what the open wave waits for where it does nothing else, or nothing."""
    views = wave_views(snapshot)
    number, patience_s = snapshot.number, snapshot.policy.halt.g1_s
    since = _soaked_at(snapshot, views)
    if since is None:
        still = [view for view in views if view.ramp.l1 < view.target and now - view.ramp.t1 >= _BLOCKS * patience_s]
        return f"Wave {number} stands still in {_named(still)}: {_kept(snapshot, still)}." if still else ""
    if now < since:
        return ""
    is_long = now - since >= patience_s
    if snapshot.verdict.call is not Call.GO:
        return f"Wave {number} waits: {_BRAKES}." if is_long else ""
    under_way = f"Wave {number} waits for devices that are under way." if is_long else ""
    if not all_over(views):
        return under_way
    if is_short(snapshot):
        coming = _coming(snapshot, views)
        others = f"; {coming} more that it is for may still come" if coming else ""
        return f"Wave {number} waits: {_counted(snapshot, views)}{others}."
    reached, wanted = sum(view.reached for view in views), wanted_reached(snapshot)
    if reached < wanted:
        return (
            f"Wave {number} waits for devices to come: it has reached {reached} of {wanted} at least."
            if is_long
            else ""
        )
    if not few_enough(snapshot):
        return f"Wave {number} waits: of {reached} devices reached, too many have failed or fallen silent."
    return under_way


def _soaked_at(snapshot: Snapshot, views: list[RegionView]) -> float | None:
    """Return when the open wave's soak is or was over (Unix seconds); None while its levels are below their targets."""
    wave = snapshot.current
    assert wave is not None
    if any(view.ramp.l1 < view.target for view in views):
        return None
    return max((view.ramp.t1 for view in views), default=0) + wave.soak_s


def _coming(snapshot: Snapshot, views: list[RegionView]) -> int:
    """Return how many devices, at most, the open wave is for and has not reached."""
    assert snapshot.wave is not None
    named = snapshot.plan.named(snapshot.wave + 1)
    return max(0, sum(view.targeted for view in views) + len(named) - sum(view.reached for view in views))


def _counted(snapshot: Snapshot, views: list[RegionView]) -> str:
    """Say how the devices reached have ended."""
    wave = snapshot.current
    assert wave is not None
    reached, confirmed = sum(view.reached for view in views), sum(view.confirmed for view in views)
    silent, failed = sum(view.silent for view in views), sum(view.failed for view in views)
    ends = [(silent, "silent"), (failed, "failed"), (reached - confirmed - silent - failed, "not updated")]
    others = ", ".join(f"{many} {how}" for many, how in ends if many > 0) or "none failed"
    return (
        f"{confirmed} of the {reached} devices reached have confirmed, fewer than the {wave.gate.confirmed_ratio:.1%} "
        f"that it wants ({others}), and nobody is under way"
    )


def _named(views: list[RegionView]) -> str:
    return ", ".join(view.region for view in views)


def _kept(snapshot: Snapshot, views: list[RegionView]) -> str:
    """Say what keeps these levels where they are."""
    verdict = snapshot.verdict
    if verdict.pace == 0:
        return _BRAKES
    if all(view.region in verdict.bad_weather for view in views):
        return "devices that only watch are dark there; it goes on by itself when they are back"
    return "as many devices as the evidence so far leaves room for are under way, not judged yet, or lost"
