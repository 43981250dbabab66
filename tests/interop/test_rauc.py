"""The agent and Debian's real RAUC: it installs what the agent has fetched, and boots what the agent tells it to."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_sim.agent.boot_environment import SlotState
from device_sim.agent.durable_file import StorageError
from device_sim.gateway.backends import open_slots
from device_sim.gateway.config import read_config
from device_sim.gateway.rauc_bus import RaucBus
from firmware_store.errors import ConfigurationError
from server.domain.execution import State
from server.protocol.orders import Action
from server.protocol.reasons import Reason
from tests.agent_world import OTHER_CAMPAIGN, World, make_bundle
from tests.rauc_peer import RaucMachine, require_rauc

pytestmark = pytest.mark.peer

FIRST, SECOND = random.Random(1).randbytes(300_000), random.Random(2).randbytes(300_000)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[RaucMachine]:
    require_rauc()
    machine = RaucMachine(tmp_path)
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def world(machine: RaucMachine, tmp_path: Path) -> World:
    directory = tmp_path / "agent"
    directory.mkdir()
    return World(directory, platform=machine, components=frozenset({"rauc"}))


def test_a_release_is_installed_tried_and_confirmed_and_the_next_one_goes_back(
    machine: RaucMachine, world: World
) -> None:
    first = make_bundle(1, "1.1.0", sizes=(), contents=(("rauc", machine.make_bundle("1.1.0", FIRST)),))
    world.offer(first)
    world.connect()
    world.pass_time(30)
    assert (world.last.state, world.booted) == (State.TRIAL, "b")
    assert world.image("b", "rauc")[: len(FIRST)] == FIRST
    assert machine.variables.read()["BOOT_B_LEFT"] == "2"

    world.pass_time(40)
    assert (world.last.state, world.booted) == (State.CONFIRMED, "b")
    assert machine.variables.read()["BOOT_B_LEFT"] == "3"
    assert world.slot_states() == {"a": SlotState.CONFIRMED, "b": SlotState.CONFIRMED}

    second = make_bundle(2, "1.2.0", sizes=(), contents=(("rauc", machine.make_bundle("1.2.0", SECOND)),))
    world.offer(second, campaign=OTHER_CAMPAIGN)
    world.pass_time(30)
    assert (world.last.state, world.booted) == (State.TRIAL, "a")
    world.direct(Action.HALT, second, campaign=OTHER_CAMPAIGN)
    world.pass_time(10)

    assert world.outcome == (State.ROLLED_BACK, Reason.HALTED)
    assert world.booted == "b"
    assert world.slot_states() == {"a": SlotState.UNBOOTABLE, "b": SlotState.CONFIRMED}
    assert RaucBus(machine.address).primary() == "rootfs.1"


def test_a_trial_that_crashes_three_times_goes_back(machine: RaucMachine, world: World) -> None:
    world.offer(make_bundle(1, "1.1.0", sizes=(), contents=(("rauc", machine.make_bundle("1.1.0", FIRST)),)))
    world.connect()
    world.pass_time(5)
    for _ in range(3):
        world.power_cycle()
    world.connect()
    world.settle()

    assert world.outcome == (State.ROLLED_BACK, Reason.BOOT_FAILED)
    assert (world.booted, world.slot_states()["b"]) == ("a", SlotState.UNBOOTABLE)


def test_what_rauc_refuses_is_reported_in_its_words_and_never_boots(machine: RaucMachine, world: World) -> None:
    forged = machine.make_bundle("1.1.0", FIRST)
    forged = forged[:5000] + bytes([forged[5000] ^ 1]) + forged[5001:]
    world.offer(make_bundle(1, "1.1.0", sizes=(), contents=(("rauc", forged),)))
    world.connect()
    world.pass_time(10)

    failed = next(report for report in world.reports if report.state is State.FAILED)
    assert failed.reason is Reason.STORAGE_ERROR
    assert "RAUC: " in failed.detail
    assert "signature" in failed.detail
    assert (world.booted, RaucBus(machine.address).primary()) == ("a", "rootfs.0")


def test_a_gateway_finds_raucs_slots_by_their_boot_names(machine: RaucMachine, world: World, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    told = f"""state = "agent"\nvendor = "acme.example"\nhardware = "gw100"
[slots]\nkind = "rauc"\nbus = "{machine.address}"\n"""
    path.write_text(told)
    slots = open_slots(read_config(path), at_start=True)

    assert slots.booted() == world.booted == "a"
    assert {slot.name: slot.state for slot in slots.slots()} == {"a": SlotState.CONFIRMED, "b": SlotState.EMPTY}
    path.write_text(told + 'b = "C"\n')
    with pytest.raises(ConfigurationError, match="boot name C"):
        open_slots(read_config(path))
    path.write_text(told.replace(machine.address, "unix:path=/nowhere"))
    with pytest.raises(StorageError, match="cannot be reached"):
        open_slots(read_config(path))
