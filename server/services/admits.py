"""Letting late devices start: those that were away when the level passed them, and wait to be asked.

Devices that come back together must not start together. Each reports ``due(late)`` and waits; whoever decides that
there is room for some of them grants it here, and each gets a fresh welcome at once that carries the admit. Further
welcomes repeat it until it expires: what is lost on the way, or over a restart of this server, is granted again.
Reboots of a campaign that bounds them for each site are granted in the same way, see ``server.services.sites``.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from server.domain.gate import DEAD_MAN_S
from server.domain.identity import CampaignId, DeviceId
from server.protocol.orders import Admit
from server.services.device import Device
from server.services.fleet import Fleet
from server.services.presence import Presence

ADMIT_S: Final = DEAD_MAN_S
"""For so long an admit is good: a device that has not started by then is asked again, if there is room again."""


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
        for device in self._reachable(devices, now):
            if not _is_good(device.admit, campaign, now):
                device.admit = Admit(campaign, int(until))
                told += self._tell(device, now)
        return told

    def grant_reboots(self, campaign: CampaignId, devices: Iterable[DeviceId], *, now: float) -> list[DeviceId]:
        """Let these devices reboot into the campaign's release for ``ADMIT_S``; returns those that were told just now.

        Whoever has been told and has time enough left is not told again.
        """
        told = []
        for device in self._reachable(devices, now):
            if not _is_good(device.reboot, campaign, now):
                device.reboot, device.reboot_told_at = Admit(campaign, int(now + ADMIT_S)), now
                told += self._tell(device, now)
        return told

    def _reachable(self, devices: Iterable[DeviceId], now: float) -> Iterator[Device]:
        for name in devices:
            device = self._fleet.get(name)
            if device is not None and not device.revoked and self._fleet.is_online(device, now):
                yield device

    def _tell(self, device: Device, now: float) -> list[DeviceId]:
        return [device.id] if self._presence.welcome_again(device, now) else []


def _is_good(held: Admit | None, campaign: CampaignId, now: float) -> bool:
    """Tell whether an admit is to this campaign, and good for half of ``ADMIT_S`` at least."""
    return held is not None and held.campaign == campaign and held.until - now > ADMIT_S / 2
