"""What holds for every ramp, every state and every snapshot, not only for the ones we thought of."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_store.errors import IllegalTransitionError
from server.domain import campaign, execution
from server.domain.decide import Kind, decide
from server.domain.gate import DEAD_MAN_S, FULL, Ramp, height, is_due, level_for_count, level_for_ratio
from server.domain.halt import Call, Verdict
from server.domain.halt.pace import level_within
from server.domain.identity import CampaignId, DeviceId, Region
from server.domain.paced import Startable
from server.domain.plan import Gate, Plan, Policy, Wave
from server.domain.snapshot import RegionView, Snapshot

levels = st.integers(0, FULL)
heights = st.integers(0, FULL - 1)
moments = st.integers(1_600_000_000, 4_000_000_000)
campaigns = st.uuids().map(CampaignId)
devices = st.from_regex(r"[a-z0-9][a-z0-9_-]{2,63}", fullmatch=True).map(DeviceId)
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)
regions = names.map(Region)


@st.composite
def ramps(draw: st.DrawFn) -> Ramp:
    t0 = draw(moments)
    l0, l1 = sorted((draw(levels), draw(levels)))
    return Ramp(t0, l0, t0 + draw(st.integers(0, 30 * 86_400)), l1)


# --- levels ---


@given(ramps(), moments, st.floats(0, 10**7), heights)
def test_a_level_only_ever_adds_devices(ramp: Ramp, earlier: int, later_by: float, device: int) -> None:
    if is_due(device, ramp.level(earlier)):
        assert is_due(device, ramp.level(earlier + later_by))


@given(st.floats(0, 1), st.floats(0, 1), heights)
def test_a_higher_ratio_only_adds_devices(a: float, b: float, device: int) -> None:
    if is_due(device, level_for_ratio(min(a, b))):
        assert is_due(device, level_for_ratio(max(a, b)))


@given(st.lists(heights, max_size=50, unique=True), st.integers(1, 60))
def test_a_level_for_a_number_of_devices_is_the_lowest_that_makes_them_due(all_heights: list[int], count: int) -> None:
    level = level_for_count(all_heights, count)

    due = [device for device in all_heights if is_due(device, level)]
    assert len(due) == min(count, len(all_heights))
    if due:
        assert not is_due(max(due), level - 1)


@given(ramps(), heights)
def test_a_device_is_due_from_its_due_time_on_and_not_before(ramp: Ramp, device: int) -> None:
    """A microsecond is the resolution that a Unix time has as a float."""
    due_at = ramp.due_at(device)

    if due_at is None:
        assert not is_due(device, ramp.level(ramp.t1 + 1))
    else:
        assert ramp.t0 <= due_at <= ramp.t1
        assert is_due(device, ramp.level(due_at + 1e-6))
        if due_at - 1e-6 > ramp.t0:
            assert not is_due(device, ramp.level(due_at - 1e-6))


@given(ramps(), moments, moments)
def test_a_frozen_ramp_never_moves_again(ramp: Ramp, frozen_at: int, later: int) -> None:
    assert ramp.frozen(frozen_at).level(later) == ramp.level(frozen_at)


@given(ramps(), st.integers(-1000, 31 * 86_400), st.floats(-1000, 40 * 86_400))
def test_a_ramp_that_is_cut_off_is_the_same_line_and_then_flat(ramp: Ramp, cut_after: int, at: float) -> None:
    end = ramp.t0 + cut_after
    cut = ramp.until(end)
    now = ramp.t0 + at

    assert cut.t1 <= max(end, ramp.t0)
    assert cut.level(now) <= ramp.level(now)
    if now <= end:
        assert ramp.level(now) - cut.level(now) <= 1
    else:
        assert cut.level(now) == cut.l1


@given(ramps(), st.integers(0, 30 * 86_400))
def test_a_published_stretch_ends_with_the_dead_man(ramp: Ramp, issued_after: int) -> None:
    issued = ramp.t0 + issued_after

    stretch = ramp.until(issued + DEAD_MAN_S)

    assert stretch.level(issued + DEAD_MAN_S) == stretch.level(issued + 10**9)


@given(campaigns, devices)
def test_every_device_has_a_height_below_the_full_level(campaign_id: CampaignId, device: DeviceId) -> None:
    assert is_due(height(campaign_id, device), FULL)


# --- machines ---


@given(st.sampled_from(campaign.State), st.lists(st.sampled_from(campaign.Event), max_size=30))
def test_the_campaigns_machine_is_total_and_its_ends_are_ends(
    state: campaign.State, events: list[campaign.Event]
) -> None:
    for event in events:
        if event in campaign.allowed(state):
            assert state not in campaign.TERMINAL
            state = campaign.next_state(state, event)
        else:
            with pytest.raises(IllegalTransitionError):
                campaign.next_state(state, event)


@given(st.sampled_from(execution.State), st.lists(st.sampled_from(sorted(execution.REPORTED)), max_size=30))
def test_the_executions_machine_is_total_and_an_attempt_ends_once(
    state: execution.State, reported: list[execution.State]
) -> None:
    over = state in execution.TERMINAL
    for claim in reported:
        if not execution.may_follow(state, claim):
            continue
        confirmed = state is execution.State.CONFIRMED
        assert not over or (confirmed and claim in {execution.State.CONFIRMED, execution.State.ROLLED_BACK})
        state, over = claim, claim in execution.TERMINAL


@given(st.permutations(sorted(execution.REPORTED)))
def test_nothing_but_a_rollback_is_heard_after_confirmed(reported: list[execution.State]) -> None:
    state = execution.State.CONFIRMED
    for claim in reported:
        if execution.may_follow(state, claim):
            state = claim

    assert state in {execution.State.CONFIRMED, execution.State.ROLLED_BACK}


# --- the decision ---


@st.composite
def startables(draw: st.DrawFn) -> Startable:
    heights = sorted(draw(st.lists(st.integers(0, FULL - 1), max_size=30)))
    classes = draw(st.lists(st.integers(0, 2), min_size=len(heights), max_size=len(heights)))
    return Startable(np.array(heights, np.int64), np.array(classes, np.int64))


rooms = st.lists(st.integers(-5, 40), min_size=3, max_size=3).map(lambda values: np.array(values, np.int64))
verdicts = st.builds(
    Verdict,
    call=st.sampled_from(Call),
    is_blind=st.booleans(),
    is_storm_ours=st.booleans(),
    bad_since=st.none() | moments,
    pace=st.sampled_from([0.0, 0.1, 1.0]),
    room_in_regions=rooms,
    room_in_classes=rooms,
)


@st.composite
def planned_lines(draw: st.DrawFn, ramp: Ramp) -> Ramp:
    """Return a line of the plan that goes at least where the level's own goes."""
    begun, took = draw(st.integers(0, ramp.t0)), draw(st.integers(0, 100_000))
    return Ramp(begun, draw(st.integers(0, ramp.l0)), begun + took, draw(st.integers(ramp.l1, FULL)))


@st.composite
def views(draw: st.DrawFn, region: Region) -> RegionView:
    counts = {
        name: draw(st.integers(0, 400))
        for name in (
            "eligible",
            "eligible_online",
            "targeted",
            "targeted_online",
            "reached",
            "waiting",
            "in_flight",
            "confirmed",
            "failed",
        )
    }
    ramp = draw(ramps())
    planned = draw(planned_lines(ramp))
    excess = draw(st.floats(0, 400))
    return RegionView(region, ramp, planned=planned, excess=excess, startable=draw(startables()), **counts)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    present = draw(st.lists(regions, min_size=1, max_size=3, unique=True))
    waves = st.builds(
        lambda ratio, count, of, soak_s, manual: Wave(
            regions=tuple(of),
            ratio=ratio if count is None else None,
            count=count,
            soak_s=soak_s,
            gate=Gate(manual=manual),
        ),
        st.floats(0.001, 1),
        st.none() | st.integers(1, 300),
        st.lists(st.sampled_from(present), max_size=3, unique=True),
        st.integers(0, 100_000),
        st.booleans(),
    )
    plan = Plan(waves=tuple(draw(st.lists(waves, min_size=1, max_size=4))))
    return Snapshot(
        state=draw(st.sampled_from(campaign.State)),
        causes=draw(st.frozensets(st.sampled_from(campaign.Cause), max_size=3)),
        plan=plan,
        policy=Policy(),
        regions=[draw(views(region)) for region in present],
        started_at=draw(moments),
        wave=draw(st.none() | st.integers(0, len(plan.waves) - 1)),
        blobs_ready=draw(st.booleans()),
        verdict=draw(verdicts),
        starting_in_classes=draw(st.lists(st.integers(0, 10), min_size=3, max_size=3)),
        watching_since=draw(st.none() | moments),
        advanced=draw(st.none() | st.integers(0, 3)),
    )


@given(snapshots(), moments)
def test_only_a_running_campaign_rises(snapshot: Snapshot, now: int) -> None:
    decision = decide(snapshot, now)

    if decision.kind is Kind.OPEN_WAVE:
        assert snapshot.state is campaign.State.RUNNING
        assert decision.wave in {0 if snapshot.wave is None else snapshot.wave, (snapshot.wave or 0) + 1}
        assert decision.wave is not None
        assert decision.wave < len(snapshot.plan.waves)


@given(snapshots(), moments)
def test_no_wave_follows_a_manual_one_without_the_word_for_it(snapshot: Snapshot, now: int) -> None:
    decision = decide(snapshot, now)

    if snapshot.current is not None and snapshot.current.gate.manual and snapshot.advanced != snapshot.wave:
        assert decision.kind is not Kind.COMPLETE
        assert decision.kind is not Kind.OPEN_WAVE or decision.wave == snapshot.wave


EVENTS = {
    Kind.HALT: campaign.Event.HALT,
    Kind.PAUSE: campaign.Event.PAUSE,
    Kind.UNPAUSE: campaign.Event.RESUME,
    Kind.COMPLETE: campaign.Event.COMPLETE,
    Kind.FINISH: campaign.Event.FINISH,
}


@given(snapshots(), moments)
def test_whatever_is_decided_the_machine_allows(snapshot: Snapshot, now: int) -> None:
    decision = decide(snapshot, now)

    if decision.kind in EVENTS:
        campaign.next_state(snapshot.state, EVENTS[decision.kind])


@given(snapshots(), moments)
def test_no_level_falls_passes_its_target_or_rises_while_the_rule_says_stop(snapshot: Snapshot, now: int) -> None:
    decision = decide(snapshot, now)

    for view in snapshot.regions:
        line = decision.ramps.get(view.region)
        if line is None:
            continue
        assert view.ramp.level(now) <= line.l0 <= line.l1 <= max(view.target, view.ramp.level(now))
        is_still = snapshot.verdict.is_blind or snapshot.verdict.pace == 0
        assert not is_still or line.l0 == line.l1


@given(snapshots(), moments, st.integers(1, 100), st.integers(1, 10_000))
def test_a_level_lets_in_no_more_devices_a_second_than_their_bytes_allow(
    snapshot: Snapshot, now: int, bytes_per_s: int, device_bytes: int
) -> None:
    capped = replace(
        snapshot,
        state=campaign.State.RUNNING,
        causes=frozenset(),
        wave=0,
        blobs_ready=True,
        verdict=Verdict(),
        policy=Policy(region_bytes_per_s_most=bytes_per_s),
        device_bytes=device_bytes,
        regions=[replace(view, failed=0, excess=0.0) for view in snapshot.regions],
    )
    decision = decide(capped, max(now, *(view.ramp.t1 for view in snapshot.regions)))

    for view in snapshot.regions:
        line = decision.ramps.get(view.region)
        if line is not None:
            let_in = len(view.startable.within(line.l0, line.l1))
            assert let_in * device_bytes <= bytes_per_s * (line.t1 - line.t0)


@given(startables(), st.integers(-5, 40), rooms, st.integers(0, FULL), st.integers(0, FULL))
def test_a_level_lets_in_no_more_devices_than_there_is_room_for(
    startable: Startable, room: int, in_classes: Any, one: int, other: int
) -> None:
    level, most = sorted((one, other))

    above = startable.above(level)
    new = level_within(above.heights, above.classes, room=room, room_in_classes=in_classes, level=most)

    let_in = (startable.heights >= level) & (startable.heights < new)
    assert level <= new <= most
    assert let_in.sum() <= max(room, 0)
    assert (np.bincount(startable.classes[let_in], minlength=3) <= np.maximum(in_classes, 0)).all()
