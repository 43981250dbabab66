"""A device that restarts in the middle of an update; at every moment of one, see ``test_power_cuts``."""

from pathlib import Path

import pytest

from device_sim.agent.boot_environment import SlotState
from device_sim.agent.events import Confirm, Persist, Revert, StepFailed
from device_sim.agent.events import Step as Work
from device_sim.agent.state import AgentState, Phase, decode_state, encode_state
from firmware_store.errors import CodecError
from server.domain.execution import State
from server.protocol.orders import Action, Deadlines
from server.protocol.reasons import Reason
from tests.agent_world import OTHER_CAMPAIGN, World, make_bundle

BUNDLE = make_bundle(sizes=(("app", 40_000),))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def update(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(61)


def test_a_device_never_confirms_what_it_has_not_booted(world: World) -> None:
    update(world)

    confirmed_at = next(n for n, effect in enumerate(world.effects) if isinstance(effect, Confirm))
    saved = [effect for effect in world.effects[:confirmed_at] if isinstance(effect, Persist)]
    assert all(step.state.update is None or step.state.update.phase is not Phase.CONFIRMED for step in saved)


def test_a_trial_that_crashes_three_times_goes_back(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(5)
    world.power_cycle()
    world.power_cycle()
    assert world.booted == "b"

    world.power_cycle()
    world.connect()
    world.settle()

    assert world.outcome == (State.ROLLED_BACK, Reason.BOOT_FAILED)
    assert world.booted == "a"


def test_a_release_that_does_not_boot_goes_back(tmp_path: Path) -> None:
    world = World(tmp_path, boots=lambda version: version != "1.1.0")
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(5)

    assert world.outcome == (State.ROLLED_BACK, Reason.BOOT_FAILED)
    assert State.TRIAL not in world.states


def test_a_release_that_fails_its_health_check_goes_back(world: World) -> None:
    world.healthy = False
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(5)

    assert world.outcome == (State.ROLLED_BACK, Reason.HEALTH_CHECK_FAILED)
    assert world.booted == "a"


def test_a_release_that_falls_ill_during_its_trial_goes_back(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(30)
    world.healthy = False
    world.pass_time(31)

    assert world.outcome == (State.ROLLED_BACK, Reason.HEALTH_CHECK_FAILED)


@pytest.mark.parametrize(
    ("reaches", "reason"),
    [("nothing", Reason.NO_BROKER), ("the broker", Reason.NO_WELCOME), ("a welcome, once", Reason.LINE_LOST)],
)
def test_a_trial_that_cannot_prove_itself_goes_back_in_time(tmp_path: Path, reaches: str, reason: Reason) -> None:
    world = World(tmp_path)
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(1)
    world.answers_hello = reaches == "a welcome, once"
    world.power_cycle()
    if reaches != "nothing":
        world.connect()
        world.pass_time(20)
        world.disconnect()

    world.pass_time(600)
    world.answers_hello = True
    world.connect()
    world.settle()

    assert world.outcome == (State.ROLLED_BACK, reason)


def test_a_trial_whose_health_check_never_ends_goes_back_in_time(world: World) -> None:
    world.answers_health = False
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(700)

    assert world.outcome == (State.ROLLED_BACK, Reason.TRIAL_DEADLINE)


def test_time_on_trial_counts_over_reboots(world: World) -> None:
    world.offer(BUNDLE, deadlines=Deadlines(download_s=100, trial_s=500, confirm_s=600))
    world.connect()
    world.pass_time(400)
    world.power_cycle()

    world.pass_time(260)
    world.connect()
    world.settle()

    assert world.outcome == (State.ROLLED_BACK, Reason.NO_BROKER)


def test_a_trial_is_not_confirmed_before_its_time(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(59)

    assert world.last.state is State.TRIAL
    assert world.slot_states()["b"] == "trial"


def test_a_trial_nobody_remembers_is_sent_back(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(5)
    (world.directory / "agent.cbor").unlink()
    world.retained.clear()

    world.power_cycle()

    assert world.booted == "a"
    assert world.slot_states()["b"] == "unbootable"


def test_a_confirmation_that_fails_is_tried_again(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(5)
    world.fail_step["Confirm"] = StepFailed(Work.CONFIRM, Reason.STORAGE_ERROR, "no", world.slots.slots())
    world.pass_time(75)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_a_way_back_that_fails_is_tried_again(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(5)
    world.fail_step["Revert"] = StepFailed(Work.REVERT, Reason.STORAGE_ERROR, "no", world.slots.slots())
    world.direct(Action.HALT, BUNDLE)
    assert world.booted == "b"

    world.pass_time(15)

    assert world.outcome == (State.ROLLED_BACK, Reason.HALTED)
    assert sum(isinstance(effect, Revert) for effect in world.effects) == 2


def test_a_slot_that_cannot_be_discarded_is_not_booted_and_tried_again(world: World) -> None:
    world.answers_reports = False
    world.offer(BUNDLE)
    world.connect()
    world.settle()
    world.fail_step["Revert"] = StepFailed(Work.REVERT, Reason.STORAGE_ERROR, "no", world.slots.slots())
    world.direct(Action.HALT, BUNDLE)
    world.answers_reports = True

    world.pass_time(15)

    assert world.outcome == (State.CANCELLED, Reason.HALTED)
    assert world.slot_states()["b"] == "unbootable"


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xa0", b"\xa1\x00\x02"])
def test_a_damaged_state_is_told_and_replaced(world: World, content: bytes) -> None:
    (world.directory / "agent.cbor").write_bytes(content)

    world.power_cycle()
    update(world)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_the_state_is_read_as_it_was_written(world: World) -> None:
    update(world)

    state = world.agent.state
    assert decode_state(encode_state(state)) == state
    with pytest.raises(CodecError):
        decode_state(encode_state(state)[:-1])
    assert decode_state(encode_state(AgentState(world.region, world.cohort))).update is None


def test_an_update_in_slot_b_is_followed_by_one_in_slot_a(world: World) -> None:
    update(world)

    world.offer(make_bundle(2, "1.2.0"), campaign=OTHER_CAMPAIGN)
    world.pass_time(61)

    assert world.booted == "a"
    assert {slot.name: slot.state for slot in world.slots.slots()} == {
        "a": SlotState.CONFIRMED,
        "b": SlotState.CONFIRMED,
    }
