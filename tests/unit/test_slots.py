"""Slots as files, and the bootloader beside them: what must hold whatever happens in between."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from device_sim.agent.boot_environment import EnvironmentFile, Image, SlotState
from device_sim.agent.bootloader import Boot, boot
from device_sim.agent.durable_file import StorageError
from device_sim.agent.file_installation import TRIES_MOST
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.slots import STAGED, Piece, Release
from firmware_store.errors import ConflictError, DigestError, IllegalTransitionError
from server.protocol.reasons import Reason

APP = b"application " * 4000
ROOTFS = b"root file system " * 9000


def release(number: int = 1, version: str = "1.1.0", **images: bytes) -> Release:
    named = images or {"app": APP, "rootfs": ROOTFS}
    return Release(
        number,
        version,
        hashlib.sha256(version.encode()).digest(),
        tuple(Image(name, hashlib.sha256(data).digest(), len(data)) for name, data in named.items()),
    )


def write_all(slots: FileSlots, wanted: Release, **images: bytes) -> None:
    installation = slots.install(wanted)
    for index, data in enumerate((images or {"app": APP, "rootfs": ROOTFS}).values()):
        for offset in range(0, len(data), 16384):
            installation.write(index, [(offset, data[offset : offset + 16384])])
    installation.seal()


def states(slots: FileSlots) -> dict[str, SlotState]:
    return {slot.name: slot.state for slot in slots.slots()}


@pytest.fixture
def device(tmp_path: Path) -> Path:
    provision(tmp_path, durable=False)
    return tmp_path


@pytest.fixture
def slots(device: Path) -> FileSlots:
    return FileSlots(device, durable=False)


def test_a_factory_device_runs_slot_a(slots: FileSlots) -> None:
    assert slots.booted() == "a"
    assert states(slots) == {"a": SlotState.CONFIRMED, "b": SlotState.EMPTY}


def test_provisioning_again_changes_nothing(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())

    provision(device, version="9.9.9", durable=False)

    assert states(FileSlots(device)) == {"a": SlotState.CONFIRMED, "b": SlotState.BOOTABLE}


def test_a_release_is_written_activated_booted_and_confirmed(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())
    slots.activate("b")
    booted = boot(device, durable=True)
    after = FileSlots(device)
    after.confirm()

    assert booted == Boot("b", 1)
    assert states(after) == {"a": SlotState.CONFIRMED, "b": SlotState.CONFIRMED}
    assert (device / "slots/b/rootfs.img").read_bytes() == ROOTFS
    assert boot(device) == Boot("b", 1)


def test_a_release_that_was_not_activated_is_not_booted(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())

    assert boot(device) == Boot("a", 1)


def test_an_unconfirmed_trial_is_tried_three_times_and_never_again(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())
    slots.activate("b")

    assert [boot(device).slot for _ in range(5)] == ["b", "b", "b", "a", "a"]
    assert states(FileSlots(device))["b"] is SlotState.UNBOOTABLE


def test_a_slot_that_does_not_come_up_is_given_up_after_three_tries(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())
    slots.activate("b")

    assert boot(device, boots=lambda slot: slot.name == "a") == Boot("a", 4)
    assert states(FileSlots(device))["b"] is SlotState.UNBOOTABLE


def test_a_device_whose_confirmed_slot_is_dead_does_not_boot(device: Path) -> None:
    assert boot(device, boots=lambda _: False).slot is None


def test_a_slot_with_a_flipped_bit_is_never_bootable(device: Path, slots: FileSlots) -> None:
    wrong = bytes([APP[0] ^ 1]) + APP[1:]

    with pytest.raises(DigestError):
        write_all(slots, release(), app=wrong, rootfs=ROOTFS)
    assert states(FileSlots(device))["b"] is SlotState.UNBOOTABLE
    with pytest.raises(IllegalTransitionError):
        slots.activate("b")


def test_a_slot_that_changed_after_it_was_sealed_is_not_activated(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())
    with (device / "slots/b/app.img").open("r+b") as file:
        file.write(b"evil")

    with pytest.raises(DigestError):
        slots.activate("b")
    assert states(FileSlots(device))["b"] is SlotState.UNBOOTABLE
    assert boot(device) == Boot("a", 1)


def test_half_a_release_is_not_sealed(slots: FileSlots) -> None:
    installation = slots.install(release())
    installation.write(0, [(0, APP[:100])])

    with pytest.raises(DigestError):
        installation.seal()


def test_nothing_is_installed_beside_a_trial(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())
    slots.activate("b")
    boot(device)

    with pytest.raises(IllegalTransitionError):
        FileSlots(device).install(release(2, "1.2.0"))
    assert states(FileSlots(device)) == {"a": SlotState.CONFIRMED, "b": SlotState.TRIAL}


def test_the_running_slot_cannot_be_activated(slots: FileSlots) -> None:
    with pytest.raises(IllegalTransitionError):
        slots.activate("a")


def test_a_slot_is_unbootable_from_before_its_first_byte_changes(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())

    slots.install(release(2, "1.2.0"))

    assert states(FileSlots(device))["b"] is SlotState.INSTALLING


def test_a_reverted_trial_boots_the_old_slot(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())
    slots.activate("b")
    boot(device)
    trial = FileSlots(device)

    trial.revert("b")

    assert states(trial) == {"a": SlotState.CONFIRMED, "b": SlotState.UNBOOTABLE}
    assert boot(device) == Boot("a", 1)


def test_the_last_confirmed_slot_is_never_given_up(slots: FileSlots) -> None:
    with pytest.raises(ConflictError):
        slots.revert("a")
    assert states(slots)["a"] is SlotState.CONFIRMED


def test_a_rollback_reads_the_old_slot_back_first(device: Path) -> None:
    seed = device / "seed"
    seed.write_bytes(b"factory")
    home = device / "device"
    home.mkdir()
    provision(home, seeds={"app": seed}, durable=False)
    slots = FileSlots(home, durable=False)
    write_all(slots, release())
    slots.activate("b")
    boot(home)
    confirmed = FileSlots(home)
    confirmed.confirm()
    (home / "slots/a/app.img").write_bytes(b"fictory")

    with pytest.raises(ConflictError):
        confirmed.revert("b", verify=True)
    assert boot(home) == Boot("b", 1)


def test_a_piece_in_place_or_in_the_running_slot_is_reused(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.write_bytes(APP)
    provision(tmp_path, seeds={"app": seed}, durable=False)
    slots = FileSlots(tmp_path, durable=False)
    edited = APP[:16384] + b"x" * 16384 + APP[32768:]
    pieces = [
        Piece(offset, len(edited[offset : offset + 16384]), hashlib.sha256(edited[offset : offset + 16384]).digest())
        for offset in range(0, len(edited), 16384)
    ]

    installation = slots.install(release(app=edited))
    first = installation.reuse(0, pieces)
    installation.write(0, [(16384, b"x" * 16384)])
    second = slots.install(release(app=edited)).reuse(0, pieces)
    installation.seal()

    assert first == (True, False, True)
    assert second == (True, True, True)
    assert (tmp_path / "slots/b/app.img").read_bytes() == edited


def test_a_chunk_past_the_end_of_its_image_is_refused(slots: FileSlots) -> None:
    installation = slots.install(release())

    with pytest.raises(StorageError):
        installation.write(0, [(len(APP) - 1, b"two")])


@pytest.mark.parametrize("name", ["../app", "/etc/passwd", "", ".", "a" * 33, "app\n", "App", "a/b"])
def test_a_component_cannot_choose_its_path(device: Path, slots: FileSlots, name: str) -> None:
    with pytest.raises(StorageError):
        slots.install(Release(1, "1.1.0", b"d" * 32, (Image(name, b"d" * 32, 1),)))
    assert states(FileSlots(device))["b"] is SlotState.EMPTY


def test_a_release_larger_than_the_medium_is_refused(slots: FileSlots) -> None:
    with pytest.raises(StorageError) as refused:
        slots.install(Release(1, "1.1.0", b"d" * 32, (Image("app", b"d" * 32, 1 << 60),)))
    assert refused.value.reason is Reason.STORAGE_FULL
    assert states(slots)["b"] is SlotState.EMPTY


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"slots": [], "active": "a", "booted": "a"}'])
def test_a_damaged_boot_environment_is_told_from_a_good_one(device: Path, content: bytes) -> None:
    (device / "boot.json").write_bytes(content)

    with pytest.raises(StorageError):
        FileSlots(device)


def test_the_environment_is_read_as_it_was_written(device: Path, slots: FileSlots) -> None:
    write_all(slots, release())
    environment = replace(EnvironmentFile(device).read(), tries_left=2)

    EnvironmentFile(device).write(environment)

    assert EnvironmentFile(device).read() == environment


def test_a_staged_file_does_not_grow_past_what_the_release_can_need(slots: FileSlots) -> None:
    """A delta's size is what whoever signs directives says: zeros that came as a few bytes must not fill the medium."""
    installation = slots.install(release())
    installation.stage(b"delta")
    installation.write(STAGED, [(0, bytes(len(ROOTFS)))])

    with pytest.raises(StorageError, match="larger than what it makes"):
        installation.write(STAGED, [(len(ROOTFS) + (1 << 16), b"x")])


def test_a_running_image_that_was_lengthened_does_not_spoil_the_slot_for_what_is_fetched(device: Path) -> None:
    """What is copied from it is not the image; fetched chunks then go into a file that has the image's size."""
    slots = FileSlots(device, durable=False)
    write_all(slots, release())
    slots.activate("b")
    boot(device, durable=False)
    slots = FileSlots(device, durable=False)
    slots.confirm()
    running = device / "slots" / slots.booted() / "app.img"
    running.write_bytes(APP[:-1] + b"?" + b"more")
    installation = slots.install(release(2, "1.2.0"))

    assert not installation.adopt(0)
    for index, data in enumerate((APP, ROOTFS)):
        installation.write(index, [(0, data)])
    installation.seal()

    assert states(slots)["a"] is SlotState.BOOTABLE


def test_a_delta_that_has_ended_the_agent_twice_is_not_tried_again(device: Path) -> None:
    """As when the system kills the agent for its memory: it would be killed at each start, and never be heard again."""
    code = f"""
import os
from pathlib import Path
from device_sim.agent import file_installation
from tests.unit.test_slots import FileSlots, release

file_installation.FileInstallation._apply = lambda *_: os._exit(9)
installation = FileSlots(Path({str(device)!r}), durable=False).install(release())
installation.stage(b"delta")
installation.make(0, "zstd")
"""
    for _ in range(TRIES_MOST):
        FileSlots(device, durable=False).install(release()).stage(b"delta")
        ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode
        assert ended == 9
    installation = FileSlots(device, durable=False).install(release())

    for other in (b"delta", b"whole", b"delta"):
        if other == b"delta":
            with pytest.raises(StorageError, match="ended the agent"):
                installation.stage(other)
        else:
            assert installation.stage(other) == 0
    installation.write(0, [(0, APP)])
    installation.write(1, [(0, ROOTFS)])
    installation.seal()
    assert not (device / "slots" / "staging").exists()
