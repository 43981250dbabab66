from dataclasses import dataclass, field, replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_store.errors import InvalidInputError
from server.domain.campaign import Cause
from server.domain.decide import Kind
from server.domain.gate import FULL
from server.domain.halt import HaltPolicy, HaltRule
from server.domain.halt.view import Call, Moment, Verdict
from server.domain.identity import CampaignId, DeviceId
from server.domain.plan import Plan, Policy, Wave
from server.services.replay.engine import Engine, plan_of_a_day
from server.services.replay.run import misses, replay
from server.services.replay.scenarios import make_trace
from server.services.replay.world import population_of
from server.traces.format import Expect

PLENTY = 1_000_000


def go(population, in_region=PLENTY, in_class=PLENTY, **fields) -> Verdict:
    """All is well, whoever may be silent."""
    fields.setdefault("excess_silent", np.zeros(len(population.regions)))
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

    assert (result.verdict, result.channel, result.scope) == ("halt", "g1", "hardware hw4")
    assert result.sentence == "Halted after 3.3 h: too many."
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


def engine_of(population, *waves, policy=None):
    return Engine(
        Plan(waves=waves), population, policy or Policy(), campaign=CampaignId(UUID(int=1)), begins=0.0, grace_s=150.0
    )


def moment_of(engine, now, online, last_seen=None, **news):
    nobody = np.empty(0, np.int64)
    names = ("started", "rebooted", "over", "failed", "succeeded", "dropped")
    return Moment(
        now=now,
        last_seen=np.where(online, now, -np.inf) if last_seen is None else last_seen,
        online=online,
        present=np.ones(len(online), np.bool_),
        level=engine.level(now),
        rebooted_at=news.pop("rebooted_at", np.empty(0)),
        **{name: np.asarray(news.get(name, nobody), np.int64) for name in names},
    )


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
    engine = engine_of(population, Wave(ratio=1.0, count=None, ramp_s=600, soak_s=0))
    rng = np.random.default_rng(seed)
    idle = np.ones(200, np.bool_)
    started = np.empty(0, np.int64)

    for step in range(1, steps + 1):
        if step == 1 or pace == 1:  # a slow line is longer than a tick: who comes meanwhile may start under it
            online = rng.random(200) < 0.8
        moment = moment_of(engine, 60.0 * step, online, started=started)
        started = engine.step(moment, go(population, room, room_class, room=whole, pace=pace), until=60.0 * (step + 1))

        assert len(started) <= whole
        assert np.all(np.bincount(population.region[started], minlength=8) <= room)
        assert np.all(np.bincount(population.hardware[started], minlength=5) <= room_class)
        assert np.all(idle[started] & online[started])
        assert np.all(population.height[started] < engine.level(60.0 * (step + 1))[population.region[started]])
        assert len(set(started.tolist())) == len(started)
        idle[started] = False


def test_who_was_away_when_the_level_passed_is_admitted_when_it_is_back():
    population = population_of(make_trace("small-30", devices=30, seed=1))
    engine = engine_of(population, Wave(ratio=1.0, count=None, ramp_s=0))
    away = np.arange(30) < 10

    punctual = engine.step(moment_of(engine, 60.0, ~away), go(population), until=120.0)
    nobody = engine.step(moment_of(engine, 120.0, ~away, started=punctual), go(population), until=180.0)
    there = np.ones(30, np.bool_)
    few = engine.step(moment_of(engine, 180.0, there), go(population, 3), until=240.0)
    rest = engine.step(moment_of(engine, 240.0, there, started=few), go(population), until=300.0)

    assert sorted(punctual.tolist()) == list(range(10, 30))
    assert len(nobody) == 0
    lowest = sorted(range(10), key=lambda device: population.height[device])
    assert few.tolist() == lowest[:3]
    assert rest.tolist() == lowest[3:]


def test_a_gate_pauses_and_goes_on_when_the_silent_are_back():
    """Five of fifty are silent at their deadline; then they are heard again, and confirm."""
    population = population_of(make_trace("small-100", devices=100, seed=1))
    engine = engine_of(population, Wave(count=50, ratio=None, ramp_s=0, soak_s=0), Wave(ratio=1.0, count=None))
    well, bad = go(population), go(population, excess_silent=np.array([5.0]))
    there = np.ones(100, np.bool_)
    first = engine.step(moment_of(engine, 60.0, there), well, until=120.0)
    engine.step(
        moment_of(engine, 120.0, there, started=first, rebooted=first, rebooted_at=np.full(50, 120.0)),
        well,
        until=180.0,
    )
    lost = np.isin(np.arange(100), first[:5])
    engine.step(moment_of(engine, 180.0, there, succeeded=first[5:]), well, until=240.0)

    dark = moment_of(engine, 1200.0, ~lost, last_seen=np.where(lost, 120.0, 1200.0))
    started = engine.step(dark, bad, until=1260.0)

    assert len(started) == 0
    assert engine.campaign.causes == {Cause.GATE}
    assert engine.decisions[-1].sentence.startswith("Paused by the gate of wave 1: 5 of 50 devices failed")

    back = moment_of(engine, 1260.0, there, succeeded=first[:5])
    engine.step(back, bad, until=1320.0)

    assert [decision.kind for decision in engine.decisions[:2]] == [Kind.UNPAUSE, Kind.OPEN_WAVE]


def test_a_campaign_that_its_gate_still_holds_at_the_end_needs_a_person():
    result, _, _ = played("brick-30", excess_silent=np.full(8, 400.0))

    assert (result.verdict, result.channel, result.scope) == ("hold", "gate", "fleet")
    assert result.sentence.startswith("Paused by the gate of wave ")
    assert set(result.seen) == {"gate", "hold", "pause"}


def test_a_watched_campaign_finishes_and_halts_if_it_must():
    policy = Policy(watch_s=3600)
    bad = {"call": Call.HALT, "channel": "stay", "scope": "fleet", "why": "too many."}

    finished, rule, _ = played(policy=policy)
    halted, _, _ = played(policy=policy, at={len(rule.moments) - 1: bad})

    assert (finished.verdict, finished.completed_s) == ("complete", finished.virtual_s)
    assert rule.moments[-1].now - rule.moments[0].now == pytest.approx(finished.completed_s + 3600 - 60)
    assert halted.verdict == "halt"
    assert halted.completed_s == finished.completed_s


@pytest.mark.parametrize(("devices", "first"), [(30, [1, 3, 10]), (100, [1]), (500, [5])])
def test_small_fleets_begin_with_small_steps(devices, first):
    plan = plan_of_a_day(population_of(make_trace(f"small-{devices}", devices=devices, seed=1)))

    assert first == [wave.count for wave in plan.waves if wave.count]
    assert plan.waves[-1].ratio == 1.0


def test_a_plan_that_names_devices_is_refused():
    population = population_of(make_trace("small-30", devices=30, seed=1))

    with pytest.raises(InvalidInputError, match="by name"):
        engine_of(population, Wave(devices=(DeviceId("d000001"),)))


@pytest.mark.parametrize(("name", "verdicts"), [("sleepers", {"complete"}), ("sleepers-brick-30", {"halt", "hold"})])
def test_sleeping_halts_no_good_release_and_hides_no_bad_one(name, verdicts):
    trace = make_trace(name, devices=1000, seed=2)
    population = population_of(trace)
    rule = HaltRule(population, HaltPolicy(), 2)

    result = replay(trace, rule, population, watch=False)

    assert result.verdict in verdicts
    assert rule.sleepers_judged > 0
