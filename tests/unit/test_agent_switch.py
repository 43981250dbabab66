"""What each order does to a device in each stage: the table itself, and every cell of it on a real device."""

from collections.abc import Callable
from pathlib import Path

import pytest

from device_sim.agent.switch import REASONS, SWITCH, Course, Stage, course
from server.domain.execution import State
from server.domain.gate import FULL, Ramp
from server.protocol.orders import Action
from server.protocol.reasons import Reason
from server.protocol.topics import DeviceAudience
from tests.agent_world import DEVICE, EU, OTHER_CAMPAIGN, World, chunk_digests, make_bundle

BUNDLE = make_bundle()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def until_downloading(world: World) -> None:
    world.offer(BUNDLE)
    world.withhold(BUNDLE)
    world.connect()
    world.settle()


def until_written(world: World) -> None:
    world.answers_reports = False  # so that ``rebooting`` is not acknowledged
    world.offer(BUNDLE)
    world.connect()
    world.settle()


def until_trial(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(10)


def until_confirmed(world: World) -> None:
    world.offer(BUNDLE)
    world.connect()
    world.pass_time(61)


def let_it_finish(world: World) -> None:
    """Give the device all that it needs to go on, if it may."""
    world.answers_reports = True
    world.hold_blobs(BUNDLE)
    world.pass_time(700)


def order(world: World, action: Action) -> None:
    if action is Action.NONE:
        world.direct(Action.NONE)
    else:
        world.direct(action, BUNDLE)


REACH: dict[Stage, Callable[[World], None]] = {
    Stage.DOWNLOADING: until_downloading,
    Stage.WRITTEN: until_written,
    Stage.TRIAL: until_trial,
    Stage.CONFIRMED: until_confirmed,
}
BEFORE = {
    Stage.DOWNLOADING: State.DOWNLOADING,
    Stage.WRITTEN: State.REBOOTING,
    Stage.TRIAL: State.TRIAL,
    Stage.CONFIRMED: State.CONFIRMED,
}

# (stage, order) -> (reported in the end, slot that runs in the end, state of slot b in the end)
OUTCOMES: dict[tuple[Stage, Action], tuple[State, Reason, str, str]] = {
    (Stage.DOWNLOADING, Action.OFFER): (State.CONFIRMED, Reason.NONE, "b", "confirmed"),
    (Stage.DOWNLOADING, Action.HOLD): (State.INSTALLING, Reason.NONE, "a", "bootable"),
    (Stage.DOWNLOADING, Action.HALT): (State.CANCELLED, Reason.HALTED, "a", "installing"),
    (Stage.DOWNLOADING, Action.ROLLBACK): (State.CANCELLED, Reason.ROLLED_BACK, "a", "installing"),
    (Stage.DOWNLOADING, Action.NONE): (State.CANCELLED, Reason.CAMPAIGN_ENDED, "a", "installing"),
    (Stage.WRITTEN, Action.OFFER): (State.CONFIRMED, Reason.NONE, "b", "confirmed"),
    (Stage.WRITTEN, Action.HOLD): (State.REBOOTING, Reason.NONE, "a", "bootable"),
    (Stage.WRITTEN, Action.HALT): (State.CANCELLED, Reason.HALTED, "a", "unbootable"),
    (Stage.WRITTEN, Action.ROLLBACK): (State.CANCELLED, Reason.ROLLED_BACK, "a", "unbootable"),
    (Stage.WRITTEN, Action.NONE): (State.CANCELLED, Reason.CAMPAIGN_ENDED, "a", "unbootable"),
    (Stage.TRIAL, Action.OFFER): (State.CONFIRMED, Reason.NONE, "b", "confirmed"),
    (Stage.TRIAL, Action.HOLD): (State.CONFIRMED, Reason.NONE, "b", "confirmed"),
    (Stage.TRIAL, Action.HALT): (State.ROLLED_BACK, Reason.HALTED, "a", "unbootable"),
    (Stage.TRIAL, Action.ROLLBACK): (State.ROLLED_BACK, Reason.ROLLED_BACK, "a", "unbootable"),
    (Stage.TRIAL, Action.NONE): (State.CONFIRMED, Reason.NONE, "b", "confirmed"),
    (Stage.CONFIRMED, Action.OFFER): (State.CONFIRMED, Reason.NONE, "b", "confirmed"),
    (Stage.CONFIRMED, Action.HOLD): (State.CONFIRMED, Reason.NONE, "b", "confirmed"),
    (Stage.CONFIRMED, Action.HALT): (State.CONFIRMED, Reason.NONE, "b", "confirmed"),
    (Stage.CONFIRMED, Action.ROLLBACK): (State.ROLLED_BACK, Reason.ROLLED_BACK, "a", "unbootable"),
    (Stage.CONFIRMED, Action.NONE): (State.CONFIRMED, Reason.NONE, "b", "confirmed"),
}


def test_the_table_answers_every_order_in_every_stage() -> None:
    assert {stage: set(row) for stage, row in SWITCH.items()} == {stage: set(Action) for stage in Stage}
    assert set(OUTCOMES) == {(stage, action) for stage in Stage for action in Action}


def test_whatever_ends_an_update_has_a_reason() -> None:
    ending = {Course.STOP, Course.DISCARD, Course.REVERT}

    assert all(action in REASONS for row in SWITCH.values() for action, what in row.items() if what in ending)


@pytest.mark.parametrize(("stage", "action"), OUTCOMES)
def test_a_device_obeys_the_order(world: World, stage: Stage, action: Action) -> None:
    REACH[stage](world)
    assert world.last.state is BEFORE[stage]

    order(world, action)
    let_it_finish(world)

    assert (*world.outcome, world.booted, world.slot_states()["b"]) == OUTCOMES[stage, action]


@pytest.mark.parametrize(("stage", "action"), OUTCOMES)
def test_a_device_that_was_away_obeys_the_order_when_it_comes_back(world: World, stage: Stage, action: Action) -> None:
    REACH[stage](world)
    world.disconnect()

    order(world, action)
    world.pass_time(30)
    world.connect()
    let_it_finish(world)

    assert (*world.outcome, world.booted, world.slot_states()["b"]) == OUTCOMES[stage, action]


@pytest.mark.parametrize(("stage", "action"), OUTCOMES)
def test_a_device_that_lost_its_power_obeys_the_order_when_it_has_it_again(
    world: World, stage: Stage, action: Action
) -> None:
    REACH[stage](world)
    world.power_cycle()

    order(world, action)
    world.connect()
    let_it_finish(world)

    assert (*world.outcome, world.booted, world.slot_states()["b"]) == OUTCOMES[stage, action]


@pytest.mark.parametrize("action", [Action.HOLD, Action.HALT, Action.ROLLBACK, Action.NONE])
def test_a_device_that_has_not_started_does_not_start(world: World, action: Action) -> None:
    world.offer(BUNDLE, ramp=Ramp.flat(0))
    world.connect()

    order(world, action)
    let_it_finish(world)

    assert world.reports == []
    assert world.slot_states() == {"a": "confirmed", "b": "empty"}


@pytest.mark.parametrize("stage", [Stage.DOWNLOADING, Stage.WRITTEN])
def test_another_campaigns_offer_ends_an_update_that_has_not_booted(world: World, stage: Stage) -> None:
    other = make_bundle(2, "1.2.0")
    REACH[stage](world)

    world.offer(other, campaign=OTHER_CAMPAIGN)
    let_it_finish(world)

    ended = next(report for report in world.reports if report.state is State.CANCELLED)
    assert ended.reason is Reason.CAMPAIGN_ENDED
    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert world.slots.slots()[1].version == "1.2.0"


def test_a_trial_ends_by_its_own_checks_before_another_campaign_begins(world: World) -> None:
    until_trial(world)

    world.offer(make_bundle(2, "1.2.0"), campaign=OTHER_CAMPAIGN)
    world.pass_time(20)
    assert world.last.state is State.TRIAL
    world.pass_time(200)

    assert [report.campaign for report in world.reports if report.state is State.CONFIRMED][-1] == OTHER_CAMPAIGN


def test_a_halt_may_let_trials_finish(world: World) -> None:
    until_trial(world)

    world.direct(Action.HALT, BUNDLE, keep_on_halt=True)
    world.pass_time(60)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_only_a_trial_is_kept_on_halt() -> None:
    assert course(Stage.WRITTEN, Action.HALT, keep_on_halt=True) is Course.DISCARD
    assert course(Stage.DOWNLOADING, Action.HALT, keep_on_halt=True) is Course.STOP


def test_an_offer_after_a_hold_goes_on(world: World) -> None:
    until_written(world)
    world.direct(Action.HOLD, BUNDLE)
    let_it_finish(world)
    assert world.booted == "a"

    world.direct(Action.OFFER, BUNDLE)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert {report.attempt for report in world.reports} == {1}


def test_an_offer_after_a_halt_starts_the_next_attempt_with_the_chunks_it_has(world: World) -> None:
    until_downloading(world)
    world.direct(Action.HALT, BUNDLE)
    world.hold_blobs(BUNDLE)
    world.fetched.clear()

    world.direct(Action.OFFER, BUNDLE)
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)
    assert world.last.attempt == 2
    assert len([digest for digest in world.fetched if digest in set(chunk_digests(BUNDLE))]) == 1


@pytest.mark.parametrize("stage", Stage)
def test_a_rollback_after_a_halt_is_obeyed_though_the_release_is_listed_as_halted(world: World, stage: Stage) -> None:
    REACH[stage](world)

    world.direct(Action.ROLLBACK, BUNDLE, keep_on_halt=True, halted=(BUNDLE.manifest_digest,))
    let_it_finish(world)

    state, reason, booted, slot_b = OUTCOMES[stage, Action.ROLLBACK]
    assert world.outcome == (state, reason)
    assert (world.booted, world.slots.slots()[1].state.value) == (booted, slot_b)


def test_a_reverted_device_does_not_start_the_same_campaign_again(world: World) -> None:
    until_trial(world)
    world.direct(Action.HALT, BUNDLE)
    world.pass_time(5)

    world.direct(Action.OFFER, BUNDLE)
    world.pass_time(700)

    assert world.outcome == (State.ROLLED_BACK, Reason.HALTED)


def test_a_rollback_without_a_way_back_leaves_the_device_as_it_is(world: World) -> None:
    until_confirmed(world)
    world.offer(make_bundle(2, "1.2.0"), campaign=OTHER_CAMPAIGN)
    world.withhold(make_bundle(2, "1.2.0"))
    world.pass_time(5)  # slot a is being overwritten
    world.direct(Action.NONE)
    world.pass_time(5)
    second = make_bundle(2, "1.2.0")
    world.offer(second, campaign=OTHER_CAMPAIGN)
    world.pass_time(100)
    (world.directory / "slots/b/app.img").write_bytes(b"damaged")

    world.direct(Action.ROLLBACK, second, campaign=OTHER_CAMPAIGN)
    world.pass_time(100)

    assert world.outcome == (State.CONFIRMED, Reason.NO_WAY_BACK)
    assert (world.booted, world.slot_states()["a"]) == ("a", "confirmed")


def test_a_rolled_back_device_does_not_go_below_what_it_had_confirmed(world: World) -> None:
    until_confirmed(world)
    world.direct(Action.ROLLBACK, BUNDLE)
    world.pass_time(5)

    assert world.agent.state.highest_sequence == 1


@pytest.mark.parametrize("action", [Action.HOLD, Action.HALT, Action.ROLLBACK])
def test_an_expired_order_to_stop_is_obeyed(world: World, action: Action) -> None:
    until_written(world)

    world.direct(action, BUNDLE, issued=1, expires=2)
    let_it_finish(world)

    assert world.booted == "a"
    assert world.states[-1] is (State.REBOOTING if action is Action.HOLD else State.CANCELLED)


@pytest.mark.parametrize("action", [Action.HOLD, Action.HALT, Action.ROLLBACK])
def test_the_more_restrictive_of_two_orders_wins(world: World, action: Action) -> None:
    world.offer(BUNDLE, ramp=Ramp.flat(0))
    world.connect()
    world.direct(action, BUNDLE, audience=DeviceAudience(EU, DEVICE))

    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.reports == []


def test_a_directive_of_its_own_lets_a_device_start_before_its_cohort(world: World) -> None:
    world.offer(BUNDLE, ramp=Ramp.flat(0))
    world.connect()

    world.direct(Action.OFFER, BUNDLE, audience=DeviceAudience(EU, DEVICE), ramp=Ramp.flat(FULL))
    world.pass_time(61)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


@pytest.mark.parametrize("how", ["rejected", "downloading"])
def test_a_confirmed_release_is_rolled_back_whatever_came_after_it(world: World, how: str) -> None:
    until_confirmed(world)
    later = make_bundle(2, "1.2.0", signatures=1) if how == "rejected" else make_bundle(2, "1.2.0")
    world.hold_blobs(later)
    if how == "downloading":
        world.withhold(later, 9)  # and yet slot a is no longer the release before
    world.direct(Action.OFFER, later, campaign=OTHER_CAMPAIGN)
    world.pass_time(5)

    world.direct(Action.ROLLBACK, BUNDLE)
    world.pass_time(100)

    confirmed = (State.CONFIRMED, Reason.NO_WAY_BACK)
    assert world.outcome == ((State.ROLLED_BACK, Reason.ROLLED_BACK) if how == "rejected" else confirmed)
    assert world.booted == ("a" if how == "rejected" else "b")


def test_two_offers_that_both_fail_are_each_tried_once(tmp_path: Path) -> None:
    """A device's own offer and its cohort's, of different campaigns: it must not go to and fro between them."""
    world = World(tmp_path, boots=lambda version: version == "1.0.0")
    world.offer(BUNDLE)
    world.offer(make_bundle(2, "1.2.0"), campaign=OTHER_CAMPAIGN, audience=DeviceAudience(EU, DEVICE))
    world.connect()
    world.pass_time(5000)

    assert world.states.count(State.ROLLED_BACK) == 2
    assert world.reboots == 2


@pytest.mark.parametrize(
    ("stage", "state", "slot"),
    [
        (Stage.DOWNLOADING, State.CANCELLED, "installing"),
        (Stage.WRITTEN, State.CANCELLED, "unbootable"),
        (Stage.TRIAL, State.ROLLED_BACK, "unbootable"),
        (Stage.CONFIRMED, State.CONFIRMED, "confirmed"),
    ],
)
@pytest.mark.parametrize("action", [Action.NONE, Action.OFFER])
def test_a_device_that_slept_through_a_halt_learns_of_it_from_the_list(
    world: World, stage: Stage, state: State, slot: str, action: Action
) -> None:
    REACH[stage](world)
    world.power_cycle()
    newer = make_bundle(2, "1.2.0")

    if action is Action.NONE:
        world.direct(Action.NONE, halted=(BUNDLE.manifest_digest,))
    else:
        world.direct(action, newer, campaign=OTHER_CAMPAIGN, ramp=Ramp.flat(0), halted=(BUNDLE.manifest_digest,))
    world.connect()
    let_it_finish(world)

    assert (world.last.state, world.slot_states()["b"]) == (state, slot)
    if state is not State.CONFIRMED:
        assert world.last.reason is Reason.HALTED


def test_a_release_on_the_halted_list_is_not_started(world: World) -> None:
    world.connect()
    world.direct(Action.NONE, audience=DeviceAudience(EU, DEVICE), halted=(BUNDLE.manifest_digest,))

    world.offer(BUNDLE)
    world.pass_time(100)

    assert world.reports == []


def test_a_halt_that_keeps_trials_keeps_them_though_the_release_is_listed(world: World) -> None:
    until_trial(world)

    world.direct(Action.HALT, BUNDLE, keep_on_halt=True, halted=(BUNDLE.manifest_digest,))
    world.pass_time(60)

    assert world.outcome == (State.CONFIRMED, Reason.NONE)


def test_the_halted_list_outlives_a_restart(world: World) -> None:
    until_written(world)
    world.direct(Action.OFFER, BUNDLE)
    world.direct(Action.OFFER, BUNDLE, halted=(BUNDLE.manifest_digest,))
    world.power_cycle()

    let_it_finish(world)

    assert world.slot_states()["b"] == "unbootable"
