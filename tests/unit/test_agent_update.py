"""The agent's core on a good day: from an offer to a confirmed release, through every restart in between."""

from pathlib import Path

import pytest

from server.domain.execution import State
from tests.agent_world import World, check_bundle, make_bundle

GOOD = [State.DOWNLOADING, State.INSTALLING, State.REBOOTING, State.TRIAL, State.CONFIRMED]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_worlds_bundles_are_real() -> None:
    check_bundle(make_bundle())


def test_an_offer_is_downloaded_installed_tried_and_confirmed(world: World) -> None:
    world.offer()
    world.connect()
    world.pass_time(61)

    assert world.states == GOOD
    assert world.booted == "b"
    assert world.slot_states() == {"a": "confirmed", "b": "confirmed"}
    assert {name: world.image("b", name) for name in ("app", "rootfs")} == make_bundle().images
