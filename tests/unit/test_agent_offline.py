"""A release from a file: as much trust as over the wire, and a trial that needs no server."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from device_sim.agent.boot_environment import SlotState
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.state import AgentState, Phase
from device_sim.agent.storage import Storage
from device_sim.agent.trust import Identity
from device_sim.gateway.offline import install_file
from firmware_store.bundle import build_bundle, read_envelope, replace_envelope
from firmware_store.errors import CompatibilityError, ConflictError, DigestError, RollbackError, SignatureError
from firmware_store.suit import sign_envelope
from server.cli import agent
from server.domain.identity import HardwareClass
from server.protocol.orders import Deadlines
from tests.agent_world import DEVICE, EU, HARDWARE, MAIN, VENDOR, World, dev_keys, picture

APP, ROOTFS = picture(1, 150_000), picture(2, 60_000) * 3
IDENTITY = Identity(DEVICE, VENDOR, HARDWARE, "test")


def make_file(folder: Path, *, number: int = 2, signatures: int = 2, **changes: object) -> Path:
    images = {}
    for name, data in {"app": APP, "rootfs": ROOTFS}.items():
        images[name] = folder / name
        images[name].write_bytes(data)
    path = folder / f"release-{number}.tgb"
    given = {"images": images, "vendor": VENDOR, "models": [HARDWARE], "version": (1, 1, 0), "description": None}
    build_bundle(path, **{**given, "sequence_number": number, **changes})
    for key in dev_keys().release[:signatures]:
        replace_envelope(path, sign_envelope(read_envelope(path), key))
    return path


@pytest.fixture
def device(tmp_path: Path) -> Path:
    folder = tmp_path / "device"
    folder.mkdir()
    provision(folder, durable=False)
    return folder


async def install(device: Path, bundle: Path, *, identity: Identity = IDENTITY) -> None:
    slots = FileSlots(device)
    await install_file(
        bundle,
        storage=Storage(device, slots),
        slots=slots,
        factory=AgentState(EU, MAIN),
        identity=identity,
        pinned=dev_keys().root,
        deadlines=Deadlines(download_s=0, trial_s=60, confirm_s=600),
    )


async def test_a_release_from_a_file_is_tried_and_confirmed_without_a_server(tmp_path: Path, device: Path) -> None:
    await install(device, make_file(tmp_path))

    world = World(device)
    assert world.booted == "b"
    assert (world.image("b", "app"), world.image("b", "rootfs")) == (APP, ROOTFS)
    world.pass_time(59)
    assert world.slot_states()["b"] == SlotState.TRIAL
    world.pass_time(2)
    assert world.slot_states() == {"a": SlotState.CONFIRMED, "b": SlotState.CONFIRMED}
    assert world.agent.state.highest_sequence == 2
    world.connect()
    world.pass_time(30)
    assert world.reports == []
    assert world.hellos[-1].slots[1].version == "1.1.0"


async def test_one_that_is_not_healthy_goes_back_by_itself(tmp_path: Path, device: Path) -> None:
    await install(device, make_file(tmp_path))

    world = World(device, healthy=False)
    world.pass_time(5)

    assert world.booted == "a"
    assert world.slot_states() == {"a": SlotState.CONFIRMED, "b": SlotState.UNBOOTABLE}
    assert world.agent.state.update is not None
    assert world.agent.state.update.phase is Phase.ENDED


async def test_what_is_not_to_be_trusted_is_not_written(tmp_path: Path, device: Path) -> None:
    damaged = make_file(tmp_path, number=3)
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"?" + damaged.read_bytes()[-8:])
    old_floor = replace(AgentState(EU, MAIN), highest_sequence=9)

    with pytest.raises(SignatureError):
        await install(device, make_file(tmp_path, signatures=1))
    with pytest.raises(DigestError):
        await install(device, damaged)
    with pytest.raises(CompatibilityError):
        await install(device, make_file(tmp_path), identity=replace(IDENTITY, hardware=HardwareClass("gw200")))
    Storage(device, FileSlots(device))._persist(old_floor)
    with pytest.raises(RollbackError):
        await install(device, make_file(tmp_path))

    assert {slot.name: slot.state for slot in FileSlots(device).slots()} == {
        "a": SlotState.CONFIRMED,
        "b": SlotState.EMPTY,
    }


async def test_it_does_not_come_between_an_update_and_its_end(tmp_path: Path, device: Path) -> None:
    bundle = make_file(tmp_path)
    await install(device, bundle)
    with pytest.raises(ConflictError, match="under way"):
        await install(device, bundle)
    world = World(device)
    world.pass_time(61)

    with pytest.raises(ConflictError, match="runs already"):
        await install(device, bundle)


CONFIG = f"""
state = "device"
root = "root.cbor"
device = "{DEVICE}"
region = "eu"
cohort = "main"
vendor = "{VENDOR}"
hardware = "{HARDWARE}"
slots = {{kind = "files"}}
broker = {{host = "broker.example"}}
"""


def test_the_commands_of_a_technician(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(CONFIG)
    (tmp_path / "root.cbor").write_bytes(dev_keys().root_bytes)
    agent.boot(config=config, factory_version="0.9.0")
    agent.check_config(config=config)
    assert "slots: a confirmed, b empty; a runs" in capsys.readouterr().out
    agent.status(config=config)
    assert "0.9.0" in capsys.readouterr().out

    agent.install(make_file(tmp_path), config=config)
    assert capsys.readouterr().out == "1.1.0 is in slot b: reboot to try it.\n"
    agent.boot(config=config)
    assert capsys.readouterr().out == f"{tmp_path}/device/slots/b\n"
    agent.status(config=config, output="json")

    said = capsys.readouterr()
    assert [(row["slot"], row["state"], row["runs"]) for row in json.loads(said.out)] == [
        ("a", "confirmed", ""),
        ("b", "trial", "yes"),
    ]
    assert "last update: 1.1.0: trial" in said.err
    with pytest.raises(ConflictError, match="under way"):
        agent.install(make_file(tmp_path, number=3), config=config)
