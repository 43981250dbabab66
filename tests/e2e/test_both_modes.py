"""One scenario with sockets and in virtual time: the same victims, and the same end for the same reason."""

import asyncio
import json
from pathlib import Path

import pytest

from device_sim.scenario.cast import draw_cast
from device_sim.scenario.model import Scenario
from device_sim.virtual.run import play
from device_sim.virtual.trace import Trace
from server.cli.lab import wire

HALT = {"block_s": 30, "reboot_s": 180, "g1_s": 360, "g2_s": 720, "bare_silent": 1000, "rail_excess": 1000}
GATE = {"failure_ratio": 1, "confirmed_ratio": 0}
BRICKS = Scenario.model_validate(
    {
        "name": "bricks",
        "story": "Nine devices in ten never come back.",
        "devices": 60,
        "duration": "60m",
        "speed": 60,
        "fleet": [{"share": "100%", "region": "eu", "hardware": "gw100-rev-b"}],
        "releases": [{"version": "1.1.0", "effects": [{"fault": "brick", "share": "90%"}]}],
        "campaigns": [
            {
                "release": "1.1.0",
                "plan": {"waves": [{"ratio": 0.3, "ramp_s": 60, "soak_s": 0, "gate": GATE}]},
                "policy": {"trial_s": 60, "halt": HALT},
            }
        ],
    }
)


@pytest.mark.slow
def test_both_modes_halt_the_same_bad_release_by_the_same_rule(tmp_path: Path) -> None:
    victims = {role.id for role in draw_cast(BRICKS, seed=1).roles if role.effect("1.1.0", "brick") is not None}
    lines: list[str] = []
    virtual = play(draw_cast(BRICKS, seed=1), Trace(lines.append))
    wired = asyncio.run(wire.run(BRICKS, seed=1, ledger=tmp_path / "ledger.jsonl"))
    facts = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]

    ends = [(end.state, end.stopped_by, end.rule) for (end,) in (virtual.campaigns, wired.campaigns)]
    assert ends == [("halted", "rule", "g1, fleet")] * 2
    lost = [
        {json.loads(line)["who"] for line in lines if '"event":"bricked"' in line},
        {fact["device"] for fact in facts if fact["event"] == "bricked"},
    ]
    assert all(0 < len(some) < len(victims) and some <= victims for some in lost)
