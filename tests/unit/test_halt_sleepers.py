"""The halt rule and devices that declare that they sleep."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.domain.halt import Call, HaltPolicy, HaltRule, Moment, Population, Verdict
from server.domain.halt.pace import room_of_sleepers
from server.domain.halt.roster import Status
from server.domain.halt.wealth import Process

BEGIN, TICK_S, FULL = 1_750_000_000.0, 60.0, 1 << 32
POLICY = HaltPolicy()
NOBODY = np.empty(0, np.int64)


def sleepers(count: int, wake_s: float, *, awake: int = 0) -> Population:
    """``count`` devices of one region, the first of which are the lowest; after them ``awake`` that do not sleep."""
    whole = count + awake
    return Population(
        regions=("r0",),
        classes=("hw0",),
        region=np.zeros(whole, np.int16),
        hardware=np.zeros(whole, np.int16),
        height=np.linspace(0, FULL - 1, whole).astype(np.uint32),
        unsteady=np.zeros(whole, np.bool_),
        wake_s=np.repeat([wake_s, 0.0], [count, awake]),
    )


def moments(
    people: Population, last_seen: Iterator[np.ndarray], *, updated: Sequence[int], ticks: int, tick_s: float = TICK_S
) -> Iterator[Moment]:
    """``updated`` reboot in the first moment; whoever was heard within 150 s is online."""
    for tick in range(ticks):
        now, heard = BEGIN + tick * tick_s, next(last_seen)
        mine = np.array(updated if tick == 0 else [], np.int64)
        yield Moment(
            now=now,
            last_seen=heard,
            online=now - heard <= 150,
            present=np.ones(len(people), np.bool_),
            level=np.array([int(people.height[len(updated)])], np.int64),
            started=mine,
            rebooted=mine,
            rebooted_at=np.full(len(mine), now),
            over=NOBODY,
            failed=NOBODY,
            succeeded=NOBODY,
            dropped=NOBODY,
        )


def waking(people: Population, gone: dict[int, float] | None = None, tick_s: float = TICK_S) -> Iterator[np.ndarray]:
    """Everybody wakes for a moment once in its interval; those of ``gone`` do so no more from then on (seconds)."""
    wake_s = np.maximum(people.wakes_s, tick_s)
    phase = np.linspace(0, 1, len(people), endpoint=False) * wake_s
    tick = 0
    while True:
        now = tick * tick_s
        last = now - np.mod(now - phase, wake_s)
        for device, since in (gone or {}).items():
            last[device] = min(last[device], since - np.mod(since - phase[device], wake_s[device]))
        last[0] = max(last[0], min(now, (gone or {}).get(0, 0.0)))  # it has just reported its reboot, or is back
        yield BEGIN + last
        tick += 1


def judge(rule: HaltRule, seen: Iterator[Moment]) -> list[Verdict]:
    return [rule.step(moment) for moment in seen]


@settings(max_examples=10, deadline=None)
@given(
    wake_s=st.integers(300, 3600),
    gaps=st.lists(st.floats(0.05, 1.0), min_size=80, max_size=80),
)
def test_a_device_that_wakes_in_time_is_never_silent(wake_s: int, gaps: list[float]) -> None:
    people = sleepers(60, wake_s)
    wakes = np.cumsum(np.array(gaps) * wake_s)
    usual = waking(people)

    def heard() -> Iterator[np.ndarray]:
        for tick in range(10**6):
            last_seen = next(usual)
            last_seen[0] = BEGIN + np.max(wakes[wakes <= tick * TICK_S], initial=0.0)
            yield last_seen

    rule, ticks = HaltRule(people, POLICY), int((POLICY.g1_s + 3 * wake_s) / TICK_S) + 10
    for moment in moments(people, heard(), updated=[0], ticks=ticks):
        rule.step(moment)

        assert rule.roster.status[0] != Status.SILENT
    assert rule.roster.status[0] == Status.GOOD


@pytest.mark.parametrize("back_s", [0.0, 400.0])
def test_one_that_does_not_wake_again_is_silent_after_its_third_interval_and_not_before(back_s: float) -> None:
    """Bricked, or back from its reboot and never awake again once it had gone to sleep."""
    people, wake_s = sleepers(60, 1200), 1200
    rule = HaltRule(people, POLICY)
    statuses = []
    for moment in moments(people, waking(people, {0: back_s}), updated=[0], ticks=90):
        rule.step(moment)
        statuses.append(int(rule.roster.status[0]))
    first = statuses.index(Status.SILENT) * TICK_S

    assert POLICY.g1_s + 3 * wake_s <= first <= POLICY.g1_s + 3 * wake_s + 2 * TICK_S
    assert rule.sleepers_judged == 1


def test_those_that_never_wake_again_halt_the_release() -> None:
    people = sleepers(400, 3600)
    rule = HaltRule(people, POLICY)

    verdicts = judge(rule, moments(people, waking(people, dict.fromkeys(range(8), 0.0)), updated=range(10), ticks=210))

    assert (verdicts[-1].call, verdicts[-1].channel) == (Call.HALT, "wake")
    assert "8 of 10 updated devices that sleep missed their wakes for 3 intervals" in verdicts[-1].why
    assert {verdict.call for verdict in verdicts[:190]} == {Call.GO}


def test_sleepers_that_wait_for_their_verdict_take_no_room_from_others_and_keep_their_own_for_a_day_at_most() -> None:
    people = sleepers(60, 40_000, awake=200)
    policy = HaltPolicy(sleeper_s=1200)
    none = HaltRule(people, policy).step(next(moments(people, waking(people), updated=[], ticks=1)))
    verdicts = judge(HaltRule(people, policy), moments(people, waking(people), updated=range(8), ticks=30))

    assert [verdict.in_flight for verdict in (none, verdicts[0], verdicts[-1])] == [0, 8, 8]
    assert [verdict.room_of_sleepers for verdict in (none, verdicts[0], verdicts[-1])] == [10, 2, 10]
    assert verdicts[0].room_in_regions.tolist() == none.room_in_regions.tolist()
    assert verdicts[0].room_in_classes.tolist() == none.room_in_classes.tolist()


def test_the_room_of_sleepers_follows_what_is_known_of_them_and_is_a_tenth_while_the_brake_is_on() -> None:
    def room(judged: float, *, excess: float = 0, in_flight: int = 0, is_braked: bool = False) -> int:
        return room_of_sleepers(judged=judged, excess=excess, in_flight=in_flight, is_braked=is_braked, policy=POLICY)

    assert [room(0), room(30), room(300)] == [10, 110, 1010]
    assert [room(0, in_flight=4), room(0, in_flight=40), room(30, excess=8)] == [6, 0, 30]
    assert [room(0, is_braked=True), room(30, is_braked=True), room(0, in_flight=1, is_braked=True)] == [1, 11, 0]


def test_sleepers_do_not_watch_the_weather() -> None:
    """All of them miss their wakes: of the others, who are all there, nobody is dark."""
    people = sleepers(300, 600, awake=300)
    rule = HaltRule(people, POLICY)
    gone = dict.fromkeys(range(300), 1200.0)

    verdicts = judge(rule, moments(people, waking(people, gone), updated=[], ticks=60))

    assert {verdict.bad_weather for verdict in verdicts} == {frozenset()}
    assert verdicts[-1].is_weather_known


def test_the_odds_do_not_grow_on_average_if_the_release_is_harmless() -> None:
    """Sleepers die at random, whoever they are: shadows may have died before the others' reboot, unnoticed so far."""
    wake_s, tick_s, campaigns = 1200.0, 290.0, 80
    rng, odds, silent = np.random.default_rng(5), [], 0
    people = sleepers(120, wake_s)
    for _ in range(campaigns):
        dies = rng.exponential(20 * wake_s, len(people)) - 2 * wake_s
        dies[:12] = np.where(dies[:12] < 0, np.inf, dies[:12])  # who is updated lives at its reboot
        gone = {device: float(at) for device, at in enumerate(dies) if np.isfinite(at)}
        rule = HaltRule(people, POLICY)
        judge(rule, moments(people, waking(people, gone, tick_s), updated=range(12), ticks=20, tick_s=tick_s))
        odds.append(np.exp(rule.wealth.log[Process.G1_ASLEEP, 0]))
        silent += int(rule.wealth.tally[Process.G1_ASLEEP, 0, 1])
    mean = np.mean(odds, axis=0)

    assert silent > campaigns
    assert mean.mean() <= 1.0
    assert (mean <= 1 + 3 * np.std(odds, axis=0) / np.sqrt(campaigns)).all()
