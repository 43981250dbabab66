"""Each drill, with fewer devices: the whole of it on real parts, and what its table has to say."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from server.cli.drill.ledger import strange_devices
from server.cli.drill.table import Figures, Must, Row

ROOT = Path(__file__).parents[2]
LONGEST_S = 240  # a minute, where nothing else is running
DEVICES = 10


def drill(name: str, folder: Path) -> dict[str, Any]:
    """Run the command as a person would; return its figures."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE_")}
    found = subprocess.run(
        [sys.executable, "-m", "server", "drill", name, "--devices", str(DEVICES), "--json", str(folder / "rows.json")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    figures: dict[str, Any] = json.loads((folder / "rows.json").read_text())
    assert figures["problems"] == []
    return figures


def stopped_by(figures: dict[str, Any]) -> dict[str, set[str]]:
    """The reasons behind each attack that has to fail, which no device has installed."""
    failed = [row for row in figures["rows"] if row["must"] == Must.FAIL]
    assert [row["attack"] for row in failed if row["installed"]] == []
    return {row["attack"]: set(row["stopped_by"]) for row in failed}


def test_a_stolen_server_installs_nothing(tmp_path: Path) -> None:
    figures = drill("stolen-server", tmp_path)
    reasons = stopped_by(figures)

    assert reasons["a release that nobody signed"] == {"bad_signature"}
    assert reasons["a release signed twice by one release key"] == {"bad_signature"}
    assert reasons["an older release"] == {"older_sequence"}
    assert reasons["a release for other hardware"] == {"wrong_class"}
    assert reasons["a revoked release"] == {"revoked"}
    assert reasons["the envelope of one release, the chunks of another"] == {"chunk_mismatch"}
    assert reasons["the halted release, once its revocation was signed"] == {"revoked"}
    assert {row["attack"] for row in figures["rows"] if row["must"] == Must.BE_SHOWN} == {
        "the halted release, offered anew",
        "the same, and a false time for devices that have just been switched on",
    }


def test_a_stolen_release_key_installs_nothing(tmp_path: Path) -> None:
    figures = drill("stolen-release-key", tmp_path)

    assert stopped_by(figures)["a release signed twice by the stolen key"] == {"bad_signature"}
    assert [row["installed"] for row in figures["rows"] if row["must"] == Must.SUCCEED] == [DEVICES]


def test_devices_that_were_away_during_two_rotations_catch_up(tmp_path: Path) -> None:
    figures = drill("root-rotation", tmp_path)

    assert stopped_by(figures)["the same, once they have caught up"] == {"bad_signature"}
    assert [row["installed"] for row in figures["rows"] if row["must"] == Must.SUCCEED] == [DEVICES]


# --- the verdict itself: a drill that cannot fail shows nothing -------------------------------------------------------


def a_row(**changes: Any) -> Row:
    good = {
        "attack": "an attack",
        "must": Must.FAIL,
        "devices": 10,
        "installed": 0,
        "stopped_by": {"bad_signature": 10},
        "expected": frozenset({"bad_signature"}),
    }
    return Row(**{**good, **changes})


def test_an_attack_that_every_device_refused_for_the_right_reason_is_no_problem() -> None:
    assert Figures("a drill", 10, 1.0, [a_row()]).problems == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"installed": 1}, "1 of 10 devices installed it"),
        ({"silent": 2}, "2 of 10 devices did not say what stopped it"),
        ({"stopped_by": {"bad_signature": 9, "expired": 1}}, "stopped by expired, which is not the check"),
        ({"must": Must.SUCCEED, "installed": 9}, "1 of 10 devices did not"),
    ],
    ids=["installed", "silent", "another check", "not installed"],
)
def test_whatever_is_not_as_it_must_be_is_a_problem(changes: dict[str, Any], problem: str) -> None:
    figures = Figures("a drill", 10, 1.0, [a_row(**changes)])

    assert [problem in found for found in figures.problems] == [True]


def test_what_a_thief_can_do_is_shown_and_no_problem() -> None:
    assert Figures("a drill", 10, 1.0, [a_row(must=Must.BE_SHOWN, installed=5)]).problems == []


def test_an_image_that_nobody_released_is_a_problem() -> None:
    assert Figures("a drill", 10, 1.0, [a_row()], strange=["gw-0001"]).problems != []


def test_the_bytes_on_the_disk_count(tmp_path: Path) -> None:
    for device, content in (("good", b"released"), ("bad", b"forged"), ("empty", None)):
        slot = tmp_path / device / "slots" / "a"
        slot.mkdir(parents=True)
        if content is not None:
            (slot / "app.img").write_bytes(content)
    events = [{"device": name, "event": "booted", "slot": "a"} for name in ("good", "bad", "empty")]

    strange = strange_devices(tmp_path, events, allowed=lambda _: {sha256(b"released").digest()})

    assert strange == ["bad", "empty"]
