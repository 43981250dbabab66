"""Every test that the threat model names is there, and every attack has one."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py::test_\w+(?:\[[^\]`]+\])?)`", TEXT)))


@cache
def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


@cache
def functions_in(file: str) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in parsed(file).body if isinstance(node, functions)}


@cache
def constants_in(file: str) -> set[str]:
    return {
        node.value for node in ast.walk(parsed(file)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_threat_model_names_is_there(name: str) -> None:
    file, _, test = name.partition("::")
    function, _, case = test.partition("[")

    assert function in functions_in(file)
    assert not case or case.removesuffix("]") in constants_in(file)


def test_every_attack_has_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "::" not in line]
    attacks = TEXT[TEXT.index("## Attacks, what answers them") :]
    without = [row for row in rows if row in attacks and not row.startswith(("| attack |", "|---"))]

    assert without == []
    assert len(NAMED) > 100


def test_what_looks_like_a_test_is_read_as_one() -> None:
    assert len(re.findall(r"`tests/[^`]+`", TEXT)) == len(
        re.findall(r"`tests/[\w/]+\.py::test_\w+(?:\[[^\]`]+\])?`", TEXT)
    )


def test_every_file_of_attacks_is_named() -> None:
    """A new file of attacks belongs into the table."""
    files = {path.name for path in (ROOT / "tests" / "attacks").glob("test_*.py")}

    assert {name for name in files if f"tests/attacks/{name}::" not in TEXT} == set()
