"""What a run came to, against what its scenario expects."""

from typing import Any

import pytest

from device_sim.scenario.expectations import judge
from device_sim.scenario.faults import Mode
from device_sim.scenario.model import Scenario
from device_sim.scenario.outcome import CampaignOutcome, Outcome

HALTED = {"state": "halted", "stopped_by": "rule", "sentence": "It went dark.", "updated": 9, "updated_at_stop": 8}


def judged(expect: dict[str, Any], **found: Any) -> list[bool]:
    scenario = Scenario.model_validate(
        {
            "name": "small",
            "story": "A scenario for these tests.",
            "duration": "1h",
            "fleet": [{"share": "100%", "region": "eu", "hardware": "rev-b"}],
            "releases": [{"version": "1.1.0"}],
            "campaigns": [{"release": "1.1.0"}],
            "expect": expect,
        }
    )
    campaign = CampaignOutcome(release="1.1.0", **{"state": "finished", **found})
    outcome = Outcome(
        scenario="small",
        story=scenario.story,
        mode=Mode.VIRTUAL,
        devices=100,
        seed=1,
        speed=None,
        campaigns=(campaign,),
        digest="",
        fleet_s=3600,
        real_s=1,
    )
    return [finding.held for finding in judge(scenario, outcome)]


CASES: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"halted_before": "10%"}, HALTED, True),
    ({"halted_before": "8%"}, HALTED, False),
    ({"halted_before": "10%"}, {"updated_at_stop": 1}, False),
    ({"halted_before": "10%"}, {**HALTED, "stopped_by": "person"}, False),
    ({"max_bricked": 3}, {"bricked": 3}, True),
    ({"max_bricked": 3}, {"bricked": 4}, False),
    ({"max_bricked": "3%"}, {"bricked": 3}, True),
    ({"max_bricked": "3%"}, {"bricked": 4}, False),
    ({"false_halt": False}, {}, True),
    ({"false_halt": False}, HALTED, False),
    ({"false_halt": False}, {**HALTED, "stopped_by": "trust"}, True),
    ({"all_confirmed": True}, {"reachable": 90, "reachable_unconfirmed": 0}, True),
    ({"all_confirmed": True}, {"reachable": 90, "reachable_unconfirmed": 1}, False),
    ({"all_confirmed": True}, {"reachable": 0}, False),
    ({"all_confirmed": True}, {"state": "refused", "reachable": 90}, False),
    ({"false_halt": False}, {"state": "refused"}, False),
    ({"none_updated": True}, {}, True),
    ({"none_updated": True}, {"updated": 1}, False),
    ({"state": "finished"}, {}, True),
    ({"state": ["halted", "paused"]}, {}, False),
    ({"state": "refused"}, {"state": "refused"}, True),
    ({"reasons": ["expired"]}, {"reasons": {"expired": 2, "late": 1}}, True),
    ({"reasons": ["expired"]}, {}, False),
    ({"reasons": ["expired"], "no_other_reasons": True}, {"reasons": {"expired": 2, "late": 1}}, False),
    ({"no_other_reasons": True}, {}, True),
]


@pytest.mark.parametrize(("expect", "found", "held"), CASES)
def test_an_expectation_holds_or_does_not(expect: dict[str, Any], found: dict[str, Any], held: bool) -> None:
    assert judged(expect, **found) == [held]


def test_what_is_not_expected_is_not_judged() -> None:
    assert judged({}, **HALTED) == []
