"""What a drill found: one row an attack, and whether it is as it must be (pure, but for the printing)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from rich.console import Console
from rich.table import Table

WIDTH: Final = 130
"""Columns where nobody looks at a terminal, as in a log."""


class Must(StrEnum):
    """What has to become of an attack."""

    FAIL = "fail"  # on every device
    SUCCEED = "succeed"  # what is no attack at all: the fleet still works
    BE_SHOWN = "shown"  # what such a thief can do; the table tells the truth about it


@dataclass(frozen=True, slots=True)
class Row:
    """One attack. ``stopped_by`` counts devices by the reason they gave; a device may have given several."""

    attack: str
    must: Must
    devices: int
    installed: int
    stopped_by: Mapping[str, int]
    expected: frozenset[str] = frozenset()
    """The reasons that name the right check; another one would mean that some other accident stopped it."""
    silent: int = 0
    """Devices that neither installed nor said why not."""
    note: str = ""

    @property
    def problem(self) -> str:
        """Say what is wrong; empty when all is as it must be."""
        if self.must is Must.FAIL:
            wrong = sorted(self.stopped_by.keys() - self.expected)
            if self.installed:
                return f"{self.attack}: {self.installed} of {self.devices} devices installed it"
            if self.silent:
                return f"{self.attack}: {self.silent} of {self.devices} devices did not say what stopped it"
            if wrong:
                return f"{self.attack}: stopped by {', '.join(wrong)}, which is not the check that was meant"
        if self.must is Must.SUCCEED and self.installed < self.devices:
            return f"{self.attack}: {self.devices - self.installed} of {self.devices} devices did not"
        return ""

    @property
    def outcome(self) -> str:
        if self.problem:
            return "NOT AS IT MUST BE"
        return {Must.FAIL: "refused", Must.SUCCEED: "installed", Must.BE_SHOWN: "shown"}[self.must]


@dataclass(frozen=True, slots=True)
class Figures:
    """A whole drill."""

    drill: str
    devices: int
    seconds: float
    rows: Sequence[Row]
    strange: Sequence[str] = field(default_factory=tuple)
    """Devices whose running images are not those of any release they may run."""

    @property
    def problems(self) -> list[str]:
        found = [row.problem for row in self.rows if row.problem]
        return found + ([f"images that nobody released on {', '.join(self.strange)}"] if self.strange else [])

    def show(self) -> None:
        """Print the table, and the problems on standard error."""
        table = Table(title=f"Drill {self.drill}: {self.devices} devices, {self.seconds:.0f} s")
        for name in ("attack", "devices", "installed", "stopped by", "outcome"):
            table.add_column(name, justify="right" if name in {"devices", "installed"} else "left")
        for row in self.rows:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(row.stopped_by).most_common())
            name = f"{row.attack}\n  [dim]{row.note}[/dim]" if row.note else row.attack
            table.add_row(name, str(row.devices), str(row.installed), reasons or "-", row.outcome)
        console = Console()
        if not console.is_terminal:
            console = Console(width=WIDTH)
        console.print(table)
        for problem in self.problems:
            Console(stderr=True).print(f"Problem: {problem}", highlight=False, soft_wrap=True)
        if not self.problems:
            console.print("No device runs a byte that the release keys did not sign.", highlight=False)

    def as_json(self) -> dict[str, Any]:
        return {
            "drill": self.drill,
            "devices": self.devices,
            "seconds": round(self.seconds, 1),
            "problems": self.problems,
            "rows": [
                {
                    "attack": row.attack,
                    "must": row.must.value,
                    "devices": row.devices,
                    "installed": row.installed,
                    "stopped_by": dict(row.stopped_by),
                    "silent": row.silent,
                    "outcome": row.outcome,
                    "note": row.note,
                }
                for row in self.rows
            ],
        }
