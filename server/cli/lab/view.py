"""How a run goes, while it goes: bars in a terminal, else a line now and then. On standard error."""

import time
from collections.abc import Mapping
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from device_sim.scenario.outcome import Moment

LINE_S: Final = 5.0
_BARS: Final = ("online", "updated", "confirmed", "reverted", "bricked")


class LiveView:
    """``with``; ``show`` as often as there is something new."""

    def __init__(self, title: str, devices: int) -> None:
        self._console = Console(stderr=True)
        self._title = title
        self._devices = devices
        self._said = ""
        self._said_at = 0.0
        columns = (TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        for name in _BARS:
            self._tasks[name] = self._progress.add_task(name, total=self._devices, text="")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Say something between the bars."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def show(self, moment: Moment, states: Mapping[str, str]) -> None:
        """Show where the fleet is, and the state of each release's campaign."""
        campaigns = ", ".join(f"{release} {state}" for release, state in states.items())
        clock = f"{moment.at / 3600:.1f} h"
        for name, task in self._tasks.items():
            count: Any = getattr(moment, name)
            text = f"{count} of {self._devices}" + (f"   {clock}  {campaigns}" if name == _BARS[0] else "")
            self._progress.update(task, completed=count, text=text)
        if not self._console.is_terminal:
            self._line(f"{clock}: {campaigns or 'no campaign yet'}", moment)

    def _line(self, begins: str, moment: Moment) -> None:
        counts = ", ".join(f"{getattr(moment, name)} {name}" for name in _BARS)
        if begins != self._said and time.monotonic() - self._said_at >= LINE_S:
            self._said, self._said_at = begins, time.monotonic()
            self.say(f"{self._title} {begins}; {counts}")
