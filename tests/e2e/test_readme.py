"""Every command in README.md is run, as it stands and in its order; the long ones are those that CI runs."""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.terminal import ROOT, Terminal, read_blocks

BLOCKS = read_blocks(ROOT / "README.md")
LONG = [block.strip() for block in BLOCKS if block.startswith("make ")]
FIRST_TOKEN = re.compile(r"first admin token \(shown once\): (\S+)")


@pytest.fixture
def clone() -> Iterator[Path]:
    """What the commands use of a clone that ``make`` has set up."""
    with tempfile.TemporaryDirectory(prefix="tidegate-readme-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / ".venv").symlink_to(sys.prefix)
        shutil.copy(ROOT / "LICENSE", folder)
        yield folder


@pytest.mark.slow
def test_the_first_steps_lead_to_a_finished_campaign(clone: Path) -> None:
    port = free_port()
    environment = {"TIDEGATE_PORT": str(port), "TIDEGATE_URL": f"http://127.0.0.1:{port}"}
    said = ""
    with Terminal(clone, environment, [("8080", str(port))]) as terminal:
        for block in BLOCKS:
            if block.strip() in LONG:
                continue
            said += terminal.run(block)
            terminal.replace += [("tg_...", token) for token in FIRST_TOKEN.findall(said)]

    assert "signed by 2 release keys" in said
    assert "Finished: 40 of 40 eligible devices confirmed the release." in said
    assert '"username": "pump-0017"' in said


def test_the_long_commands_are_the_ones_that_ci_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    loop = re.search(
        r"^for target in (.+); do\n(?:.*\n)*?    make \"\$target\"\ndone$", (ROOT / ".ci/run").read_text(), re.MULTILINE
    )
    assert loop is not None
    run_by_ci = {f"make {target}" for target in loop[1].split()}

    assert {"make demo", "make test"} == set(LONG) <= run_by_ci
    assert all(re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE) for command in LONG)


def test_it_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200
