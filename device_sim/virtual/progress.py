"""How far each device is in one campaign, by its own reports: what the server's database would hold of it.

A report goes through the state machine of ``server.domain.execution`` as it does at the server: a repeated, late or
reordered one, and one that may not follow, changes nothing.
"""

from collections.abc import Collection, Iterable
from typing import Final

import numpy as np

from server.domain.execution import IN_FLIGHT, TERMINAL, State, may_follow
from server.domain.halt.view import Bools, Floats, Indices
from server.protocol.messages import Report
from server.protocol.reasons import EXPLICIT_FAILURES, Reason
from server.services.replay.executions import Step

_BEGUN: Final = IN_FLIGHT | TERMINAL
_FAILING: Final = frozenset({State.FAILED, State.REJECTED, State.ROLLED_BACK})
_UNHEARD: Final = frozenset({Reason.NO_BROKER, Reason.NO_WELCOME})
_STEPS: Final = {
    State.DOWNLOADING: Step.DOWNLOADING,
    State.INSTALLING: Step.DOWNLOADING,
    State.REBOOTING: Step.REBOOTED,
    State.TRIAL: Step.REBOOTED,
    State.CONFIRMED: Step.CONFIRMED,
    State.FAILED: Step.OVER,
    State.REJECTED: Step.OVER,
    State.CANCELLED: Step.OVER,
    State.ROLLED_BACK: Step.OVER,
}


class News:
    """What has happened since the moment before, by device."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.rebooted: list[int] = []
        self.over: list[int] = []
        self.failed: list[int] = []
        self.succeeded: list[int] = []
        self.changed: set[int] = set()


class Progress:
    """Of all devices, by their index. Times in Unix seconds."""

    def __init__(self, devices: int) -> None:
        self.state = [State.WAITING] * devices
        self.reason = [Reason.NONE] * devices
        self.rebooted_at: Floats = np.full(devices, np.inf)
        self.says_late: Bools = np.zeros(devices, np.bool_)
        self.has_failed: Bools = np.zeros(devices, np.bool_)
        self.unheard: Bools = np.zeros(devices, np.bool_)
        """Whose trial ended because it could not reach us: silent, whatever is heard of it afterwards."""
        self._attempt = [0] * devices
        self._sequence = [-1] * devices
        self._news = News()
        self._is_over: Bools = np.zeros(devices, np.bool_)
        self._has_begun: Bools = np.zeros(devices, np.bool_)

    def take(self, device: int, report: Report, now: float) -> bool:
        """Take a report in; False if it changes nothing."""
        state, attempt = self.state[device], self._attempt[device]
        if report.sequence <= self._sequence[device] or report.attempt < attempt:
            return False
        if not may_follow(state, report.state, same_attempt=report.attempt == max(attempt, 1)):
            return False
        self.state[device], self.reason[device] = report.state, report.reason
        self._attempt[device], self._sequence[device] = report.attempt, report.sequence
        self._note(device, report, now)
        return True

    def _note(self, device: int, report: Report, now: float) -> None:
        news, state = self._news, report.state
        news.changed.add(device)
        self.says_late[device] = state is State.DUE and report.reason is Reason.LATE
        if state in _BEGUN and not self._has_begun[device]:
            self._has_begun[device] = True
            news.started.append(device)
        if state is State.REBOOTING and self.rebooted_at[device] == np.inf:
            self.rebooted_at[device] = now
            news.rebooted.append(device)
        if state in TERMINAL and self.rebooted_at[device] == np.inf and not self._is_over[device]:
            self._is_over[device] = True
            news.over.append(device)
        failed = state in _FAILING and report.reason in EXPLICIT_FAILURES
        if failed and not self.has_failed[device]:
            news.failed.append(device)
        self.has_failed[device] = failed
        self.unheard[device] = report.reason in _UNHEARD
        if state is State.CONFIRMED:
            news.succeeded.append(device)

    def take_news(self) -> News:
        """Return what has happened since this was asked last."""
        news, self._news = self._news, News()
        return news

    def those(self, devices: Iterable[int], states: Collection[State]) -> list[int]:
        """Return those of the devices that are in one of these states."""
        return [device for device in devices if self.state[device] in states]

    def by_step(self, devices: Iterable[int]) -> dict[Step, Indices]:
        """Return these devices by how far they are; those that have not begun are left out."""
        found: dict[Step, list[int]] = {}
        for device in sorted(devices):
            step = _STEPS.get(self.state[device])
            if step is not None:
                found.setdefault(step, []).append(device)
        return {step: np.asarray(some, np.int64) for step, some in found.items()}
