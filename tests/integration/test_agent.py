"""Simulated devices on a real broker: what they say, what they install, and how they end."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_sim.naps import Nap
from device_sim.script import Script
from server.domain.execution import State
from server.domain.identity import DeviceId, Region
from server.embedded import EmbeddedBroker
from server.protocol.orders import Action
from server.protocol.reasons import Reason
from server.traces.fates import Fate
from tests.agent_world import make_bundle
from tests.lab_devices import Lab
from tests.lab_server import LabServer

GOOD = [State.DOWNLOADING, State.INSTALLING, State.REBOOTING, State.TRIAL, State.CONFIRMED]


@pytest.fixture
def lab(broker: EmbeddedBroker, region: Region, tmp_path: Path) -> Lab:
    return Lab(broker, region, tmp_path)


@pytest.fixture
async def server(broker: EmbeddedBroker, region: Region) -> AsyncIterator[LabServer]:
    async with LabServer(broker, region) as running:
        yield running


async def test_a_device_takes_an_offer_from_the_broker_and_confirms_it(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    await server.offer(make_bundle())

    async with lab.fleet(device):
        await server.until(lambda: State.CONFIRMED in server.states(device))

    assert server.states(device) == GOOD
    assert lab.booted_version(device) == "1.1.0"
    assert (lab.directory / device / "slots/b/rootfs.img").read_bytes() == make_bundle().images["rootfs"]


async def test_a_reboot_publishes_the_last_will_of_that_session_and_a_goodbye_does_not(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    await server.offer(make_bundle())

    async with lab.fleet(device):
        await server.until(lambda: State.CONFIRMED in server.states(device) and len(server.gone[device]) > 0)
    nonces = [hello.nonce for hello in server.hellos[device]]

    assert server.gone[device] == nonces[:1]
    assert len(set(nonces)) == len(nonces) == 2


async def test_a_device_that_sleeps_takes_an_offer_and_says_each_time_that_it_leaves(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device, lab.nap = new_device_id(), Nap(1, 0.2)
    async with lab.fleet(device):
        await server.until(lambda: len(server.gone[device]) >= 2)
        await server.offer(make_bundle())
        await server.until(lambda: State.CONFIRMED in server.states(device))
        slept = len(server.gone[device])
        await server.until(lambda: len(server.gone[device]) > slept)
    nonces = [hello.nonce for hello in server.hellos[device]]

    assert {hello.wake_interval_s for hello in server.hellos[device]} == {1}
    assert server.gone[device] == nonces[: len(server.gone[device])]
    assert server.states(device)[-5:] == GOOD


async def test_an_unhealthy_release_is_rolled_back(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    await server.offer(make_bundle())

    async with lab.fleet(device, faults=("unhealthy@1.1.0=100%",)):
        await server.until(lambda: State.ROLLED_BACK in server.states(device))

    assert server.reports[device][-1].reason is Reason.HEALTH_CHECK_FAILED
    assert lab.booted_version(device) == "1.0.0"


async def test_a_release_that_does_not_boot_is_given_up_by_the_bootloader(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    await server.offer(make_bundle())

    async with lab.fleet(device, faults=("noboot@1.1.0=100%",)):
        await server.until(lambda: State.ROLLED_BACK in server.states(device))

    assert server.reports[device][-1].reason is Reason.BOOT_FAILED
    assert State.TRIAL not in server.states(device)
    assert lab.booted_version(device) == "1.0.0"


async def test_a_bricked_device_is_never_heard_of_again(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    await server.offer(make_bundle())

    async with lab.fleet(device, faults=("brick@1.1.0=100%",)):
        await server.until(lambda: len(server.gone[device]) > 0)
        await lab.until_fact(device, "bricked")

    assert server.states(device)[-1] is State.REBOOTING
    assert len(server.hellos[device]) == 1
    assert lab.facts(device)[-1] == "bricked"


async def test_a_halt_turns_a_trial_back(
    broker: EmbeddedBroker, lab: Lab, region: Region, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    async with LabServer(broker, region, trial_s=60) as server:
        await server.offer(make_bundle())
        async with lab.fleet(device):
            await server.until(lambda: State.TRIAL in server.states(device))
            await server.direct(Action.HALT, make_bundle())
            await server.until(lambda: State.ROLLED_BACK in server.states(device))

    assert server.reports[device][-1].reason is Reason.HALTED
    assert lab.booted_version(device) == "1.0.0"


async def test_a_stopped_fleet_goes_on_where_it_was(
    broker: EmbeddedBroker, lab: Lab, region: Region, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    async with LabServer(broker, region, trial_s=1) as server:
        await server.offer(make_bundle())
        async with lab.fleet(device):
            await server.until(lambda: State.TRIAL in server.states(device))
        async with lab.fleet(device):
            await server.until(lambda: State.CONFIRMED in server.states(device))

    assert [state for state in server.states(device) if state is not State.TRIAL] == [*GOOD[:3], State.CONFIRMED]


async def test_a_slow_line_still_brings_the_release(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    await server.offer(make_bundle())

    async with lab.fleet(device, faults=("slow=100%:64KiB/s",)):
        await server.until(lambda: State.CONFIRMED in server.states(device))

    assert server.states(device) == GOOD


async def test_an_outage_cuts_devices_off_and_the_update_goes_on_when_it_is_over(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    struck, spared = new_device_id(), new_device_id()
    outage = f"{lab.region}:100%:@1.1.0:1s"
    await server.offer(make_bundle())

    async with lab.fleet(struck, outages=(outage,)):
        await server.until(lambda: State.CONFIRMED in server.states(struck))
    async with lab.fleet(spared, outages=(outage.replace("100", "49"),)):
        await server.until(lambda: State.CONFIRMED in server.states(spared))

    facts = lab.facts(struck)
    assert facts[: facts.index("cut_off")].count("booted") == 2  # the factory's image, and the new one
    assert facts.index("cut_off") < facts.index("let_back") < facts.index("confirmed")
    assert "cut_off" not in lab.facts(spared)


async def test_a_session_that_an_outage_cuts_ends_by_its_last_will(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()

    async with lab.fleet(device, outages=("*:100%:0s:0.5s",)):
        await server.until(lambda: len(server.hellos[device]) == 2)

    assert server.gone[device] == [server.hellos[device][0].nonce]


def script(fate: Fate = Fate.GOOD, **changes: Any) -> Script:
    """What a trace may say of one device; times in seconds."""
    plain = Script("1.1.0", (), 0.0, 0.05, fate, False, 0.0, (0.0, 0.0), (0.0, 0.0))
    return replace(plain, **changes)


async def test_a_device_is_away_when_its_trace_says_so_and_its_download_takes_its_time(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    scripts = {device: script(away=((0.2, 0.3),), download_s=0.5)}
    await server.offer(make_bundle())

    async with lab.fleet(device, scripts=scripts):
        await server.until(lambda: State.CONFIRMED in server.states(device) and len(server.gone[device]) == 2)

    at = {fact["event"]: fact["t"] for fact in lab.ledger(device)}
    assert [hello.nonce for hello in server.hellos[device]][:2] == server.gone[device]  # the absence, and the reboot
    assert at["written"] - at["started"] >= 0.5


async def test_a_release_strikes_as_the_trace_says(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    bricked, lost, late, flapping = (new_device_id() for _ in range(4))
    scripts = {
        bricked: script(Fate.BRICK),
        lost: script(is_lost=True),
        late: script(Fate.LATE, after_s=0.1),
        flapping: script(Fate.FLAP, every_s=(0.1, 0.2), off_s=(0.1, 0.2)),
    }
    await server.offer(make_bundle())

    async with lab.fleet(*scripts, scripts=scripts):
        await server.until(lambda: len(server.gone[flapping]) == 3 and len(server.gone[late]) == 2)
        for device, event in ((bricked, "bricked"), (lost, "bricked"), (late, "died")):
            await lab.until_fact(device, event)

    for device in (bricked, lost):
        assert server.states(device)[-1] is State.REBOOTING
        assert len(server.hellos[device]) == 1
    for device in (late, flapping):
        assert server.states(device)[-1] is State.CONFIRMED
    assert len(server.hellos[late]) == 2
    assert server.gone[flapping][1:] == [hello.nonce for hello in server.hellos[flapping]][1:3]


async def test_beats_come_at_the_interval_that_the_welcome_sets(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    device = new_device_id()
    server.heartbeat_s = 1

    async with lab.fleet(device):
        await server.until(lambda: server.beats[device] >= 2)

    assert server.hellos[device][0].slots[0].version == "1.0.0"


async def test_forty_devices_update_together(
    lab: Lab, server: LabServer, new_device_id: Callable[[], DeviceId]
) -> None:
    devices = [new_device_id() for _ in range(40)]
    await server.offer(make_bundle())

    async with lab.fleet(*devices, connects_per_s=1000) as fleet:
        await server.until(lambda: all(State.CONFIRMED in server.states(device) for device in devices), within_s=60)

    assert fleet.connected.is_set()
    assert {lab.booted_version(device) for device in devices} == {"1.1.0"}
