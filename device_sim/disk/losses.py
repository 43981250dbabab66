"""What may be left on a medium when the power goes: for each moment, the ways that are worth a try."""

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from device_sim.disk.medium import SECTOR_BYTES, Medium, Name, Operation, Write
from device_sim.disk.simulated import Moment

SCATTERED: Final = 2
"""How many random ways are drawn for each moment, beside those that are named."""


class Loss(NamedTuple):
    """A way to lose what was not synced, and the medium that it leaves."""

    way: str
    medium: Medium


def losses(moment: Moment, *, seed: str, scattered: int = SCATTERED) -> Iterator[Loss]:
    """Yield what a cut at this moment may leave.

    ``nothing``: only what was synced. ``names``: every name that was given, and no bytes; ``bytes``: the other way
    round. ``everything``: all that was asked for before the call. ``torn``: that, and half of what the call is about.
    ``scattered``: any sectors of any file, and names up to any one of them.
    """
    names = [one for one in moment.pending if isinstance(one, Name)]
    data = [one for one in moment.pending if not isinstance(one, Name)]
    yield Loss("nothing", moment.medium)
    if moment.pending:
        yield Loss("everything", moment.medium.after(moment.pending))
    if names and data:
        yield Loss("names", moment.medium.after(names))
        yield Loss("bytes", moment.medium.after(data))
    half = _half(moment)
    if half:
        yield Loss("torn", moment.medium.after(half))
    possible = _all_of(moment)
    for number in range(scattered if possible else 0):
        drawn = random.Random(f"{seed}/{number}")
        yield Loss("scattered", moment.medium.after(_scatter(possible, drawn)))


def _all_of(moment: Moment) -> tuple[Operation, ...]:
    """Everything that may have arrived; what a sync is about is among what is pending."""
    return moment.pending + tuple(one for one in moment.underway if one not in moment.pending)


def _half(moment: Moment) -> list[Operation]:
    """The call is broken off: of each write that it is about, the first half has arrived."""
    about = moment.underway
    before = [one for one in moment.pending if one not in about]
    halves: list[Operation] = []
    for one in about:
        if isinstance(one, Write):
            sectors = one.cut_at(SECTOR_BYTES)
            halves += sectors[: len(sectors) // 2]
        elif len(about) > 1:
            halves.append(one)
    return [*before, *halves] if halves else []


def _scatter(operations: tuple[Operation, ...], drawn: random.Random) -> list[Operation]:
    names = [one for one in operations if isinstance(one, Name)]
    kept = set(map(id, names[: drawn.randint(0, len(names))]))
    left: list[Operation] = []
    for one in operations:
        if isinstance(one, Write):
            left += [sector for sector in one.cut_at(SECTOR_BYTES) if drawn.random() < 0.5]
        elif isinstance(one, Name):
            left += [one] if id(one) in kept else []
        elif drawn.random() < 0.5:
            left.append(one)
    return left
