"""What holds for the repository as a whole: everything in its place, nothing left lying around."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from server.cli import app

ROOT = Path(__file__).parents[2]
TOP = {
    *("server", "device_sim", "firmware_store", "migrations", "tests", "docs", "deploy", "bench", ".ci"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"),
    *("pyproject.toml", "Makefile", "Dockerfile", ".dockerignore", ".gitignore"),
}
LARGEST_BYTES = 512 * 1024

# Written in pieces, so that this file is not what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:" + "|".join(["ro" + "ot", r"home/\w+", "wo" + "rk", r"Users/\w+"]) + ")/")
LEFTOVERS = ["TO" + "DO", "FIX" + "ME", "XX" + "X:", "NotImplemented" + "Error", "<<<<" + "<<<", ">>>>" + ">>>"]


def tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git work tree")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def texts() -> dict[str, str]:
    """Return every tracked text by its path; what is no UTF-8 is no text."""
    found = {}
    for path in tracked():
        try:
            found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def test_everything_is_in_its_place() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in tracked()}

    assert top == TOP
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    named = {name: found[0] for name, text in texts().items() if (found := MACHINE_PATH.search(text))}

    assert named == {}


def test_nothing_is_left_unfinished() -> None:
    left = {name: word for name, text in texts().items() for word in LEFTOVERS if word in text}

    assert left == {}


def test_no_file_is_empty_but_a_package() -> None:
    empty = [path for path in tracked() if path.stat().st_size == 0 and path.name != "__init__.py"]

    assert empty == []


def test_no_file_is_large_or_made_by_a_tool() -> None:
    made = [path for path in tracked() if path.suffix in {".pyc", ".log", ".orig", ".rej", ".whl", ".tgb"}]
    large = [path for path in tracked() if path.stat().st_size > LARGEST_BYTES]

    assert made + large == []


def test_the_changelog_knows_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_names_every_command() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    named = set(re.findall(r"`tidegate (\w+)", text))

    assert set(app) - {"--help", "-h", "--version"} <= named


def test_the_licence_is_the_one_that_the_package_declares() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    text = (ROOT / "LICENSE").read_text()

    assert declared == "Apache-2.0"
    assert "Apache License\n" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_decisions_are_numbered_without_gaps_and_say_their_number() -> None:
    records = sorted((ROOT / "docs/adr").glob("*.md"))
    titles = [path.read_text().splitlines()[0] for path in records]

    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    assert [title.split(".")[0] for title in titles] == [f"# {number}" for number in range(1, len(records) + 1)]


@pytest.mark.skipif("TIDEGATE_REQUIRE_PEERS" not in os.environ, reason="peers are optional here")
@pytest.mark.parametrize("program", ["mosquitto", "mosquitto_passwd", "initdb"])
def test_the_peers_that_tests_want_are_here(program: str) -> None:
    folders = [*map(str, Path("/usr/lib/postgresql").glob("*/bin")), "/usr/sbin", os.environ["PATH"]]

    assert shutil.which(program, path=os.pathsep.join(folders)) is not None
