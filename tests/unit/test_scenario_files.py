"""Scenario files: how they are written, what is refused, and what every fault of the catalogue must have."""

import json
from pathlib import Path
from typing import Any

import pytest

from device_sim.scenario.faults import DEFECTS, Defect, Effect, Group, Mode, TimedFault, kinds_of
from device_sim.scenario.load import load, parse, shipped
from device_sim.scenario.model import Scenario
from firmware_store.errors import InvalidInputError

SMALL = """
name: small
story: A scenario that is as small as can be.
duration: 2h
fleet:
  - {share: 100%, region: no, hardware: gw100-rev-b}
releases:
  - {version: 1.1.0}
campaigns:
  - {release: 1.1.0}
"""


def small(more: str = "", **changes: str) -> Scenario:
    text = SMALL + more
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return parse(text.encode(), called="small")


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_scenario_says_what_it_expects_and_survives_its_own_dump(name: str) -> None:
    scenario = load(name)

    assert scenario.expect
    assert Scenario.model_validate(json.loads(scenario.model_dump_json())) == scenario


def test_quantities_are_read_in_their_units() -> None:
    scenario = small(
        "links: {lte: {latency: 300ms, loss: 0.5%, bandwidth: 256KiB/s}}\n"
        "faults: [{fault: regional-outage, at: 15m, for: 1.5h, share: 5%}]\n"
    )
    (fault,) = scenario.faults
    line = scenario.line("lte")

    assert (line.latency, line.loss, line.bandwidth) == (0.3, 0.005, 262_144)
    assert (fault.at, fault.until) == (900, 6300)
    assert scenario.fleet[0].region == "no"  # YAML 1.2


WRONG = {
    "a duration without a unit's sense": ({"duration: 2h": "duration: 2 hours"}, "duration: .* is not such as"),
    "shares that are not the whole": ({"share: 100%": "share: 90%"}, "90.0000%, not 100%"),
    "a link that is not there": ({"region: no,": "region: no, link: lte,"}, "no link 'lte'"),
    "a campaign to nothing": ({"- {release: 1.1.0}": "- {release: 1.2.0}"}, "no release '1.2.0'"),
    "a version that is none": ({"version: 1.1.0": "version: new"}, "not a version"),
    "a member that nobody knows": ({"story:": "colour: red\nstory:"}, "colour: Extra inputs"),
    "another name than the file's": ({"name: small": "name: large"}, "its name is large"),
    "a key that is there twice": ({"duration: 2h": "duration: 2h\nduration: 3h"}, "duplicate key"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_is_refused_that_has(what: str) -> None:
    changes, message = WRONG[what]

    with pytest.raises(InvalidInputError, match=message):
        small(**changes)


WRONG_FAULTS = {
    "{fault: regional-outage, region: mars}": "no device is in 'mars'",
    "{fault: regional-outage, hardware: other}": "no device is a 'other'",
    "{fault: regional-outage, at: 3h}": "begin after the end",
    "{fault: session-takeover}": "acts in wire only",
    "{fault: earthquake}": "does not match any of the expected tags",
    "{fault: broker-restart, share: 5%}": "share",
    "{fault: latency}": "latency.latency: Field required",
}


@pytest.mark.parametrize("fault", WRONG_FAULTS)
def test_a_fault_is_refused_that_cannot_be(fault: str) -> None:
    with pytest.raises(InvalidInputError, match=WRONG_FAULTS[fault]):
        small(f"faults: [{fault}]\n")


def test_a_fault_with_sockets_only_is_for_scenarios_with_sockets_only() -> None:
    scenario = small("modes: [wire]\nfaults: [{fault: session-takeover}]\n")

    assert scenario.modes == {Mode.WIRE}


def test_an_unknown_scenario_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"bad-release, .*good-release"):
        load("no-such-release")


@pytest.mark.parametrize("kind", [*kinds_of(TimedFault), *kinds_of(Effect)], ids=lambda kind: kind.__name__)
def test_every_kind_says_what_it_does_and_is_in_the_reference(kind: Any) -> None:
    reference = (Path(__file__).parents[2] / "docs/reference/faults.md").read_text()

    assert kind.__doc__.partition("\n")[0].endswith(".")
    assert f"| `{kind.name()}` |" in reference
    assert isinstance(kind.group, Group)


def test_every_defect_is_explained() -> None:
    assert set(DEFECTS) == set(Defect)
