from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_store.errors import InvalidInputError
from server.domain.gate import height
from server.domain.identity import CampaignId, DeviceId
from server.services.replay.background import merge
from server.services.replay.scenarios import make_trace
from server.services.replay.world import Phase, World, population_of


def all_start(name, devices=400, seed=1, hours=6):
    """Start whoever is online in the first minute; yields each moment."""
    trace = make_trace(name, devices=devices, seed=seed)
    world, level = World(trace), np.zeros(8, np.int64)
    moments = [world.tick(trace.epoch + 60, level)]
    chosen = np.flatnonzero(moments[0].online)
    world.start(chosen)
    moments += [world.tick(trace.epoch + 60 * minute, level) for minute in range(2, hours * 60)]
    return trace, world, chosen, moments


def test_a_healthy_release_leaves_everybody_updated_but_for_attrition():
    _, world, chosen, _ = all_start("healthy", devices=2000, hours=12)

    phases = world.phase[chosen]
    assert np.isin(phases, [Phase.UPDATED, Phase.DEAD, Phase.DOWNLOADING, Phase.TRIAL]).all()
    assert np.count_nonzero(phases == Phase.DEAD) < 0.005 * len(chosen)
    assert world.count.suffering == 0
    assert world.count.started == len(chosen)


def test_news_name_each_device_once():
    _, world, chosen, moments = all_start("healthy")

    started = np.concatenate([moment.started for moment in moments])
    rebooted = np.concatenate([moment.rebooted for moment in moments])
    succeeded = np.concatenate([moment.succeeded for moment in moments])

    assert chosen.tolist() == started.tolist()
    assert len(set(rebooted.tolist())) == len(rebooted) == world.count.rebooted
    assert len(set(succeeded.tolist())) == len(succeeded) == world.count.confirmed


def test_a_bricked_device_was_last_heard_when_it_reported_its_reboot():
    _, world, _, moments = all_start("brick-30")

    for moment in moments:
        assert np.all(moment.rebooted_at <= moment.now)
        assert np.all(moment.last_seen[moment.rebooted] >= moment.rebooted_at)
    dead = np.flatnonzero(world.phase == Phase.DEAD)
    rebooted_at = {
        device: at
        for moment in moments
        for device, at in zip(moment.rebooted.tolist(), moment.rebooted_at.tolist(), strict=True)
    }
    assert 60 < len(dead) < 200
    assert [rebooted_at[device] for device in dead.tolist()] == [moments[-1].last_seen[device] for device in dead]


def test_only_the_selected_devices_are_bricked():
    trace, world, _, _ = all_start("hardware", devices=2000)
    victims = world.phase == Phase.DEAD

    broken = trace.devices.classes.index("hw4")

    assert np.count_nonzero(victims & (trace.devices.hardware == broken)) > 50
    assert np.count_nonzero(victims & (trace.devices.hardware != broken)) < 10


def test_flapping_devices_lose_sessions_again_and_again():
    _, world, _, moments = all_start("flapping")
    drops = np.bincount(np.concatenate([moment.dropped for moment in moments]), minlength=400)

    flapping = np.isin(world.phase, [Phase.UP, Phase.DOWN])

    assert np.median(drops[flapping]) > 20
    assert np.median(drops[~flapping]) <= 2


def test_late_failures_die_after_they_have_confirmed():
    _, world, chosen, moments = all_start("late", hours=12)
    confirmed = set(np.concatenate([moment.succeeded for moment in moments]).tolist())

    dead = np.flatnonzero(world.phase == Phase.DEAD)

    assert 0.05 * len(chosen) < len(dead) < 0.15 * len(chosen)
    assert sum(device in confirmed for device in dead.tolist()) >= len(dead) - 2


def test_the_same_seed_meets_the_same_fleet_whatever_the_release():
    good, bad = (make_trace(name, devices=300, seed=9) for name in ("healthy", "brick-5"))
    other = make_trace("healthy", devices=300, seed=8)

    assert np.array_equal(good.away.start, bad.away.start)
    assert np.array_equal(population_of(good).height, population_of(bad).height)
    assert not np.array_equal(population_of(good).height, population_of(other).height)


def test_we_are_blind_while_our_own_broker_fails_over():
    trace, _, _, moments = all_start("healthy", hours=30)
    spans = [(note.t, note.t + note.d) for note in trace.notes if note.what == "broker"]

    blind = [moment.now - trace.epoch for moment in moments if moment.is_blind]

    assert spans
    assert all(any(start - 60 <= at <= end + 60 for start, end in spans) for at in blind)
    assert len(spans) <= len(blind) <= 3 * len(spans)


@pytest.mark.parametrize(("name", "devices", "seed"), [("no-such", 10, 1), ("healthy", 0, 1), ("healthy", 10, -1)])
def test_what_cannot_be_generated_is_refused(name, devices, seed):
    with pytest.raises(InvalidInputError):
        make_trace(name, devices=devices, seed=seed)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 60), st.integers(1, 20)), min_size=1, max_size=30))
def test_merged_times_are_the_union_of_all(spans):
    length = 50
    devices, starts, lengths = (np.array(column) for column in zip(*spans, strict=True))
    wanted = {(device, second) for device, start, last in spans for second in range(start, start + last)}

    away = merge([(devices, starts.astype(float), (starts + lengths).astype(float))], length)

    covered = [
        (device, second)
        for device, start, end in zip(away.device.tolist(), away.start.tolist(), away.end.tolist(), strict=True)
        for second in range(int(start), int(end))
    ]
    assert sorted(covered) == sorted(one for one in wanted if 0 <= one[1] < length)
    same = away.device[1:] == away.device[:-1]
    assert np.all(away.start[1:][same] > away.end[:-1][same])


def test_who_is_away_as_the_trace_begins_has_never_been_heard():
    trace = make_trace("healthy", devices=400, seed=1)
    away = trace.away.device[trace.away.start == 0]

    moment = World(trace).tick(trace.epoch + 1, np.zeros(8, np.int64))

    assert len(away) > 20
    assert not moment.online[away].any()
    assert np.all(np.isneginf(moment.last_seen[away]))
    assert len(moment.dropped) < 5


def test_a_replay_in_a_campaigns_order_has_that_campaigns_heights():
    trace, campaign = make_trace("healthy", devices=50, seed=1), CampaignId(UUID(int=7))

    population = population_of(trace, campaign)

    assert population.height.tolist() == [height(campaign, DeviceId(name)) for name in trace.devices.ids]
    assert population.height.tolist() != population_of(trace).height.tolist()


def test_a_device_that_sleeps_stays_awake_while_it_updates_and_its_sleep_is_no_lost_session():
    trace = make_trace("sleepers", devices=400, seed=1)
    world, asleep = World(trace), trace.devices.wake_s > 0
    naps = np.bincount(trace.away.device[trace.away.end - trace.away.start <= 3600], minlength=400)
    level = np.zeros(len(trace.devices.regions), np.int64)
    away_for_long = set(trace.away.device[trace.away.end - trace.away.start > 3600].tolist())
    dropped, dark_on_their_way = np.zeros(400, np.int64), set()
    for minute in range(1, 241):
        moment = world.tick(trace.epoch + 60 * minute, level)
        np.add.at(dropped, moment.dropped, 1)
        if minute == 60:
            world.start(np.flatnonzero(asleep & moment.online))
        on_their_way = (world.phase == Phase.DOWNLOADING) | (world.phase == Phase.TRIAL)
        dark_on_their_way |= set(np.flatnonzero(~moment.online & on_their_way).tolist())

    assert dropped[asleep].mean() < 1 < naps[asleep].mean()
    assert dark_on_their_way <= away_for_long
    assert np.count_nonzero(world.phase == Phase.UPDATED) > 5
