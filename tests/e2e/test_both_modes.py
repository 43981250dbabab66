"""One scenario with sockets and in virtual time: the same victims, and stopped by the same rule."""

import asyncio
import json
from pathlib import Path

import pytest

from device_sim.scenario.cast import draw_cast
from device_sim.scenario.faults import Brick
from device_sim.scenario.model import Scenario
from device_sim.scenario.outcome import CampaignOutcome
from device_sim.virtual.run import play
from device_sim.virtual.trace import Trace
from server.cli.lab import wire

HALT = {"block_s": 30, "reboot_s": 180, "g1_s": 360, "g2_s": 720, "bare_silent": 1000, "rail_excess": 1000}
GATE = {"failure_ratio": 1, "confirmed_ratio": 0}
BRICKS = Scenario.model_validate(
    {
        "name": "bricks",
        "story": "Eight devices in ten never come back.",
        "devices": 120,
        "duration": "40m",
        "speed": 60,
        "fleet": [{"share": "100%", "region": "eu", "hardware": "gw100-rev-b"}],
        "releases": [{"version": "1.1.0", "effects": [{"fault": "brick", "share": "80%"}]}],
        "campaigns": [
            {
                "release": "1.1.0",
                "plan": {"waves": [{"ratio": 0.3, "ramp_s": 60, "soak_s": 0, "gate": GATE}]},
                "policy": {"trial_s": 60, "halt": HALT},
            }
        ],
    }
)


def is_stopped_by_silence(end: CampaignOutcome) -> bool:
    """The rule has halted it for what went dark, or lets no more through for good.

    A server draws who is first by the campaign's id, and a handful of unlucky draws leaves too few of the updated for
    the odds of a halt: then the brake, or the lost ones' slots, let no more through.
    """
    has_halted = (end.state, end.stopped_by, end.rule) == ("halted", "rule", "g1, fleet")
    stands_still = ("the halt rule brakes", "as many devices as the evidence so far leaves room for")
    return has_halted or (end.state == "running" and any(one in end.sentence for one in stands_still))


@pytest.mark.slow
def test_both_modes_stop_the_same_bad_release_by_the_same_rule(tmp_path: Path) -> None:
    victims = {role.id for role in draw_cast(BRICKS, seed=1).roles if role.effect(Brick, "1.1.0") is not None}
    lines: list[str] = []
    virtual = play(draw_cast(BRICKS, seed=1), Trace(lines.append))
    wired = asyncio.run(wire.run(BRICKS, seed=1, ledger=tmp_path / "ledger.jsonl"))
    facts = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]

    for (end,) in (virtual.campaigns, wired.campaigns):
        assert is_stopped_by_silence(end), end
        assert end.updated < 0.3 * BRICKS.devices
    lost = [
        {json.loads(line)["who"] for line in lines if '"event":"bricked"' in line},
        {fact["device"] for fact in facts if fact["event"] == "bricked"},
    ]
    assert all(0 < len(some) < len(victims) and some <= victims for some in lost)
