"""A recorded run once more: what its trace says of it is all that it takes, and the two traces are the same or not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from device_sim.scenario.cast import draw_cast
from device_sim.scenario.model import Scenario
from device_sim.virtual.run import EVENT, play
from device_sim.virtual.trace import Trace
from firmware_store.errors import InvalidInputError
from server.domain.yaml_text import validated

_LINE_MOST: Final = 1 << 20


class Again(NamedTuple):
    """``line``: the number of the first line that is another one, counted from 1; None: they are the same."""

    scenario: str
    lines: int
    digest: str
    line: int | None


def replay(path: Path) -> Again:
    """Play the run of a trace once more, and compare.

    Raises:
        InvalidInputError: the file is no trace of a virtual run.
    """
    try:
        with path.open(encoding="utf-8") as file:
            head = _head(file.readline(_LINE_MOST), path)
            scenario = validated(Scenario, head["scenario"], claim=f"{path.name} holds no scenario")
            compared = _Compared(line.encode() for line in file)
            cast = draw_cast(scenario, devices=int(head["devices"]), seed=int(head["seed"]))
            outcome = play(cast, Trace(compared.write))
            compared.end()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInputError(f"Cannot read {path}: {exc}.") from exc
    return Again(scenario.name, compared.lines, outcome.digest, compared.first_other)


class _Compared:
    """Compares lines as they come with those that there are."""

    def __init__(self, expected: Iterator[bytes]) -> None:
        self._expected = expected
        self.lines = 0
        self.first_other: int | None = None

    def write(self, line: str) -> None:
        self.lines += 1
        # The first line is the head, which this run was made of.
        if self.lines > 1 and self.first_other is None and next(self._expected, b"") != line.encode():
            self.first_other = self.lines

    def end(self) -> None:
        """There must be no more of them, either."""
        if self.first_other is None and next(self._expected, None) is not None:
            self.first_other = self.lines + 1


def _head(line: str, path: Path) -> dict[str, str | int]:
    try:
        head = json.loads(line)
    except ValueError:
        head = None
    if not isinstance(head, dict) or head.get("event") != EVENT or not {"scenario", "devices", "seed"} <= head.keys():
        raise InvalidInputError(f"{path} is no trace of a virtual run: its first line says nothing of one.")
    return head
