"""What a trace makes simulated devices do: the same as it does to the virtual ones of a replay."""

import numpy as np
import pytest

from device_sim.inventory import newcomers_of
from device_sim.script import scripts_of
from server.services.replay.scenarios import make_trace
from server.services.replay.world import Phase, World
from server.traces.fates import Fate

HOURS = 12
FACTORY, RELEASE = "1.0.0", "2.0.0"


def dead_of(trace):
    """Whom a replay finds dead some hours after everybody who was online has started at once."""
    world, level = World(trace), np.zeros(len(trace.devices.regions), np.int64)
    started = np.flatnonzero(world.tick(trace.epoch + 60, level).online)
    world.start(started)
    for minute in range(2, HOURS * 60):
        world.tick(trace.epoch + 60 * minute, level)
    dead = started[world.phase[started] == Phase.DEAD]
    return {trace.devices.ids[index] for index in started}, {trace.devices.ids[index] for index in dead}


@pytest.mark.parametrize("name", ["brick-30", "hardware", "region"])
def test_the_victims_are_those_of_the_replay(name):
    trace = make_trace(name, devices=400, seed=3)
    started, dead = dead_of(trace)

    scripts = scripts_of(trace, 60)

    assert dead
    assert {name for name in started if not scripts[name].returns_with(RELEASE)} == dead


def test_other_versions_harm_nobody():
    scripts = scripts_of(make_trace("brick-30", devices=400, seed=3), 60)

    assert all(script.returns_with(FACTORY) for script in scripts.values())


@pytest.mark.parametrize(("name", "fate"), [("flapping", Fate.FLAP), ("late", Fate.LATE), ("slow", Fate.SLOW)])
def test_who_suffers_later_comes_back_first(name, fate):
    scripts = scripts_of(make_trace(name, devices=1000, seed=1), 60).values()

    struck = [script for script in scripts if script.fate is fate]

    assert struck
    assert all(script.returns_with(RELEASE) or script.is_lost for script in struck)


def test_a_factor_divides_all_times():
    trace = make_trace("flapping", devices=200, seed=1)
    slow, fast = scripts_of(trace, 1), scripts_of(trace, 60)

    for name, script in slow.items():
        quick = fast[name]
        assert (quick.fate, quick.is_lost, quick.version) == (script.fate, script.is_lost, RELEASE)
        assert np.allclose(np.array(quick.away) * 60, script.away)
        for one, other in zip(
            (quick.download_s, quick.reboot_s, quick.after_s, *quick.every_s, *quick.off_s),
            (script.download_s, script.reboot_s, script.after_s, *script.every_s, *script.off_s),
            strict=True,
        ):
            assert one * 60 == pytest.approx(other)


def test_the_times_away_are_the_traces():
    trace = make_trace("storms", devices=100, seed=1)

    scripts = scripts_of(trace, 1)

    spans = [(name, *span) for name, script in scripts.items() for span in script.away]
    ids = [trace.devices.ids[index] for index in trace.away.device]
    assert spans == list(zip(ids, trace.away.start.tolist(), trace.away.end.tolist(), strict=True))


def test_the_devices_to_add_are_the_traces():
    trace = make_trace("healthy", devices=50, seed=1)

    newcomers = newcomers_of(trace, cohort="main", vendor="acme.example")

    assert [one.id for one in newcomers] == list(trace.devices.ids)
    assert {one.region for one in newcomers} == set(trace.devices.regions)
    assert {one.hardware for one in newcomers} == {
        trace.devices.classes[index] for index in trace.devices.hardware.tolist()
    }
