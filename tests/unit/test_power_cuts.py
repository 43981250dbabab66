"""The power may go at any page that is written and at any sync: what boots is always whole, and the update ends."""

import pytest

from bench.power_cut_stories import STORIES
from bench.power_cuts import Enumeration
from device_sim.agent import durable_file


@pytest.mark.parametrize("name", STORIES)
def test_a_power_cut_at_any_moment_bricks_nothing_and_the_update_ends(name: str) -> None:
    tally = Enumeration(STORIES[name], seed=1, scattered=2 if name == "update" else 0, twice=False).run()

    assert (tally.bricks, tally.unverified_boots, tally.unfinished) == ([], [], [])
    assert tally.cut_points > 60
    assert tally.media > tally.cut_points


def test_a_power_cut_does_no_harm_to_partitions_and_u_boots_environment_either() -> None:
    tally = Enumeration(STORIES["update by delta"], platform="u-boot", seed=1, scattered=1, twice=False).run()

    assert (tally.bricks, tally.unverified_boots, tally.unfinished) == ([], [], [])
    assert tally.cut_points > 80


def test_the_enumeration_finds_a_sync_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof that cannot fail is none: without the sync of its name, a slot that boots may be gone."""
    whole = durable_file.sync_directory

    def forget_slots(directory, *, files):
        if directory.name != "slots":
            whole(directory, files=files)

    monkeypatch.setattr(durable_file, "sync_directory", forget_slots)
    tally = Enumeration(STORIES["update"], seed=1, scattered=0, twice=False).run()

    assert tally.unverified_boots
