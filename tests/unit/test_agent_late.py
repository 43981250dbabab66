"""Who starts unasked, who is late, and what a late device waits for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.agent.punctuality import LATE_AFTER_S, Watch
from device_sim.agent.trust import Identity
from server.domain.execution import State
from server.domain.gate import FULL, Ramp, height
from server.domain.identity import Region
from server.domain.windows import Window
from server.protocol.messages import Counter
from server.protocol.orders import Action, Admit
from server.protocol.reasons import Reason
from server.protocol.topics import DeviceAudience
from tests.agent_world import CAMPAIGN, DEVICE, EPOCH, EU, HARDWARE, LIMITS, OTHER_CAMPAIGN, VENDOR, World, make_bundle

BUNDLE = make_bundle()
OWN = height(CAMPAIGN, DEVICE)
STARTED = [State.DOWNLOADING, State.INSTALLING, State.REBOOTING, State.TRIAL, State.CONFIRMED]
LATE = (State.DUE, Reason.LATE)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, admits=False)


def passed(world: World) -> Ramp:
    """A level that is above everybody, and does not show since when."""
    return Ramp.flat(FULL, world.server_now)


def below(world: World) -> Ramp:
    """A level that ends below this device."""
    return Ramp(world.server_now, 0, world.server_now, OWN)


# --- the first offer ---


def test_a_device_that_sees_the_level_cross_starts(world: World) -> None:
    world.connect()

    world.offer(BUNDLE, ramp=Ramp(world.server_now, 0, world.server_now + 100, FULL))
    world.pass_time(200)

    assert world.states == STARTED


@pytest.mark.parametrize(("away_s", "is_late"), [(100, False), (118, False), (123, True), (5000, True)])
def test_a_device_that_comes_more_than_120_s_after_the_moment_is_late(
    world: World, away_s: int, *, is_late: bool
) -> None:
    world.offer(BUNDLE)
    world.pass_time(away_s)
    world.connect()
    world.pass_time(100)

    assert world.states == ([State.DUE] if is_late else STARTED)


def test_an_offer_that_hides_the_moment_makes_late(world: World) -> None:
    """The ramp was drawn anew a second ago, from a level above this device: it was due, nobody knows since when."""
    world.connect()
    world.offer(BUNDLE, ramp=passed(world))
    world.pass_time(100)

    assert world.outcome == LATE


def test_a_late_device_says_so_once_a_session(world: World) -> None:
    world.offer(BUNDLE, ramp=passed(world))
    for _ in range(3):
        world.connect()
        world.pass_time(500)
        world.offer(BUNDLE, ramp=passed(world))
        world.disconnect()

    assert world.states == [State.DUE] * 3
    assert {(report.attempt, report.reason) for report in world.reports} == {(1, Reason.LATE)}


# --- a ramp drawn anew ---


def test_a_device_that_looks_on_starts_though_the_new_ramp_begins_above_it(world: World) -> None:
    world.connect()
    world.offer(BUNDLE, ramp=below(world))
    world.pass_time(4000)
    assert world.reports == []

    world.offer(BUNDLE, ramp=passed(world))
    world.pass_time(100)

    assert world.states == STARTED


def test_so_does_one_that_was_due_long_ago_by_the_new_ramp_alone(world: World) -> None:
    """The server was dead for a while, and has gone on where its line would have been."""
    began = world.server_now
    world.connect()
    world.offer(BUNDLE, ramp=Ramp(began, 0, began, OWN))
    world.pass_time(4000)

    world.offer(BUNDLE, ramp=Ramp(began, 0, began + 3000, FULL))
    world.pass_time(100)

    assert world.states == STARTED


def test_a_device_that_was_away_meanwhile_is_late(world: World) -> None:
    world.connect()
    world.offer(BUNDLE, ramp=below(world))
    world.pass_time(10)
    world.disconnect()
    world.offer(BUNDLE, ramp=passed(world))
    world.pass_time(5)
    world.connect()
    world.pass_time(100)

    assert world.outcome == LATE


def test_so_is_one_that_was_not_welcome_in_this_session_before(world: World) -> None:
    world.connect()
    world.offer(BUNDLE, ramp=below(world))
    world.disconnect()
    world.answers_hello = False
    world.connect()
    world.offer(BUNDLE, ramp=passed(world))
    world.welcome()
    world.pass_time(100)

    assert world.outcome == LATE


def test_everybody_is_not_made_punctual_by_a_ramp_that_is_drawn_anew(world: World) -> None:
    """Due under the first offer, and held back; whatever is drawn later, this was the moment."""
    world.held = True
    world.connect()
    world.offer(BUNDLE)
    for _ in range(30):
        world.pass_time(5)
        world.offer(BUNDLE)
    world.held = False
    world.welcome()
    world.pass_time(100)

    assert [(report.state, report.reason) for report in world.reports] == [(State.DUE, Reason.HELD), LATE]


def test_a_directive_that_is_on_its_way_for_a_moment_makes_nobody_late(world: World) -> None:
    world.connect()
    world.offer(BUNDLE, ramp=below(world))
    world.pass_time(1000)
    world.welcome(cohort_counter=Counter(1, world.counter + 1))  # faster than the directive
    world.pass_time(20)

    world.offer(BUNDLE, ramp=passed(world))
    world.pass_time(100)

    assert world.states == STARTED


def test_one_that_lacked_the_directive_for_longer_is_late(world: World) -> None:
    world.connect()
    world.offer(BUNDLE, ramp=below(world))
    world.pass_time(1000)
    world.welcome(cohort_counter=Counter(1, world.counter + 1))
    world.settle()
    world.pass_time(121)

    world.offer(BUNDLE, ramp=passed(world))
    world.pass_time(100)

    assert world.outcome == LATE


@pytest.mark.parametrize(("hold_s", "is_late"), [(100, False), (130, True)])
def test_a_device_that_was_due_before_a_hold_is_late_after_it(world: World, hold_s: int, *, is_late: bool) -> None:
    world.connect()
    world.offer(BUNDLE, ramp=below(world))
    world.pass_time(1000)
    world.direct(Action.HOLD, BUNDLE)
    world.pass_time(hold_s)

    world.offer(BUNDLE, ramp=passed(world))
    world.pass_time(100)

    assert world.states == ([State.DUE] if is_late else STARTED)


def test_one_that_the_level_reaches_after_the_hold_is_not(world: World) -> None:
    world.connect()
    world.offer(BUNDLE, ramp=below(world))
    world.direct(Action.HOLD, BUNDLE)
    world.pass_time(5000)

    now = world.server_now
    world.offer(BUNDLE, ramp=Ramp(now, OWN, now + 60, FULL))
    world.pass_time(200)

    assert world.states == STARTED


def test_a_device_that_was_busy_with_another_campaign_is_late_for_the_next_one(world: World) -> None:
    world.offer(BUNDLE, deadlines=replace(LIMITS, trial_s=300))
    world.connect()
    world.pass_time(10)

    world.offer(make_bundle(2, "1.2.0"), campaign=OTHER_CAMPAIGN)
    world.pass_time(600)

    assert world.outcome == LATE
    assert world.last.campaign == OTHER_CAMPAIGN


# --- admits ---


def late(world: World) -> None:
    world.offer(BUNDLE, ramp=passed(world))
    world.connect()
    world.pass_time(1000)
    assert world.outcome == LATE


def test_an_admitted_device_starts(world: World) -> None:
    late(world)

    world.admit()
    world.settle()
    world.pass_time(100)

    assert world.states == [State.DUE, *STARTED]


@pytest.mark.parametrize(
    "admit",
    [
        Admit(OTHER_CAMPAIGN, 1 << 62),
        Admit(CAMPAIGN, 0),
        Admit(CAMPAIGN, EPOCH + 2000),  # this very second
    ],
    ids=["another campaign's", "expired", "just expired"],
)
def test_an_admit_that_is_not_good_starts_nothing(world: World, admit: Admit) -> None:
    late(world)

    world.welcome(admit=admit)
    world.pass_time(100)

    assert world.states == [State.DUE]


def test_an_admit_of_an_earlier_session_starts_nothing(world: World) -> None:
    late(world)
    world.held = True
    world.admit()
    world.settle()
    world.held = False
    world.disconnect()

    world.connect()
    world.pass_time(100)

    assert world.outcome == LATE


@pytest.mark.parametrize(
    "lacks", [{"held": True}, {"cohort_counter": Counter(1, 99)}, {"status_version": 7}, {"nonce": bytes(16)}]
)
def test_an_admit_replaces_nothing_else(world: World, lacks: dict[str, Any]) -> None:
    late(world)

    world.welcome(admit=Admit(CAMPAIGN, 1 << 62), **lacks)
    world.pass_time(300)

    assert set(world.states) == {State.DUE}


@pytest.mark.parametrize("action", [Action.HOLD, Action.HALT, Action.ROLLBACK, Action.NONE])
def test_an_admit_starts_nothing_that_is_not_offered(world: World, action: Action) -> None:
    late(world)
    world.direct(action, *([] if action is Action.NONE else [BUNDLE]))

    world.admit()
    world.settle()
    world.pass_time(100)

    assert world.states == [State.DUE]


def test_the_next_attempt_of_a_started_update_needs_no_admit(world: World) -> None:
    world.offer(BUNDLE)
    for blob in BUNDLE.blobs:
        world.retained[world.topics.blob(blob)] = b"x"  # withdrawn
    world.connect()
    world.settle()
    assert world.last.state is State.FAILED

    world.hold_blobs(BUNDLE)
    world.pass_time(1000)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert world.last.attempt == 2


def test_a_devices_own_directive_names_it_already(world: World) -> None:
    world.connect()

    world.offer(BUNDLE, audience=DeviceAudience(EU, DEVICE), ramp=passed(world))
    world.pass_time(100)

    assert world.states == STARTED


# --- who joined too late ---


@pytest.mark.parametrize(("before", "starts"), [(EPOCH, False), (EPOCH + 1, True)], ids=["then", "before"])
def test_a_snapshot_is_for_those_who_were_there_before(world: World, before: int, *, starts: bool) -> None:
    world.connect()

    world.offer(BUNDLE, members_before=before)
    world.pass_time(100)

    assert world.states == (STARTED if starts else [])


# --- windows ---


def hour_of(world: World) -> int:
    return world.server_now // 3600 % 24


def opening_in(world: World, hours: int) -> tuple[Window, ...]:
    return (Window(f"0 {(hour_of(world) + hours) % 24} * * *", 3600),)


def to_the_hour(world: World, seconds: int = 0) -> None:
    """Let time pass until so many seconds after the next full hour."""
    world.pass_time(3600 - world.server_now % 3600 + seconds)


def test_a_device_outside_of_its_window_says_so_and_is_late_when_it_opens(world: World) -> None:
    to_the_hour(world)
    world.connect()
    world.offer(BUNDLE, windows=opening_in(world, 2))
    world.pass_time(7100)
    assert [(report.state, report.reason) for report in world.reports] == [(State.DUE, Reason.OUTSIDE_WINDOW)]

    world.pass_time(200)
    assert world.outcome == LATE
    world.admit()
    world.settle()
    world.pass_time(100)

    assert world.states == [State.DUE, State.DUE, *STARTED]


def test_a_device_that_is_due_shortly_before_its_window_opens_is_punctual(world: World) -> None:
    to_the_hour(world, -60)
    world.connect()
    world.offer(BUNDLE, windows=opening_in(world, 1))
    world.pass_time(30)
    assert world.outcome == (State.DUE, Reason.OUTSIDE_WINDOW)

    world.pass_time(200)

    assert world.states == [State.DUE, *STARTED]


def test_a_device_whose_window_is_open_when_the_level_crosses_is_punctual(world: World) -> None:
    """Drawn anew after the window has opened: the device must have looked again at the opening."""
    to_the_hour(world)
    world.connect()
    windows = opening_in(world, 3)
    world.offer(BUNDLE, ramp=below(world), windows=windows)
    world.pass_time(60)
    world.offer(BUNDLE, ramp=below(world), windows=windows)
    world.pass_time(3 * 3600)

    world.offer(BUNDLE, ramp=passed(world), windows=windows)
    world.pass_time(100)

    assert world.states == STARTED


@pytest.mark.parametrize(("left_s", "starts"), [(185, True), (175, False)])
def test_a_window_must_stay_open_for_the_trial_and_the_reboot(world: World, left_s: int, *, starts: bool) -> None:
    to_the_hour(world)
    windows = opening_in(world, 0)
    world.pass_time(3600 - left_s)
    world.connect()

    world.offer(BUNDLE, windows=windows)
    world.settle()

    assert (world.states[0] is State.DOWNLOADING) is starts


def test_what_is_written_when_the_window_has_closed_is_activated_in_the_next_one(world: World) -> None:
    to_the_hour(world)
    windows = (Window(f"0 {hour_of(world)},{(hour_of(world) + 2) % 24} * * *", 3600),)
    world.hold_blobs(BUNDLE)
    world.withhold(BUNDLE)
    world.direct(Action.OFFER, BUNDLE, windows=windows, deadlines=replace(LIMITS, download_s=86_400))
    world.connect()
    world.pass_time(200)
    world.disconnect()
    world.pass_time(3400)
    assert world.last.state is State.DOWNLOADING

    world.hold_blobs(BUNDLE)
    world.connect()
    world.pass_time(3590)
    assert world.states == [State.DOWNLOADING, State.INSTALLING]
    world.pass_time(100)

    assert world.states == STARTED


@pytest.mark.parametrize(
    ("own", "told", "starts"), [(None, None, False), (None, 60, True), (60, None, True), (0, 60, False)]
)
def test_a_window_is_in_local_time(world: World, own: int | None, told: int | None, *, starts: bool) -> None:
    """The device's own offset from UTC, else the welcome's."""
    to_the_hour(world)
    world.agent._situation.identity = Identity(DEVICE, VENDOR, HARDWARE, "test", utc_offset_minutes=own)
    world.connect()
    world.welcome(utc_offset_minutes=told)
    world.settle()

    world.offer(BUNDLE, windows=opening_in(world, 1))
    world.settle()

    assert (world.states[0] is State.DOWNLOADING) is starts


def test_a_window_that_the_change_of_the_clocks_opens_is_noticed(world: World) -> None:
    """The offset changes while the device waits, and with it the moment of the opening."""
    to_the_hour(world)
    world.connect()
    world.offer(BUNDLE, windows=opening_in(world, 3))
    world.pass_time(3600)

    world.welcome(utc_offset_minutes=120)
    world.settle()

    assert world.outcome == LATE


def test_a_trial_does_not_mind_windows(world: World) -> None:
    to_the_hour(world)
    windows = opening_in(world, 0)
    world.connect()
    world.offer(BUNDLE, windows=windows)
    world.pass_time(10)
    assert world.last.state is State.TRIAL

    world.offer(BUNDLE, windows=opening_in(world, 5))
    world.pass_time(100)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


# --- the watch by itself ---

LEVELS = st.integers(0, 1000)


@given(
    own=st.integers(0, 999),
    steps=st.lists(st.tuples(st.integers(0, 200), LEVELS, st.booleans(), st.booleans()), min_size=1, max_size=12),
)
def test_whoever_is_punctual_could_have_started_at_most_120_s_before(
    own: int, steps: list[tuple[int, int, bool, bool]]
) -> None:
    """Flat ramps drawn anew, so that nothing but watching tells the moment; levels never fall."""
    watch, now, level = Watch(own), 0.0, 0
    is_watching = False
    not_due_until: float | None = None
    was_due = False
    for number, (passed_s, rise, may_start, session_ends) in enumerate(steps):
        now += passed_s
        if is_watching:
            not_due_until = now
        level = max(level, rise)
        if session_ends:
            watch.end()
            is_watching, not_due_until = False, not_due_until if was_due else None
        ramp = Ramp.flat(level, int(now))
        is_due = watch.look(ramp, Counter(1, number), now=now, server_now=now, may_start=may_start)
        assert is_due == (own < level)
        if is_due:
            known = not_due_until is not None and now - not_due_until <= LATE_AFTER_S
            assert watch.is_late(now) is not known
            is_watching, was_due = False, True
        elif may_start:
            is_watching, not_due_until = True, now
        else:
            is_watching = False


@given(st.integers(0, FULL - 1), st.integers(0, 1000), st.integers(1, 1000), st.integers(0, 3000))
def test_the_first_ramp_tells_the_moment_on_its_line(own: int, start: int, length: int, now: int) -> None:
    ramp, watch = Ramp(start, 0, start + length, FULL), Watch(own)
    if watch.look(ramp, Counter(), now=now - 77.0, server_now=now, may_start=True):
        crossed = ramp.due_at(own)

        assert crossed is not None
        assert watch.is_late(now - 77.0) is (now - crossed > LATE_AFTER_S)


def test_a_moved_device_is_late_where_it_has_come_to(world: World) -> None:
    world.connect()
    world.region = Region("us")
    world.welcome(server_time=world.server_now + 1)
    world.settle()
    us = replace(world.make_directive(Action.OFFER, BUNDLE).audience, region=Region("us"))
    world.offer(BUNDLE, audience=us, ramp=passed(world))
    world.pass_time(100)

    assert world.outcome == LATE


# --- devices that sleep ---


def sleeper(world: World, wake_interval_s: int) -> None:
    world.agent._situation.identity = Identity(DEVICE, VENDOR, HARDWARE, "test", wake_interval_s=wake_interval_s)


def test_a_device_that_sleeps_declares_it_and_waits_to_be_asked_though_it_sees_the_level_cross(world: World) -> None:
    sleeper(world, 3600)
    world.connect()
    world.offer(BUNDLE, ramp=Ramp(world.server_now, 0, world.server_now + 100, FULL))
    world.pass_time(200)

    assert [(report.state, report.reason) for report in world.reports] == [LATE]
    assert world.hellos[-1].wake_interval_s == 3600

    world.admit()
    world.pass_time(50)
    assert world.states[1] is State.DOWNLOADING


def test_a_device_that_sleeps_has_three_of_its_intervals_more_for_download_and_confirmation(world: World) -> None:
    sleeper(world, 3600)
    world.connect()
    world.offer(BUNDLE, ramp=passed(world))
    world.admit()
    world.settle()
    update = world.agent.state.update
    assert update is not None

    assert update.deadlines == replace(
        LIMITS, download_s=LIMITS.download_s + 3 * 3600, confirm_s=LIMITS.confirm_s + 3 * 3600
    )
    assert not world.agent.may_sleep
