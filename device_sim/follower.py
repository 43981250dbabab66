"""A device that follows its script: its line is cut and mended at the trace's times, and its fate strikes in time."""

import asyncio
import random
from collections.abc import Callable

from device_sim.agent.device import Connect, DeviceConfig
from device_sim.agent.events import Note
from device_sim.delivering import Deliver, delivering
from device_sim.line import Line
from device_sim.script import Script
from server.mqtt.link import Incoming
from server.traces.fates import Fate


class Follower:
    """Follows one device's script over all its boots. Lives on the event loop; ``stop`` takes its timers back."""

    def __init__(self, script: Script, line: Line, *, rng: random.Random, on_death: Callable[[], None]) -> None:
        self._script = script
        self._line = line
        self._rng = rng
        self._on_death = on_death
        self._loop = asyncio.get_running_loop()
        self._begun_at: float | None = None
        self._fetched_from = float("-inf")
        self._is_struck = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def begin(self) -> None:
        """The trace begins now."""
        if self._begun_at is None:
            self._begun_at = self._loop.time()
            self._await_absence(0)

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def noted(self, note: Note) -> None:
        """Take in what the device has just done."""
        if note.event == "started":
            self._fetched_from = self._loop.time() + self._script.download_s
        elif note.event == "confirmed" and note.version == self._script.version and not self._is_struck:
            self._is_struck = True
            if self._script.fate is Fate.LATE:
                self._at("fate", self._script.after_s, self._on_death)
            elif self._script.fate is Fate.FLAP:
                self._flap()

    def slowed(self, connect: Connect) -> Connect:
        """Return a ``connect`` whose links deliver nothing of a release before its download has taken its time."""

        def slowed(config: DeviceConfig, deliver: Deliver) -> Deliver:
            blobs = f"{config.topic_root}/blob/"

            def deliver_in_time(message: Incoming) -> None:
                if message.topic.startswith(blobs) and self._loop.time() < self._fetched_from:
                    self._loop.call_at(self._fetched_from, deliver, message)
                else:
                    deliver(message)

            return deliver_in_time

        return delivering(connect, slowed)

    # --- the background ---

    def _await_absence(self, number: int) -> None:
        if number < len(self._script.away):
            self._when("background", self._script.away[number][0], lambda: self._leave(number))

    def _leave(self, number: int) -> None:
        self._line.cut()
        self._when("background", self._script.away[number][1], lambda: self._come_back(number))

    def _come_back(self, number: int) -> None:
        self._line.mend()
        self._await_absence(number + 1)

    # --- its fate ---

    def _flap(self) -> None:
        self._at("fate", self._rng.uniform(*self._script.every_s), self._drop)

    def _drop(self) -> None:
        self._line.cut()
        self._at("fate", self._rng.uniform(*self._script.off_s), self._recover)

    def _recover(self) -> None:
        self._line.mend()
        self._flap()

    # --- timers ---

    def _when(self, kind: str, trace_s: float, act: Callable[[], None]) -> None:
        assert self._begun_at is not None
        self._timers[kind] = self._loop.call_at(self._begun_at + trace_s, act)

    def _at(self, kind: str, later_s: float, act: Callable[[], None]) -> None:
        self._timers[kind] = self._loop.call_later(later_s, act)
