"""Letting late devices start: those that were away when the level passed them, and wait to be asked.

Devices that come back together must not start together. Each reports ``due(late)`` and waits; whoever decides that
there is room for some of them grants it here, and each gets a fresh welcome at once that carries the admit. Further
welcomes repeat it until it expires: what is lost on the way, or over a restart of this server, is granted again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Final, NamedTuple

from server.db.campaigns import CampaignRepository
from server.db.executions import ExecutionRepository
from server.domain.campaign import OFFERING
from server.domain.execution import State
from server.domain.gate import DEAD_MAN_S, height
from server.domain.identity import CampaignId, DeviceId, Region
from server.protocol.orders import Admit
from server.protocol.reasons import Reason
from server.services.fleet import Fleet
from server.services.presence import Presence

ADMIT_S: Final = DEAD_MAN_S
"""For so long an admit is good: a device that has not started by then is asked again, if there is room again."""

ADMITS_MOST: Final = 50
"""So many devices are admitted to a campaign at one tick."""

_PAGE: Final = 1000


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

        Whoever has been told and has time enough left is not told again.
        """
        told = []
        for name in devices:
            device = self._fleet.get(name)
            if device is None or device.revoked or not self._fleet.is_online(device, now):
                continue
            if self.has_told(campaign, name, now=now):
                continue
            device.admit = Admit(campaign, int(until))
            if self._presence.welcome_again(device, now):
                told.append(name)
        return told

    def has_told(self, campaign: CampaignId, name: DeviceId, *, now: float) -> bool:
        """Tell whether a device has an admit to the campaign that is good for half of ``ADMIT_S`` at least."""
        device = self._fleet.get(name)
        held = None if device is None else device.admit
        return held is not None and held.campaign == campaign and held.until - now > ADMIT_S / 2


class Latecomers:
    """Lets those in who have said that they are late, the lowest heights first, a few at each tick."""

    def __init__(
        self, *, campaigns: CampaignRepository, executions: ExecutionRepository, fleet: Fleet, admits: Admits
    ) -> None:
        self._campaigns = campaigns
        self._executions = executions
        self._fleet = fleet
        self._admits = admits

    async def tick(self, now: float) -> None:
        """Grant admits to the campaigns that offer."""
        for campaign in await self._campaigns.in_states(OFFERING):
            waiting = await self.waiting(campaign.id, now)
            untold = (one for one in waiting if not self._admits.has_told(campaign.id, one.device, now=now))
            first = [one.device for one in nsmallest(ADMITS_MOST, untold)]
            self._admits.grant(campaign.id, first, until=now + ADMIT_S, now=now)

    async def waiting(self, campaign: CampaignId, now: float) -> list[Waiting]:
        """Return the campaign's late devices that are online."""
        found: list[Waiting] = []
        after = ""
        while True:
            page = await self._executions.page(campaign, after=after, limit=_PAGE, state=State.DUE, reason=Reason.LATE)
            for record in page:
                device = self._fleet.get(record.device_id)
                if device is not None and self._fleet.is_online(device, now):
                    found.append(Waiting(height(campaign, device.id), device.id, device.region, device.class_id))
            if len(page) < _PAGE:
                return found
            after = page[-1].device_id


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
