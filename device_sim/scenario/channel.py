"""What becomes of messages on one device's line: how late they come, how often, in what order, and how damaged (pure).

Whoever owns the device's world asks it for each message, and carries the answer out: with sockets and timers, or in
virtual time. Times are seconds of the fleet.
"""

from collections.abc import Iterator, Sequence
from math import inf
from random import Random
from typing import Final, NamedTuple

from device_sim.scenario.faults import (
    Bandwidth,
    Duplicate,
    Flipped,
    Late,
    Latency,
    Loss,
    Reordered,
    SlowStorage,
    TimedFault,
    Truncated,
)
from device_sim.scenario.model import Line

ON_THE_LINE: Final = (Latency, Loss, Bandwidth, Duplicate, Late, Reordered, Flipped, Truncated, SlowStorage)
"""The faults that a channel carries out."""

_APART_S: Final = 1e-6
"""Messages that keep their places arrive so long one after the other: timers of one instant have no order."""
_PASSED_BY_S: Final = 2.0
"""A message that changes places waits up to so long for others to pass it."""


class Delivery(NamedTuple):
    """A message that arrives, so long after it was sent."""

    delay_s: float
    payload: bytes


class Channel:
    """One device's line, both ways. What keeps its place arrives in the order in which it was sent."""

    def __init__(self, line: Line, faults: tuple[TimedFault, ...], rng: Random) -> None:
        self._line = line
        self._faults = tuple(fault for fault in faults if isinstance(fault, ON_THE_LINE))
        self._rng = rng
        self._free_at = -inf
        self._last_at = [-inf, -inf]  # when what was sent last arrives: from the device, to it

    @property
    def is_plain(self) -> bool:
        """Whether every message arrives at once, as it was sent, whatever the time."""
        return not self._faults and self._line == Line()

    def carry(
        self, payload: bytes, at: float, *, to_device: bool, is_piece: bool = False, stands_for: float | None = None
    ) -> list[Delivery]:
        """Return what arrives of a message sent ``at``; nothing, where it is lost.

        ``is_piece``: it is a piece of what the device fetches, which only signatures and digests protect.
        ``stands_for``: so many bytes, for the line; None: those that it has.
        """
        active = [fault for fault in self._faults if fault.at <= at < fault.until]
        losses = [self._line.loss, *(fault.loss for fault in active if isinstance(fault, Loss))]
        if any(loss and self._rng.random() < loss for loss in losses):
            return []
        size_bytes = len(payload) if stands_for is None else stands_for
        if is_piece:
            payload = self._damaged(payload, active)
        arrives_at = at + self._latency(active)
        if to_device:
            arrives_at = max(arrives_at, self._through_bottleneck(size_bytes, at, active, is_piece=is_piece))
        arrives_at, keeps_its_place = self._displaced(arrives_at, active, to_device=to_device)
        if keeps_its_place:
            arrives_at = self._last_at[to_device] = max(arrives_at, self._last_at[to_device] + _APART_S)
        return [Delivery(arrives_at - at, payload)] * (2 if self._is_doubled(active) else 1)

    def _damaged(self, payload: bytes, active: Sequence[TimedFault]) -> bytes:
        for fault in active:
            if isinstance(fault, Flipped) and payload and self._rng.random() < fault.ratio:
                damaged = bytearray(payload)
                damaged[self._rng.randrange(len(damaged))] ^= 1 << self._rng.randrange(8)
                payload = bytes(damaged)
            elif isinstance(fault, Truncated) and self._rng.random() < fault.ratio:
                payload = payload[: len(payload) // 2]
        return payload

    def _latency(self, active: Sequence[TimedFault]) -> float:
        latency, jitter = self._line.latency, self._line.jitter
        for fault in active:
            if isinstance(fault, Latency):
                latency, jitter = latency + fault.latency, jitter + fault.jitter
        return latency + (self._rng.uniform(0, jitter) if jitter else 0.0)

    def _through_bottleneck(
        self, size_bytes: float, at: float, active: Sequence[TimedFault], *, is_piece: bool
    ) -> float:
        rate = min(_rates(self._line, active, is_piece=is_piece), default=None)
        if rate is None:
            return at
        self._free_at = max(self._free_at, at) + size_bytes / rate
        return self._free_at

    def _displaced(self, arrives_at: float, active: Sequence[TimedFault], *, to_device: bool) -> tuple[float, bool]:
        """Return when the message arrives, and whether it keeps its place among the others."""
        keeps = True
        for fault in active:
            if to_device and isinstance(fault, Late) and self._rng.random() < fault.ratio:
                arrives_at, keeps = arrives_at + fault.delay, False
            elif to_device and isinstance(fault, Reordered) and self._rng.random() < fault.ratio:
                arrives_at, keeps = arrives_at + self._rng.uniform(0, _PASSED_BY_S), False
        return arrives_at, keeps

    def _is_doubled(self, active: Sequence[TimedFault]) -> bool:
        return any(isinstance(fault, Duplicate) and self._rng.random() < fault.ratio for fault in active)


def _rates(line: Line, active: Sequence[TimedFault], *, is_piece: bool) -> Iterator[float]:
    if line.bandwidth is not None:
        yield line.bandwidth
    if is_piece:  # the next piece is taken from the line when this one is written
        yield from (fault.bandwidth for fault in active if isinstance(fault, SlowStorage))
    yield from (fault.bandwidth for fault in active if isinstance(fault, Bandwidth))
