"""Processor seconds of processes, this one's and others', by the kernel's own clocks."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

_WHOLE_PROCESS: Final = 2  # CPUCLOCK_SCHED of a thread group: every thread, also those that have ended


def processor_s(pid: int) -> float:
    """Processor seconds that a process has used, to the nanosecond; /proc/PID/stat counts in hundredths.

    The clock is the one that clock_getcpuclockid(3) gives for ``pid``. Raises: OSError: no such process.
    """
    return time.clock_gettime(~pid << 3 | _WHOLE_PROCESS)


class Stopwatch:
    """Wall time, and the processor time of this process and of those that are watched, since ``start``."""

    def __init__(self, watched: Mapping[str, int]) -> None:
        self._watched = watched
        self._began: dict[str, float] = {}

    def start(self) -> None:
        self._began = self._read()

    def read(self) -> dict[str, float]:
        """Seconds since ``start``: ``wall``, ``own``, and one for each watched name."""
        return {name: now - self._began[name] for name, now in self._read().items()}

    def _read(self) -> dict[str, float]:
        others = {name: processor_s(pid) for name, pid in self._watched.items()}
        return {"wall": time.perf_counter(), "own": time.process_time(), **others}


def watched_from(options: Sequence[str]) -> dict[str, int]:
    """Read ``NAME=PID`` options."""
    return {name: int(pid) for name, _, pid in (option.partition("=") for option in options)}
