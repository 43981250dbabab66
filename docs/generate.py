# noqa: INP001 - a script beside the documents, not a package
"""Write what follows from the code into the documents, between ``<!-- generated: name -->`` and ``<!-- end -->``.

``openapi.json`` and ``reference/*.schema.json`` follow from it as a whole.

.venv/bin/python docs/generate.py            write them
.venv/bin/python docs/generate.py --check    exit 1 if a document does not say what the code says
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import getdoc
from itertools import product
from pathlib import Path
from typing import Final, Literal, get_args, get_origin

from cyclopts import App
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from device_sim.gateway.config import AgentConfig
from device_sim.scenario.faults import (
    DEFECTS,
    Dated,
    Defect,
    Effect,
    Group,
    Kind,
    TimedFault,
    kinds_of,
)
from device_sim.scenario.model import Scenario
from server.api.application import document
from server.cli import app as command_line
from server.cli.campaign_file import CampaignFile
from server.cli.client import DEFAULT_URL, Token, Url
from server.config import Settings
from server.domain import campaign, execution, filter, plan  # noqa: A004 - the package of that name
from server.domain.events import SAID, EventType
from server.domain.halt.policy import HaltPolicy
from server.services.metrics import Metrics
from server.services.tokens import RIGHTS, Right

DOCS: Final = Path(__file__).parent

BOXES: Final[Mapping[str, tuple[execution.State, ...]]] = {
    "not started": (execution.State.WAITING, execution.State.DUE, execution.State.SKIPPED),
    "before the reboot": (execution.State.DOWNLOADING, execution.State.INSTALLING),
    "after the reboot": (execution.State.REBOOTING, execution.State.TRIAL),
    "over": (
        execution.State.CONFIRMED,
        execution.State.FAILED,
        execution.State.CANCELLED,
        execution.State.ROLLED_BACK,
    ),
}
"""States that are drawn in one box: an arrow from or to a box stands for one from or to each of them."""

MEANING: Final[Mapping[Right, str]] = {
    Right.READ: "look at everything",
    Right.OPERATE: "add, hold and revoke devices; create campaigns, start and stop them; freezes",
    Right.APPROVE: "approve campaigns",
    Right.RELEASE: "upload bundles; publish root and status; decline revocations",
    Right.ADMINISTER: "make and end tokens; verify and clear the store",
}
"""What each right is for, in words."""

_MARK: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def campaign_diagram() -> str:
    """Draw ``campaign.TRANSITIONS``, one arrow for each entry."""
    lines = ["stateDiagram-v2", f"    [*] --> {campaign.State.DRAFT}"]
    for state, events in campaign.TRANSITIONS.items():
        lines += [f"    {state} --> {following}: {event}" for event, following in events.items()]
    lines += [f"    {state} --> [*]" for state in campaign.State if state in campaign.TERMINAL]
    return _mermaid(lines)


def execution_diagram() -> str:
    """Draw ``execution.TRANSITIONS`` exactly, with as few arrows as the boxes allow."""
    boxed = {state for members in BOXES.values() for state in members}
    nodes = [*BOXES.values(), *((state,) for state in execution.State if state not in boxed)]
    lines = ["flowchart TD"]
    for name, members in BOXES.items():
        inner = [f"        {_node(state)}" for state in members]
        lines += [f'    subgraph {_box_id(name)}["{name}"]', *inner, "    end"]
    lines += [f"    {_node(state)}" for state in execution.State if state not in boxed]
    for sources, targets in product(nodes, nodes):
        lines += [f"    {source} --> {target}" for source, target in _arrows(sources, targets)]
    return _mermaid(lines)


def settings_table() -> str:
    """List every setting of the server."""
    rows = [_setting(name, field) for name, field in Settings.model_fields.items()]
    return _table(("variable", "what it may be", "default", "what it does"), rows)


def client_settings_table() -> str:
    """List what the commands that talk to a server read."""
    rows = [
        (
            f"`{parameter.env_var[0]}`",
            f"`{parameter.name[0] if parameter.name else '--token'}`",
            default,
            parameter.help,
        )
        for (_, parameter), default in ((get_args(Url), f"`{DEFAULT_URL}`"), (get_args(Token), "none"))
    ]
    return _table(("variable", "option", "default", "what it is"), rows)


def roles_table() -> str:
    """Say what each role may do."""
    rows = [
        (f"`{right}`: {MEANING[right]}", *("yes" if right in rights else "" for rights in RIGHTS.values()))
        for right in Right
    ]
    return _table(("may", *(f"`{role}`" for role in RIGHTS)), rows)


def model_table(model: type[BaseModel]) -> str:
    """List the members of something that a campaign is told."""
    rows = [(f"`{name}`", _default(field), field.description or "") for name, field in model.model_fields.items()]
    return _table(("member", "default", "what it is"), rows)


def agent_tables(model: type[BaseModel], path: str = "") -> str:
    """List the members of ``agent.toml``, a table of it at a time; a choice of tables one after the other."""
    rows: list[tuple[str, str, str]] = []
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        tables = _tables_in(field.annotation)
        inner += [(f"{path}.{name}" if path else name, table) for table in tables]
        rows.append((f"`{name}`", "a table of its own" if tables else _default(field), field.description or ""))
    text = _table(("member", "default", "what it is"), rows)
    for name, table in inner:
        text += f"\n## [{name}]\n{(getdoc(table) or '').partition(chr(10))[0]}\n\n{agent_tables(table, name)}"
    return text


def _tables_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for one in get_args(annotation) for table in _tables_in(one)]


def fields_table(fields: filter.Fields) -> str:
    """List the fields that filters may name."""
    rows = [
        (
            f"`{name}`",
            field.kind.name.lower(),
            field.meaning + (f": {', '.join(sorted(field.words))}" if field.words else ""),
        )
        for name, field in fields.items()
    ]
    return _table(("field", "kind", "what it is"), rows)


def commands_table() -> str:
    """List every command with the first line of what its help says."""
    return _table(("command", "what it does"), list(_commands(command_line, "tidegate")))


def _commands(app: App, path: str) -> Iterator[tuple[str, str]]:
    named = sorted(set(app) - {"--help", "-h", "--version"})
    for name in named:
        yield from _commands(app[name], f"{path} {name}")
    if not named:
        yield f"`{path}`", (getdoc(app.default_command) or "").partition("\n")[0].replace("``", "`")


def metrics_table() -> str:
    """List what ``/metrics`` shows."""
    families = sorted(Metrics().registry.collect(), key=lambda family: family.name)
    return _table(
        ("metric", "kind", "what it is"),
        [
            (f"`{family.name}{'_total' if family.type == 'counter' else ''}`", family.type, family.documentation)
            for family in families
        ],
    )


def fault_table(group: Group) -> str:
    """List the kinds of one group of the fault catalogue: where each may stand, what it does, its members."""
    kinds = [kind for kind in (*kinds_of(TimedFault), *kinds_of(Effect)) if kind.group is group]
    return _table(("fault", "stands under", "what it does", "its members"), [_fault(kind) for kind in kinds])


def _fault(kind: type[Kind]) -> tuple[str, str, str, str]:
    own = [name for name in kind.model_fields if name not in {"fault", "share", "region", "hardware"}]
    named = [(kind.model_fields[name].alias or name, kind.model_fields[name]) for name in own]
    members = "; ".join(f"`{name}`: {field.description}" for name, field in named)
    place = "`faults`" if issubclass(kind, Dated) else "`effects`"
    return f"`{kind.name()}`", place, (getdoc(kind) or "").partition("\n")[0], members


def defect_table() -> str:
    """List what may be wrong with a release as it is published."""
    return _table(("defect", "what it is"), [(f"`{defect}`", DEFECTS[defect]) for defect in Defect])


def event_table() -> str:
    """List every type of event."""
    return _table(("type", "what it tells"), [(f"`{kind}`", SAID[kind]) for kind in EventType])


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "campaign-states": campaign_diagram,
    "execution-states": execution_diagram,
    "settings": settings_table,
    "client-settings": client_settings_table,
    "roles": roles_table,
    "metrics": metrics_table,
    "commands": commands_table,
    "wave": lambda: model_table(plan.Wave),
    "gate": lambda: model_table(plan.Gate),
    "policy": lambda: model_table(plan.Policy),
    "events": event_table,
    "halt-policy": lambda: model_table(HaltPolicy),
    "agent-config": lambda: agent_tables(AgentConfig),
    "device-fields": lambda: fields_table(filter.DEVICES),
    "campaign-fields": lambda: fields_table(filter.CAMPAIGNS),
    "execution-fields": lambda: fields_table(filter.FLEET_EXECUTIONS),
    "bundle-fields": lambda: fields_table(filter.BUNDLES),
    "defects": defect_table,
    **{f"{group}-faults": partial(fault_table, group) for group in Group},
}


def schema(model: type[BaseModel]) -> str:
    """The JSON Schema of files that people write."""
    return json.dumps(model.model_json_schema(), indent=2) + "\n"


WHOLE: Final[Mapping[Path, Callable[[], str]]] = {
    DOCS / "openapi.json": lambda: document().decode(),
    DOCS / "reference/campaign.schema.json": lambda: schema(CampaignFile),
    DOCS / "reference/scenario.schema.json": lambda: schema(Scenario),
}


def rewrite(text: str) -> str:
    """Return a document with its generated parts as the code has them now."""
    return _MARK.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}{match[3]}", text)


def stale() -> dict[Path, str]:
    """Return the documents that are not as they should be, with what they should say."""
    documents = {path: path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
    parts = {path: new for path, old in documents.items() if (new := rewrite(old)) != old}
    files = {path: write() for path, write in WHOLE.items()}
    whole = {path: new for path, new in files.items() if not path.exists() or path.read_text(encoding="utf-8") != new}
    return parts | whole


def _arrows(sources: Sequence[execution.State], targets: Sequence[execution.State]) -> Iterator[tuple[str, str]]:
    """Cover the table's transitions from any of ``sources`` to any of ``targets``; repetitions are not arrows."""
    wanted = {(s, t) for s, t in product(sources, targets) if s != t and t in execution.TRANSITIONS[s]}
    if sources != targets and len(wanted) == len(sources) * len(targets):
        yield _name(sources), _name(targets)
        return
    for source in sources:
        if sources != targets and all((source, target) in wanted for target in targets):
            yield source, _name(targets)
        else:
            yield from ((source, target) for target in targets if (source, target) in wanted)


def _name(states: Sequence[execution.State]) -> str:
    if len(states) == 1:
        return states[0]
    return next(_box_id(name) for name, members in BOXES.items() if members == states)


def _box_id(name: str) -> str:
    return name.replace(" ", "-")


def _node(state: execution.State) -> str:
    again = " ↺" if state in execution.TRANSITIONS[state] else ""
    return f'{state}["{state}{again}"]'


def _mermaid(lines: Sequence[str]) -> str:
    return "\n".join(["```mermaid", *lines, "```", ""])


def _setting(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    return (f"`TIDEGATE_{name.upper()}`", _values(field), _default(field), field.description or "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    return "none" if field.default in (None, ()) else f"`{field.default}`"


def _values(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    kinds = [kind.__name__ for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    words = {
        "Path": "a path",
        "SecretStr": "a text (kept secret)",
        "str": "a text",
        "int": "a number",
        "bool": "`true`, `false`",
    }
    said = words[kinds[0]]
    if "Ge" in bounds and "Le" in bounds:
        said += f", {bounds['Ge'].ge} to {bounds['Le'].le}"
    return said


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the parts of the documents that follow from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something would change")
    changed = stale()
    if parser.parse_args().check:
        for path in changed:
            print(f"{path} is not what the code says: run docs/generate.py", file=sys.stderr)
        return 1 if changed else 0
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
