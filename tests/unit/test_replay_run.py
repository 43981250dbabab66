from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.gate import FULL
from server.domain.halt.view import Call, Moment, Verdict
from server.domain.plan import Plan, Policy, Wave
from server.services.replay.engine import Engine, plan_of_a_day
from server.services.replay.run import misses, replay
from server.services.replay.scenarios import make_trace
from server.services.replay.world import population_of
from server.traces.format import Expect

PLENTY = 1_000_000


def go(population, in_region=PLENTY, in_class=PLENTY, **fields) -> Verdict:
    return Verdict(
        room_in_regions=np.full(len(population.regions), in_region),
        room_in_classes=np.full(len(population.classes), in_class),
        **fields,
    )


@dataclass
class Scripted:
    """Says the same at each tick, but for what a function says of the number of the tick."""

    verdict: Verdict
    at: dict[int, Verdict] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)

    def step(self, moment: Moment) -> Verdict:
        self.moments.append(moment)
        return self.at.get(len(self.moments), self.verdict)


def played(name="healthy", devices=400, policy=None, at=(), **fields):
    trace = make_trace(name, devices=devices, seed=2)
    population = population_of(trace)
    base = go(population, **fields)
    rule = Scripted(base, {tick: replace(base, **change) for tick, change in dict(at).items()})
    return replay(trace, rule, population, policy=policy), rule, trace


def test_a_release_that_nobody_stops_reaches_everybody_who_was_there():
    result, rule, trace = played()

    assert result.verdict == "complete"
    assert result.completed_s is not None
    assert result.completed_s < trace.head.duration
    assert result.started > 0.9 * 400
    assert np.all(rule.moments[-1].level == FULL)


def test_levels_never_fall_and_nobody_starts_above_them():
    _, rule, trace = played()
    population = population_of(trace)

    for before, after in zip(rule.moments, rule.moments[1:], strict=False):
        assert np.all(before.level <= after.level)
        assert np.all(population.height[after.started] < after.level[population.region[after.started]])


def test_a_halt_ends_it_at_once():
    bad = {"call": Call.HALT, "channel": "g1", "scope": "hardware hw4", "why": "too many.", "wealth": 120.0}

    result, rule, _ = played("brick-30", at={200: bad})

    assert (result.verdict, result.channel, result.scope, result.sentence) == (
        "halt",
        "g1",
        "hardware hw4",
        "too many.",
    )
    assert result.virtual_s == 200 * 60
    assert len(rule.moments) == 200
    assert 0 < result.bricked <= result.updated <= result.started


def test_nobody_starts_in_bad_weather_and_it_goes_on_by_itself():
    storm = {"bad_weather": frozenset({"r0"})}

    result, rule, trace = played(at=dict.fromkeys(range(5, 60), storm))
    regions = trace.devices.region

    in_storm = [moment for number, moment in enumerate(rule.moments, 1) if 5 < number <= 60]
    assert not any(np.any(regions[moment.started] == 0) for moment in in_storm)
    assert (result.verdict, result.pauses, result.seen) == ("complete", 1, ("pause",))


def test_nobody_starts_anywhere_while_we_are_blind():
    _, rule, _ = played(at={tick: {"is_blind": True} for tick in range(5, 60)})

    assert not any(len(moment.started) for number, moment in enumerate(rule.moments, 1) if 5 < number <= 60)


@pytest.mark.parametrize(
    ("spike", "storm", "verdict"),
    [
        ("pause", {"is_storm_ours": True, "bad_since": 0.0}, "complete"),
        ("hold", {"is_storm_ours": True, "bad_since": 0.0}, "hold"),
        ("halt", {"is_storm_ours": True}, "halt"),
        ("halt", {"bad_since": 0.0}, "complete"),
    ],
)
def test_what_a_spike_does_is_the_policys_word(spike, storm, verdict):
    result, _, _ = played(policy=Policy(on_offline_spike=spike), at={100: storm})

    assert verdict == result.verdict


def test_a_trace_that_is_too_short_is_unfinished():
    result, _, _ = played(room=0)

    assert result.verdict == "unfinished"


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"verdict": "halt|hold"}, 0),
        ({"verdict": "any"}, 0),
        ({"verdict": "complete"}, 1),
        ({"verdict": "halt", "scope": "hw4", "channel": "g1"}, 0),
        ({"verdict": "halt", "scope": "hw3", "channel": "g2"}, 2),
        ({"verdict": "halt", "must": ["brake"]}, 1),
        ({"verdict": "halt", "must": ["pause"], "must_not": ["brake", "hold"]}, 0),
        ({"verdict": "halt", "must_not": ["halt", "pause"]}, 2),
    ],
)
def test_a_result_is_held_against_what_was_expected(expect, said):
    bad = {"call": Call.HALT, "channel": "g1", "scope": "hardware hw4", "why": "too many."}
    result, _, _ = played(at={5: {"is_blind": True}, 200: bad})

    assert said == len(misses(result, Expect.model_validate(expect)))


@given(
    seed=st.integers(0, 50),
    room=st.integers(0, 20),
    room_class=st.integers(0, 8),
    whole=st.integers(0, 60),
    pace=st.sampled_from([0.0, 0.1, 1.0]),
    steps=st.integers(1, 40),
)
def test_the_engine_never_exceeds_the_room(seed, room, room_class, whole, pace, steps):
    population = population_of(make_trace("healthy", devices=200, seed=seed))
    wave = Wave(ratio=1.0, count=None, ramp_s=600, soak_s=0)
    engine = Engine(Plan(waves=(wave,)), population, 60)
    rng = np.random.default_rng(seed)
    idle = np.ones(200, np.bool_)

    for _ in range(steps):
        online = rng.random(200) < 0.8
        started = engine.step(go(population, room, room_class, room=whole, pace=pace), idle=idle, online=online)

        assert len(started) <= whole
        assert np.all(np.bincount(population.region[started], minlength=8) <= room)
        assert np.all(np.bincount(population.hardware[started], minlength=5) <= room_class)
        assert np.all(idle[started] & online[started])
        assert np.all(population.height[started] < engine.level[population.region[started]])
        assert len(set(started.tolist())) == len(started)
        idle[started] = False


@pytest.mark.parametrize(("devices", "first"), [(30, [1, 3, 10]), (100, [1]), (500, [5])])
def test_small_fleets_begin_with_small_steps(devices, first):
    plan = plan_of_a_day(population_of(make_trace(f"small-{devices}", devices=devices, seed=1)))

    assert first == [wave.count for wave in plan.waves if wave.count]
    assert plan.waves[-1].ratio == 1.0
