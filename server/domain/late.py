"""Whom of the late to let in: devices that were away when the level passed them, and that wait to be asked (pure)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from server.domain.identity import DeviceId, Region


class Waiting(NamedTuple):
    """A late device that is online; ``hardware`` is the index of its hardware class."""

    height: int
    device: DeviceId
    region: Region
    hardware: int


def choose(
    waiting: Sequence[Waiting], *, room: int, in_regions: Mapping[Region, int], in_classes: Sequence[int]
) -> list[DeviceId]:
    """Return whom to admit: the lowest heights first, no more in a region or of a hardware class than there is room.

    A region or a class that is not listed has no room.
    """
    region_room = Counter(in_regions)
    class_room = Counter(dict(enumerate(in_classes)))
    chosen: list[DeviceId] = []
    for one in sorted(waiting):
        if len(chosen) >= room:
            break
        if region_room[one.region] > 0 and class_room[one.hardware] > 0:
            region_room[one.region] -= 1
            class_room[one.hardware] -= 1
            chosen.append(one.device)
    return chosen
