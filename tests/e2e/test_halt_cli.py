"""``tidegate halt`` as a person runs it: a generated trace is replayed, and the exit code says whether it went well."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal import ROOT

MINUTES_S = 240


def tidegate(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", "halt", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MINUTES_S,
        check=False,
    )


def generated(folder: Path, scenario: str, devices: int, name: str = "trace.jsonl.gz") -> Path:
    path = folder / name
    done = tidegate("generate", "--scenario", scenario, "--devices", devices, "--seed", 3, path)
    assert (0, f"{path}\n") == (done.returncode, done.stdout), done.stderr
    return path


def test_a_bad_release_halts_and_the_picture_and_the_numbers_say_why(tmp_path: Path) -> None:
    trace = generated(tmp_path, "brick-30", 2000)

    done = tidegate("replay", trace, "--json", tmp_path / "out.json", "--plot", tmp_path / "out.png")

    out = json.loads((tmp_path / "out.json").read_text())
    assert done.returncode == 0, done.stderr
    assert out["verdict"] in {"halt", "hold"}
    assert 0 < out["bricked"] <= out["started"] < 500
    assert out["sentence"] in done.stdout
    assert out["misses"] == []
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert done.stderr == ""


def test_a_good_release_is_completed(tmp_path: Path) -> None:
    trace = generated(tmp_path, "small-100", 100, "trace.jsonl")

    done = tidegate("replay", trace, "--campaign", "cmp_" + 31 * "0" + "7")
    nothing = tidegate("replay", trace, "--campaign", "bun_7")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete" in done.stdout
    assert nothing.returncode == 1
    assert "Not an id" in nothing.stderr


def test_a_verdict_that_was_not_expected_is_exit_code_1(tmp_path: Path) -> None:
    trace = generated(tmp_path, "brick-30", 500)
    lines = gzip.decompress(trace.read_bytes()).decode().splitlines()
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text("\n".join(line.replace('"halt|hold"', '"complete"') for line in lines) + "\n")

    done = tidegate("replay", wrong)

    assert done.returncode == 1
    assert "expected complete" in done.stdout


def test_a_policy_and_a_plan_of_ones_own_are_obeyed(tmp_path: Path) -> None:
    trace = generated(tmp_path, "small-100", 100)
    (tmp_path / "plan.json").write_text(json.dumps({"waves": [{"count": 1, "ramp_s": 60, "soak_s": 60}]}))
    (tmp_path / "policy.json").write_text(json.dumps({"halt": {"g1_s": 600}}))

    done = tidegate(
        *("replay", trace, "--plan", tmp_path / "plan.json", "--policy", tmp_path / "policy.json"),
        *("--json", tmp_path / "out.json"),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["started"] == 1


@pytest.mark.parametrize(
    ("text", "says"), [('{"halt": {"beta": 0}}', "halt.beta"), ("{", "Invalid JSON"), ('{"x": 1}', "x: Extra")]
)
def test_a_wrong_policy_is_refused_with_the_place(text: str, says: str, tmp_path: Path) -> None:
    trace = generated(tmp_path, "small-30", 30)
    (tmp_path / "policy.json").write_text(text)

    done = tidegate("replay", trace, "--policy", tmp_path / "policy.json")

    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_malformed_trace_and_an_unknown_scenario_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")

    for done, says in (
        (tidegate("replay", tmp_path / "bad.jsonl"), "line 1"),
        (tidegate("replay", tmp_path / "none.jsonl"), "No such file"),
        (tidegate("generate", "--scenario", "perfect", tmp_path / "out.jsonl"), "healthy"),
        (tidegate("generate", "--scenario", "healthy", tmp_path / "none" / "out.jsonl"), "No such file"),
    ):
        assert done.returncode == 1
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_a_picture_without_matplotlib_says_what_to_install(tmp_path: Path) -> None:
    trace = generated(tmp_path, "small-30", 30)
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib/__init__.py").write_text("raise ImportError('not here')\n")

    done = tidegate("replay", trace, "--plot", tmp_path / "out.png", PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert "pip install tidegate[plot]" in done.stderr
