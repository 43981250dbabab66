"""The bench that runs a trace for real: its clock, and how it reads a campaign's end."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.halt_end_to_end_cases import CASES, LONGEST_S, make_plan, make_policy, make_trace, scaled
from bench.halt_end_to_end_stage import count, verdict_of
from server.domain.plan import Plan, Policy
from server.traces.fates import Fate, Fates


def test_the_faster_clock_has_all_times_and_nothing_else_divided() -> None:
    plan, policy = make_plan(make_trace("healthy", devices=100, seed=1)), make_policy()

    waves, settings = scaled(plan, policy, 60)

    fast, lab = Plan.model_validate(waves), Policy.model_validate(settings)
    assert [wave.ramp_s * 60 for wave in fast.waves] == [wave.ramp_s for wave in plan.waves]
    assert [wave.soak_s * 60 for wave in fast.waves] == [wave.soak_s for wave in plan.waves]
    assert [(wave.ratio, wave.count, wave.gate) for wave in fast.waves] == [
        (wave.ratio, wave.count, wave.gate) for wave in plan.waves
    ]
    assert (lab.trial_s * 60, lab.watch_s * 60, lab.halt.g1_s * 60) == (policy.trial_s, policy.watch_s, 900)
    assert (lab.halt.halt_at, lab.halt.beta) == (policy.halt.halt_at, policy.halt.beta)


@pytest.mark.parametrize("name", CASES)
def test_nobody_goes_away_for_hours_in_the_middle(name: str) -> None:
    away = make_trace(name, devices=300, seed=1).away

    assert all(away.end[away.start > 0] - away.start[away.start > 0] <= LONGEST_S)
    assert any(away.start == 0)


HALT = {"kind": "halt", "evidence": {"rule": {"channel": "g1", "scope": "fleet"}}}
OPEN: dict[str, Any] = {"kind": "open_wave", "evidence": {}}


@pytest.mark.parametrize(
    ("state", "causes", "decisions", "says"),
    [
        ("halted", [], [HALT, OPEN], ("halt", "g1", "fleet")),
        ("paused", ["evidence"], [HALT | {"kind": "pause"}, OPEN], ("hold", "g1", "fleet")),
        ("paused", ["gate"], [OPEN], ("hold", "gate", "fleet")),
        ("paused", ["weather"], [OPEN], ("unfinished", "", "")),
        ("watching", [], [OPEN], ("complete", "", "")),
        ("finished", [], [OPEN], ("complete", "", "")),
        ("running", [], [OPEN], ("unfinished", "", "")),
    ],
)
def test_a_campaigns_end_is_said_in_the_words_of_a_replay(
    state: str, causes: list[str], decisions: list[dict[str, Any]], says: tuple[str, str, str]
) -> None:
    assert verdict_of({"state": state, "causes": causes}, decisions) == says


def test_those_who_suffered_by_then_are_counted_once(tmp_path: Path) -> None:
    trace = make_trace("brick-30", devices=50, seed=1)
    fates = dict(zip(trace.devices.ids, Fates(trace).fate, strict=True))
    bricked = next(name for name, fate in fates.items() if fate == Fate.BRICK)
    spared = next(name for name, fate in fates.items() if fate == Fate.GOOD)
    facts = [(1, bricked, "started"), (2, bricked, "rebooting"), (2, bricked, "rebooting"), (3, bricked, "bricked")]
    facts += [(2, spared, "started"), (5, spared, "rebooting"), (9, spared, "started")]
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("".join(json.dumps({"t": t, "device": who, "event": what}) + "\n" for t, who, what in facts))

    assert count(ledger, trace, until=4) == {"started": 2, "rebooted": 1, "bricked": 1}
