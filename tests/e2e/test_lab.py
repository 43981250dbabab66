"""A scenario as the how-to plays it: its own server, a fast clock, power cuts, and a broker that restarts."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.terminal import ROOT, Terminal, read_blocks

HOWTO = ROOT / "docs/howto/test-a-release-in-the-lab.md"


@pytest.mark.slow
def test_a_scenario_is_played_judged_and_reported(tmp_path: Path) -> None:
    (scenario,) = re.findall(r"```yaml\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    (tmp_path / "rough-road.yaml").write_text(scenario)
    (tmp_path / ".venv").symlink_to(sys.prefix)

    with Terminal(tmp_path, {"TIDEGATE_URL": "http://127.0.0.1:1"}) as terminal:
        listed, played = (terminal.run(block) for block in read_blocks(HOWTO))

    report = json.loads((tmp_path / "report/report.json").read_text())
    facts = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    boots = [fact for fact in facts if fact["event"] == "booted"]
    assert "bad-release" in listed
    assert "held: 1.1.0: all_confirmed: 4 of 4" in played
    assert report["held"] is True
    assert [campaign["confirmed"] for campaign in report["campaigns"]] == [4, 0]
    assert len(boots) >= 4 + 4 + 1  # each device twice, and the one that lost its power once more
    assert sum(fact["event"] == "connected" for fact in facts) >= len(boots) + 4  # the broker has been away
    assert ET.parse(tmp_path / "junit.xml").getroot().get("failures") == "0"
