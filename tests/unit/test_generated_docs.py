"""What the documents say of the code is what the code is."""

import re
from itertools import product
from pathlib import Path

import pytest

from docs import generate
from server.config import Settings
from server.domain import campaign, execution

DOCS = Path(generate.__file__).parent
ROOT = DOCS.parent
ARCHITECTURE = (DOCS / "architecture.md").read_text()

ARROW = re.compile(r"^    ([a-z_-]+) --> ([a-z_-]+)(?:: (\w+))?$", re.MULTILINE)


def diagram(first_line: str) -> str:
    (found,) = re.findall(rf"```mermaid\n({re.escape(first_line)}\n.*?)```", ARCHITECTURE, re.DOTALL)
    return str(found)


def test_no_document_is_behind_the_code() -> None:
    assert generate.stale() == {}


def test_the_campaign_diagram_is_the_table() -> None:
    drawn = {(source, event, target) for source, target, event in ARROW.findall(diagram("stateDiagram-v2"))}

    assert drawn == {
        (state, event, following)
        for state, events in campaign.TRANSITIONS.items()
        for event, following in events.items()
    }


def test_the_execution_diagram_is_the_table() -> None:
    text = diagram("flowchart TD")
    boxes = {
        box: set(re.findall(r"^        (\w+)\[", inside, re.MULTILINE))
        for box, inside in re.findall(r"^    subgraph ([a-z-]+)\[.*?\]\n(.*?)^    end$", text, re.MULTILINE | re.DOTALL)
    }
    drawn = {(state, state) for state in re.findall(r'\["(\w+) ↺"\]', text)}
    for source, target, _ in ARROW.findall(text):
        drawn |= set(product(boxes.get(source, {source}), boxes.get(target, {target})))

    assert drawn == {(state, target) for state, targets in execution.TRANSITIONS.items() for target in targets}


def test_every_setting_is_listed_with_its_default() -> None:
    rows = re.findall(
        r"^\| `TIDEGATE_(\w+)` \| (.+) \| (.+) \| (.*) \|$", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    listed = {name.lower(): default.strip("`") for name, _, default, _ in rows}

    for name, field in Settings.model_fields.items():
        assert listed[name] == ("none" if field.default is None else str(field.default))


@pytest.mark.parametrize("document", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_what_a_document_names_exists(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    files = re.findall(r"`((?:server|device_sim|firmware_store|migrations|tests|docs|bench|deploy)/[^`*{}<> ]*)`", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [file for file in files if not (ROOT / file.partition("::")[0]).exists()]  # a test is path::name

    assert missing == []
