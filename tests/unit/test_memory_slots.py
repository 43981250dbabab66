import hashlib

import pytest

from device_sim.agent.boot_environment import Image, SlotInfo, SlotState
from device_sim.agent.durable_file import StorageError
from device_sim.agent.slots import Piece, Release
from device_sim.virtual.memory_slots import MemorySlots
from firmware_store.errors import ConflictError, DigestError, IllegalTransitionError

NEW = b"the new image"
OLD = b"the old image"


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


FACTORY = SlotInfo("a", SlotState.CONFIRMED, 0, "1.0.0", b"", (Image("app", sha256(OLD), len(OLD)),))
RELEASE = Release(1, "1.1.0", b"m" * 32, (Image("app", sha256(NEW), len(NEW)),))


def slots_of() -> MemorySlots:
    return MemorySlots(FACTORY, {sha256(OLD): OLD})


def written(slots: MemorySlots, release: Release = RELEASE, data: bytes = NEW) -> MemorySlots:
    installation = slots.install(release)
    installation.write(0, [(0, data)])
    installation.seal()
    return slots


def states(slots: MemorySlots) -> list[SlotState]:
    return [slot.state for slot in slots.slots()]


def test_what_was_written_is_booted_on_trial_and_kept_when_it_is_confirmed() -> None:
    slots = written(slots_of())
    slots.activate("b")

    assert slots.boot().slot == "b"
    assert states(slots) == [SlotState.CONFIRMED, SlotState.TRIAL]

    slots.confirm()

    assert slots.boot().slot == "b"
    assert states(slots) == [SlotState.CONFIRMED, SlotState.CONFIRMED]


def test_a_trial_that_does_not_come_up_is_given_up_after_three_tries() -> None:
    slots = written(slots_of())
    slots.activate("b")
    booted = slots.boot(lambda slot: slot.name == "a")

    assert booted == ("a", 4)
    assert states(slots) == [SlotState.CONFIRMED, SlotState.UNBOOTABLE]


def test_a_slot_whose_bytes_are_not_the_signed_ones_is_never_booted() -> None:
    slots = slots_of()
    with pytest.raises(DigestError):
        written(slots, data=NEW[:5])

    assert states(slots) == [SlotState.CONFIRMED, SlotState.UNBOOTABLE]
    with pytest.raises(IllegalTransitionError):
        slots.activate("b")


def test_nothing_is_begun_beside_a_trial() -> None:
    slots = written(slots_of())
    slots.activate("b")
    slots.boot()
    with pytest.raises(IllegalTransitionError):
        slots.install(RELEASE)


def test_what_an_interrupted_download_left_is_found_again() -> None:
    slots = slots_of()
    slots.install(RELEASE).write(0, [(0, NEW[:4])])
    again = slots.install(RELEASE)
    pieces = [Piece(0, 4, sha256(NEW[:4])), Piece(4, 4, sha256(NEW[4:8]))]

    assert again.reuse(0, pieces) == (True, False)
    assert not again.adopt(0)


def test_an_image_that_runs_already_is_adopted() -> None:
    same = Release(1, "1.1.0", b"m" * 32, FACTORY.images)

    assert slots_of().install(same).adopt(0)


def test_a_chunk_that_reaches_past_its_image_is_refused() -> None:
    with pytest.raises(StorageError):
        slots_of().install(RELEASE).write(0, [(len(NEW) - 1, b"xx")])


def test_there_is_no_way_back_to_a_slot_that_was_never_confirmed() -> None:
    slots = written(slots_of())
    with pytest.raises(ConflictError):
        slots.revert("a")

    slots.revert("b")

    assert states(slots) == [SlotState.CONFIRMED, SlotState.UNBOOTABLE]
