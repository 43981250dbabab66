"""Letting late devices start: those that were away when the level passed them, and wait to be asked.

Devices that come back together must not start together. Each reports ``due(late)`` and waits; whoever decides that
there is room for some of them grants it here, and each gets a fresh welcome at once that carries the admit. Further
welcomes repeat it until it expires: what is lost on the way, or over a restart of this server, is granted again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from server.domain.gate import DEAD_MAN_S
from server.domain.identity import CampaignId, DeviceId, Region
from server.protocol.orders import Admit
from server.services.fleet import Fleet
from server.services.presence import Presence

ADMIT_S: Final = DEAD_MAN_S
"""For so long an admit is good: a device that has not started by then is asked again, if there is room again."""


class Waiting(NamedTuple):
    """A late device that is online; ``class_id`` is its hardware's."""

    height: int
    device: DeviceId
    region: Region
    class_id: bytes


class Admits:
    """Grants admits, and sees to it that the devices hear of them."""

    def __init__(self, *, fleet: Fleet, presence: Presence) -> None:
        self._fleet = fleet
        self._presence = presence

    def grant(self, campaign: CampaignId, devices: Iterable[DeviceId], *, until: float, now: float) -> list[DeviceId]:
        """Let these devices start until then (Unix seconds); returns those that were told just now.

        A device with half of its time left has been told, and is not told again.
        """
        told = []
        for name in devices:
            device = self._fleet.get(name)
            if device is None or device.revoked or not self._fleet.is_online(device, now):
                continue
            held = device.admit
            if held is not None and held.campaign == campaign and 2 * (held.until - now) > until - now:
                continue
            device.admit = Admit(campaign, int(until))
            if self._presence.welcome_again(device, now):
                told.append(name)
        return told


def choose(
    waiting: Sequence[Waiting], *, room_regions: Mapping[Region, int], room_classes: Mapping[bytes, int]
) -> list[DeviceId]:
    """Return whom to admit: the lowest heights first, no more in a region or of a hardware class than there is room.

    A region or a class that is not listed has no room.
    """
    in_region: Counter[Region] = Counter()
    of_class: Counter[bytes] = Counter()
    chosen = []
    for one in sorted(waiting):
        has_room = in_region[one.region] < room_regions.get(one.region, 0)
        if has_room and of_class[one.class_id] < room_classes.get(one.class_id, 0):
            in_region[one.region] += 1
            of_class[one.class_id] += 1
            chosen.append(one.device)
    return chosen
