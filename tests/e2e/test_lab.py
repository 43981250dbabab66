"""A scenario as a person runs it: ``tidegate sim run`` with its own server, real sockets and a fast clock."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.terminal import ROOT

MINUTES_S = 120

SCENARIO = """
name: rough-road
story: A good release for a few devices, of which some lose their power, and some their messages.
duration: 2h
fleet:
  - {share: 50%, region: eu, hardware: gw100-rev-b, link: weak}
  - {share: 50%, region: us, hardware: gw100-rev-c}
links: {weak: {latency: 2s, jitter: 2s, bandwidth: 64KiB/s}}
releases:
  - {version: 1.1.0, size: 32KiB}
  - {version: 1.2.0, defect: wrong-key}
campaigns:
  - release: 1.1.0
    plan: {waves: [{ratio: 1, ramp_s: 60, soak_s: 0, gate: {confirmed_ratio: 0, failure_ratio: 1}}]}
    policy: {trial_s: 30, watch_s: 0, halt: {g1_s: 150, g2_s: 300, slow_room: 100}}
  - {release: 1.2.0, at: 1m}
faults:
  - {fault: power-cut, during: downloading, share: 30%}
  - {fault: flipped, ratio: 20%, hardware: gw100-rev-c}
expect:
  - {release: 1.1.0, all_confirmed: true, false_halt: false, max_bricked: 0}
  - {release: 1.2.0, state: refused, none_updated: true}
"""


def test_a_scenario_is_played_judged_and_reported(tmp_path: Path) -> None:
    (tmp_path / "rough-road.yaml").write_text(SCENARIO)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}

    command = [sys.executable, "-m", "server", "sim", "run", str(tmp_path / "rough-road.yaml"), "--devices", "4"]
    command += ["--report", str(tmp_path / "report"), "--junit", str(tmp_path / "junit.xml")]
    done = subprocess.run(
        [*command, "--ledger", str(tmp_path / "ledger.jsonl")],
        cwd=ROOT,
        env=outside,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MINUTES_S,
        check=False,
    )

    report = json.loads((tmp_path / "report/report.json").read_text())
    facts = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    boots = [fact for fact in facts if fact["event"] == "booted"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["held"] is True
    assert [campaign["confirmed"] for campaign in report["campaigns"]] == [4, 0]
    assert len(boots) >= 4 + 4 + 1  # each device twice, and those that lost their power once more
    assert ET.parse(tmp_path / "junit.xml").getroot().get("failures") == "0"
    assert "rough-road: 4 devices are coming up" in done.stderr
