"""Runs the commands of a document as somebody would who follows it: block after block, in one folder."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[1]
COMMAND_S = 300
READY_S = 60
STOP_S = 30

STAYS = {"tidegate serve": "listening on", "tidegate sim fleet": "READY", "mosquitto -c": "running"}
"""Commands that stay until they are stopped, and what they say once they are ready."""


def read_blocks(document: Path) -> list[str]:
    """Return the document's fenced shell blocks."""
    return re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


class Terminal:
    """Variables that a block sets hold for the blocks after it; what stays running is stopped at the end.

    ``replace``: what a reader would put in the place of an example, such as another port.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], replace: Sequence[tuple[str, str]] = ()) -> None:
        self.folder = folder
        self.replace = list(replace)
        self._state = folder / ".variables"
        self._state.touch()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]),
            **environment,
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._running):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def run(self, block: str) -> str:
        """Run a block, to its end or until what stays running is ready; return what it said."""
        last = block.rstrip().splitlines()[-1]
        for command, word in STAYS.items():
            if last.startswith(command):
                return self._start(block, word)
        return self._finish(block)

    def _finish(self, block: str) -> str:
        done = subprocess.run(
            self._command(f"{block}\nexport -p > {self._state}"),
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_S,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{block}\n{said}"
        return said

    def _start(self, block: str, word: str) -> str:
        log = self.folder / f".log-{len(self._running)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command(block),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        deadline = time.monotonic() + READY_S
        while word not in (said := log.read_text(errors="replace")):
            assert process.poll() is None, f"{block}\n{said}"
            assert time.monotonic() < deadline, f"{block}\n{said}"
            time.sleep(0.05)
        return said

    def _command(self, block: str) -> list[str]:
        for example, actual in self.replace:
            block = block.replace(example, actual)
        return ["bash", "-c", f"set -aeuo pipefail\nsource {self._state}\n{block}"]
