"""The report of a run: for people, for programs, for a pipeline."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

from device_sim.scenario.expectations import Finding
from device_sim.scenario.faults import Mode
from device_sim.scenario.outcome import CampaignOutcome, Moment, Outcome
from device_sim.scenario.report import as_html, as_json, as_junit, as_text, write_report

OUTCOME = Outcome(
    scenario="bad-release",
    story="It goes <badly>.",
    mode=Mode.WIRE,
    devices=120,
    seed=3,
    speed=60.0,
    campaigns=(
        CampaignOutcome(
            release="1.1.0",
            state="halted",
            stopped_at=5400.0,
            stopped_by="rule",
            rule="g1, fleet",
            sentence="3 of 6 went dark & stayed so.",
            updated=9,
            updated_at_stop=8,
            bricked=3,
            reasons={"halted": 2},
        ),
    ),
    digest="ab12",
    fleet_s=7200.0,
    real_s=120.0,
    course=(
        Moment(at=0, online=120, updated=0, confirmed=0, bricked=0),
        Moment(at=60, online=117, updated=9, confirmed=2, bricked=3),
    ),
)
FINDINGS = [
    Finding("1.1.0: halted_before", True, "8 of 120"),
    Finding("1.1.0: max_bricked", False, "3 devices; 2 allowed"),
]


def test_the_text_says_how_it_ended_and_what_did_not_hold() -> None:
    text = as_text(OUTCOME, FINDINGS)

    assert "stopped by the rule (g1, fleet) after 1.50 h, when 8 had rebooted into it" in text
    assert "reasons: halted 2" in text
    assert "held: 1.1.0: halted_before: 8 of 120" in text
    assert "DID NOT HOLD: 1.1.0: max_bricked: 3 devices; 2 allowed" in text


def test_the_json_has_every_figure() -> None:
    document = json.loads(as_json(OUTCOME, FINDINGS))

    assert document["held"] is False
    assert document["campaigns"][0]["reasons"] == {"halted": 2}
    assert [moment["bricked"] for moment in document["course"]] == [0, 3]
    assert document["digest"] == "ab12"


def test_junit_has_a_case_for_each_expectation() -> None:
    suite = ET.fromstring(as_junit(OUTCOME, FINDINGS))

    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite.iter("testcase")] == [finding.name for finding in FINDINGS]
    assert [failure.get("message") for failure in suite.iter("failure")] == ["3 devices; 2 allowed"]


def test_the_page_stands_alone_with_its_plot_and_escapes_what_it_shows() -> None:
    page = as_html(OUTCOME, FINDINGS)

    assert "It goes &lt;badly&gt;." in page
    assert "<svg" in page
    assert "src=" not in page
    assert "went dark &amp; stayed so" in page


def test_a_folder_has_all_three(tmp_path: Path) -> None:
    write_report(tmp_path / "new", OUTCOME, FINDINGS)

    assert {path.name for path in (tmp_path / "new").iterdir()} == {"report.txt", "report.json", "report.html"}
