"""A run on somebody else's server: where its broker would restart, the devices lose their lines and find them again."""

from collections.abc import Callable
from pathlib import Path

from server.cli.lab.host import Address, hosted
from server.domain.identity import DeviceId, Region
from server.embedded import EmbeddedBroker
from tests.lab_devices import Lab


async def test_the_broker_of_a_guest_stays_and_its_sessions_go(
    broker: EmbeddedBroker, region: Region, tmp_path: Path, new_device_id: Callable[[], DeviceId]
) -> None:
    lab, device = Lab(broker, region, tmp_path), new_device_id()
    theirs = Address("http://127.0.0.1:1", "", tmp_path)
    async with lab.fleet(device) as fleet, hosted(tmp_path, theirs, heartbeat_s=1) as host:
        await fleet.connected.wait()
        await host.restart(away_s=0.0, fleet=fleet)
        await lab.until_fact(device, "connected", times=2)

    assert host.address is theirs
    assert [fact for fact in lab.facts(device) if fact in {"cut_off", "let_back"}] == ["cut_off", "let_back"]
