"""What a device itself says against starting: its own windows, and what its platform finds missing."""

from datetime import UTC, datetime
from pathlib import Path

from device_sim.agent.events import Activate, Conditions, Obstacle
from server.domain.execution import State
from server.domain.windows import Window
from server.protocol.reasons import Reason
from tests.agent_world import EPOCH, World

EMPTY = Obstacle(Reason.OUTSIDE_WINDOW, "the battery is at 5 %, 40 % are needed")


def test_a_device_with_an_obstacle_says_so_and_starts_once_it_is_gone(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.feed(Conditions(EMPTY))
    world.offer()
    world.connect()
    world.pass_time(30)

    assert (world.last.state, world.last.reason, world.last.detail) == (State.DUE, EMPTY.reason, EMPTY.detail)
    world.feed(Conditions(None))
    world.pass_time(70)
    assert world.last.state is State.CONFIRMED


def test_an_obstacle_that_comes_after_the_download_keeps_the_slot_from_being_activated(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.answers_reports = False
    world.offer()
    world.connect()
    world.pass_time(5)
    world.feed(Conditions(EMPTY))
    world.answers_reports = True
    world.pass_time(60)

    assert not world.did(Activate)
    world.feed(Conditions(None))
    world.pass_time(70)
    assert world.last.state is State.CONFIRMED


def test_a_device_starts_in_its_own_window_as_well_as_in_the_offers(tmp_path: Path) -> None:
    opens = datetime.fromtimestamp(EPOCH + 1000 + 7200, UTC)
    world = World(tmp_path, windows=(Window(f"{opens.minute} {opens.hour} * * *", 3600),))
    world.offer()
    world.connect()
    world.pass_time(60)
    assert (world.last.state, world.last.reason) == (State.DUE, Reason.OUTSIDE_WINDOW)

    world.pass_time(7200 + 120)

    assert world.last.state is State.CONFIRMED
