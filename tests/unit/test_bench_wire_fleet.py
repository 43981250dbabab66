"""The bench of a fleet with sockets: its scenario is one at every size, and its figures follow from what was seen."""

import pytest

from bench.wire_fleet import SPEED, Usage, figures, scenario
from device_sim.scenario.faster import faster_plan, faster_policy
from device_sim.scenario.faults import Mode
from device_sim.scenario.outcome import CampaignOutcome, Moment, Outcome


@pytest.mark.parametrize("devices", [100, 1000, 10_000])
def test_the_scenario_goes_on_long_enough_for_its_plan(devices: int) -> None:
    lab = scenario(devices)
    (order,) = lab.campaigns
    plan, policy = faster_plan(order.plan, SPEED), faster_policy(order.policy, SPEED)

    assert sum(wave.ramp_s for wave in plan.waves) * SPEED < lab.duration / 2
    assert policy.halt.g1_s > 2.5 * lab.heartbeat / SPEED  # else whoever is quiet looks silent


def test_figures_are_of_a_device_and_of_each_side() -> None:
    moments = [(0.0, 0, 0), (300.0, 1, 0), (1300.0, 10, 10), (1400.0, 10, 10)]
    outcome = Outcome(
        scenario="wire-fleet",
        story="",
        mode=Mode.WIRE,
        devices=10,
        seed=1,
        speed=SPEED,
        campaigns=(CampaignOutcome(release="1.1.0", state="finished", confirmed=10),),
        digest="",
        fleet_s=1400.0,
        real_s=150.0,
        course=tuple(Moment(at=at, online=10, updated=up, confirmed=done, bricked=0) for at, up, done in moments),
    )
    usage = Usage(own_bytes=[2**20, 3 * 2**20], server_bytes=[2**20], own_s=30.0, server_s=10.0, open_files_most=20)
    found = figures(outcome, usage)

    assert (found["up_s"], found["campaign_s"]) == (10.0, 100.0)
    assert (found["device_kib"], found["server_share"]) == (204.8, 0.25)
