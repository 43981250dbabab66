"""Reboots that are admitted: a device whose neighbours reboot waits with what it has written."""

from pathlib import Path

import pytest

from server.domain.execution import State
from server.protocol.orders import Action, Admit
from tests.agent_world import CAMPAIGN, OTHER_CAMPAIGN, World, make_bundle

BUNDLE = make_bundle()
WRITTEN = [State.DOWNLOADING, State.INSTALLING]
AFTER = [State.REBOOTING, State.TRIAL, State.CONFIRMED]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A device that has written a release whose reboots are admitted."""
    world = World(tmp_path)
    world.offer(BUNDLE, reboots_admitted=True)
    world.connect()
    world.pass_time(300)
    assert world.states == WRITTEN
    return world


def let_reboot(world: World, *, for_s: int = 120, **changes: object) -> None:
    world.welcome(**{"reboot": Admit(CAMPAIGN, world.server_now + for_s), **changes})
    world.settle()


def test_a_device_reboots_when_its_welcome_lets_it(world: World) -> None:
    let_reboot(world)
    world.pass_time(61)

    assert world.states == WRITTEN + AFTER
    assert world.booted == "b"


@pytest.mark.parametrize(
    "changes",
    [{"reboot": Admit(OTHER_CAMPAIGN, 1 << 62)}, {"reboot": Admit(CAMPAIGN, 0)}, {"nonce": bytes(16)}, {"held": True}],
    ids=["another campaign", "over", "another session", "held"],
)
def test_a_word_that_is_not_good_lets_nobody_reboot(world: World, changes: dict[str, object]) -> None:
    let_reboot(world, **changes)
    world.pass_time(300)

    assert world.states == WRITTEN


def test_an_admit_to_start_is_none_to_reboot(world: World) -> None:
    world.admit()
    world.settle()
    world.pass_time(300)

    assert world.states == WRITTEN


def test_the_word_of_an_earlier_session_is_over_with_it(world: World) -> None:
    world.answers_reports = False
    let_reboot(world)
    world.disconnect()
    world.answers_reports = True
    world.connect()
    world.pass_time(300)
    assert world.booted == "a"

    let_reboot(world)
    world.pass_time(61)

    assert world.states[-1] is State.CONFIRMED


def test_a_device_whose_time_is_over_before_the_server_has_its_word_does_not_reboot(world: World) -> None:
    world.answers_reports = False
    let_reboot(world)
    assert world.states[-1] is State.REBOOTING

    world.pass_time(121)
    world.answers_reports = True
    world.ack(world.reports[-1].sequence)
    world.settle()
    world.pass_time(300)

    assert world.booted == "a"


def test_a_halt_ends_the_waiting(world: World) -> None:
    world.direct(Action.HALT, BUNDLE)
    world.settle()

    assert world.states[-1] is State.CANCELLED
    assert world.booted == "a"


def test_an_offer_that_admits_reboots_no_more_lets_the_device_go_on(world: World) -> None:
    world.offer(BUNDLE)
    world.settle()
    world.pass_time(61)

    assert world.states == WRITTEN + AFTER
