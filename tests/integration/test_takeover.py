"""Somebody with a device's credential: the device loses its session, and takes it back."""

from collections.abc import Callable
from pathlib import Path

from device_sim.takeover import take_over
from server.domain.identity import DeviceId, Region
from server.embedded import EmbeddedBroker
from tests.lab_devices import Lab


async def test_a_device_whose_session_is_taken_over_comes_back(
    broker: EmbeddedBroker, region: Region, tmp_path: Path, new_device_id: Callable[[], DeviceId]
) -> None:
    lab, device = Lab(broker, region, tmp_path), new_device_id()
    async with lab.fleet(device, reboot_s=0.05) as fleet:
        await fleet.connected.wait()
        was_let_in = await take_over(lab.config(device))
        await lab.until_fact(device, "connected", times=2)

    assert was_let_in
