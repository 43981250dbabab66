"""Virtual devices: what a fleet does under a release, one tick at a time, for all devices at once.

A started device downloads, waits until it is online, reports its reboot (t0), and reboots. Then it is back and confirms
after its trial, or it has been bricked, is slow, flaps, or dies later; some are lost at any reboot (attrition). Its
background goes on whatever it does, but for sleep: a device that declares that it sleeps stays awake while it updates.
All draws that do not depend on the order of things are made at the beginning from the trace's seed, so that every rule
meets the same fleet with the same victims.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np
import numpy.typing as npt

from server.domain.gate import height
from server.domain.halt.view import Bools, Floats, Indices, Moment, Population
from server.domain.identity import CampaignId, DeviceId
from server.traces.fates import Fate, Fates
from server.traces.format import Trace

TRIAL_S: Final = 300.0
NEVER: Final = np.inf
_EMPTY: Final = np.empty(0, np.int64)


class Phase:
    """Where a device is on its way. Plain numbers: arrays compare with them fast."""

    IDLE: Final = 0
    DOWNLOADING: Final = 1
    REBOOTING: Final = 2
    TRIAL: Final = 3
    UPDATED: Final = 4
    UP: Final = 5
    """Updated, and about to lose its connection again."""
    DOWN: Final = 6
    DYING: Final = 7
    DEAD: Final = 8


@dataclass(frozen=True, slots=True)
class Count:
    """How many devices have started, have rebooted, have confirmed, and suffer from the release (not from attrition).

    Those that are bricked, dead or flapping suffer; the slow ones come back by themselves.
    """

    started: int
    rebooted: int
    confirmed: int
    suffering: int


def campaign_of(trace: Trace) -> CampaignId:
    """The campaign that a replay of the trace is: from its seed, and so are the heights of its devices."""
    return CampaignId(UUID(bytes=np.random.default_rng([trace.head.seed, 0]).bytes(16)))


def population_of(trace: Trace, campaign: CampaignId | None = None) -> Population:
    """What the halt rule knows of the trace's devices; ``campaign``: whose heights they have, if not its own."""
    campaign, devices = campaign or campaign_of(trace), trace.devices
    return Population(
        regions=devices.regions,
        classes=devices.classes,
        region=devices.region,
        hardware=devices.hardware,
        height=np.array([height(campaign, DeviceId(name)) for name in devices.ids], np.uint32),
        unsteady=devices.unsteady,
        away_by_habit=devices.away_by_habit,
        site=devices.site.astype(np.int64),
        wake_s=devices.wake_s if devices.wake_s.any() else None,
    )


class World:
    """The fleet of a trace under its release. ``tick`` moves it on; ``start`` begins updates."""

    def __init__(self, trace: Trace) -> None:
        self.now = trace.epoch
        self._epoch = trace.epoch
        self._lost_after_s = trace.head.mqtt.lost_after_s
        self._fates = Fates(trace)
        self._rng = np.random.default_rng([trace.head.seed, 2])
        self._read_background(trace)
        count = len(trace.devices)
        self.phase = np.zeros(count, np.int8)
        self._away = np.zeros(count, np.bool_)  # by its background
        self._asleep = np.zeros(count, np.bool_)  # and that is sleep
        self._away[self._whose[: self._position]] = True  # from the beginning: never heard of
        self._down = np.zeros(count, np.bool_)  # by its update
        self._next = np.full(count, NEVER)
        self._suffers = np.zeros(count, np.bool_)
        self.last_seen: Floats = np.full(count, -np.inf)
        self.present = np.ones(count, np.bool_)
        self.online = np.zeros(count, np.bool_)
        self.count = Count(0, 0, 0, 0)
        self._started: list[Indices] = []
        self._rebooted: list[tuple[Indices, Floats]] = []
        self._succeeded: list[Indices] = []
        self._dropped: list[Indices] = []

    def _read_background(self, trace: Trace) -> None:
        away = trace.away
        times = np.concatenate([away.start, away.end]) + self._epoch
        order = np.argsort(times, kind="stable")
        self._times = times[order]
        self._whose = np.concatenate([away.device, away.device])[order]
        self._leaves = np.repeat([True, False], len(away.start))[order]
        is_sleep = away.end - away.start <= trace.devices.wake_s[away.device]
        self._sleeps = np.concatenate([is_sleep, np.zeros_like(is_sleep)])[order]
        self._position = int(np.searchsorted(self._times, self._epoch, side="right"))
        spans = [(note.t + self._epoch, note.t + note.d + self._epoch) for note in trace.notes if note.what == "broker"]
        self._blind = np.array(spans, np.float64).reshape(-1, 2)

    @property
    def idle(self) -> Bools:
        """Devices that have not started."""
        return np.equal(self.phase, Phase.IDLE)

    def start(self, devices: Indices) -> None:
        """These devices begin to download now; they must be idle."""
        assert not self.phase[devices].any()
        self.phase[devices] = Phase.DOWNLOADING
        self._next[devices] = self.now + self._fates.download_s[devices]
        self._started.append(devices)

    def tick(self, now: float, level: Indices) -> Moment:
        """Move the fleet on to ``now`` (Unix seconds), and return what the server then knows of it."""
        before, self.now = self.now, now
        self._background(now)
        self._own(before, now)
        reachable = ~(self._is_away() | self._down)
        np.copyto(self.last_seen, now, where=reachable)
        self.online = reachable | (now - self.last_seen < self._lost_after_s)
        rebooted = _joined([devices for devices, _ in self._rebooted])
        moment = Moment(
            now=now,
            last_seen=self.last_seen.copy(),
            online=self.online,
            present=self.present,
            level=level,
            started=_joined(self._started),
            rebooted=rebooted,
            rebooted_at=np.concatenate([at for _, at in self._rebooted]) if self._rebooted else np.empty(0),
            over=_EMPTY,
            failed=_EMPTY,
            succeeded=_joined(self._succeeded),
            dropped=_joined(self._dropped),
            is_blind=bool(np.any((self._blind[:, 0] <= now) & (self._blind[:, 1] > before))),
        )
        self.count = Count(
            self.count.started + len(moment.started),
            self.count.rebooted + len(rebooted),
            self.count.confirmed + len(moment.succeeded),
            int(np.count_nonzero(self._suffers)),
        )
        for news in (self._started, self._succeeded, self._dropped):
            news.clear()
        self._rebooted.clear()
        return moment

    def _background(self, now: float) -> None:
        end = self._position + int(np.searchsorted(self._times[self._position :], now, side="right"))
        piece = slice(self._position, end)
        self._position = end
        devices, leaves, sleeps = self._whose[piece], self._leaves[piece], self._sleeps[piece]
        if not len(devices):
            return
        self._away[devices] = leaves  # of several the last one counts: they are in the order of time
        self._asleep[devices] = sleeps
        connected = leaves & ~self._down[devices]
        self.last_seen[devices[connected]] = self._times[piece][connected]
        self._dropped.append(devices[connected & ~sleeps])

    def _is_away(self) -> Bools:
        """Return who is away by its background (mask); sleep waits for what is under way."""
        awake = self._asleep & (self.phase >= Phase.DOWNLOADING) & (self.phase <= Phase.TRIAL)
        out: Bools = self._away & ~awake
        return out

    def _own(self, before: float, now: float) -> None:
        """Take every step of every device that is due; a device may take several in one tick."""
        while True:
            due = np.flatnonzero(self._next <= now)
            phase = self.phase[due]
            # These two say something, and wait until they can.
            waits = self._is_away()[due] & ((phase == Phase.DOWNLOADING) | (phase == Phase.TRIAL))
            due, phase = due[~waits], phase[~waits]
            if not len(due):
                return
            at = np.maximum(self._next[due], before)
            many = np.bincount(phase, minlength=Phase.DEAD + 1).tolist()
            for each, step in self._STEPS.items():
                if many[each]:
                    chosen = phase == each
                    step(self, due[chosen], at[chosen])

    def _reboot(self, devices: Indices, at: Floats) -> None:
        self._rebooted.append((devices, at))
        self.last_seen[devices] = at
        self._down[devices] = True
        bricked = self._fates.fate[devices] == Fate.BRICK
        lost = bricked | self._fates.lost[devices]
        self._suffers[devices[bricked]] = True
        self.phase[devices] = np.where(lost, Phase.DEAD, Phase.REBOOTING)
        self._next[devices] = np.where(lost, NEVER, at + self._fates.reboot_s[devices])

    def _return(self, devices: Indices, at: Floats) -> None:
        self._down[devices] = False
        self._hear(devices, at)
        self.phase[devices] = Phase.TRIAL
        self._next[devices] = at + TRIAL_S

    def _confirm(self, devices: Indices, at: Floats) -> None:
        self._succeeded.append(devices)
        fate = self._fates.fate[devices]
        late, flap = fate == Fate.LATE, fate == Fate.FLAP
        self.phase[devices] = np.where(late, Phase.DYING, np.where(flap, Phase.UP, Phase.UPDATED))
        self._suffers[devices[flap]] = True
        flaps_at = np.where(flap, at + self._draw(self._fates.every_s[devices]), NEVER)
        self._next[devices] = np.where(late, at + self._fates.after_s[devices], flaps_at)

    def _drop(self, devices: Indices, at: Floats) -> None:
        self._lose(devices, at)
        self.phase[devices] = Phase.DOWN
        self._next[devices] = at + self._draw(self._fates.off_s[devices])

    def _recover(self, devices: Indices, at: Floats) -> None:
        self._down[devices] = False
        self._hear(devices, at)
        self.phase[devices] = Phase.UP
        self._next[devices] = at + self._draw(self._fates.every_s[devices])

    def _die(self, devices: Indices, at: Floats) -> None:
        self._lose(devices, at)
        self._suffers[devices] = True
        self.phase[devices] = Phase.DEAD
        self._next[devices] = NEVER

    _STEPS: Final = {
        Phase.DOWNLOADING: _reboot,
        Phase.REBOOTING: _return,
        Phase.TRIAL: _confirm,
        Phase.UP: _drop,
        Phase.DOWN: _recover,
        Phase.DYING: _die,
    }

    def _hear(self, devices: Indices, at: Floats) -> None:
        near = ~self._is_away()[devices]
        self.last_seen[devices[near]] = at[near]

    def _lose(self, devices: Indices, at: Floats) -> None:
        self._down[devices] = True
        connected = ~self._is_away()[devices]
        self._dropped.append(devices[connected])
        self.last_seen[devices[connected]] = at[connected]

    def _draw(self, spans: Floats) -> Floats:
        return spans[:, 0] + (spans[:, 1] - spans[:, 0]) * self._rng.random(len(spans))


def _joined(parts: list[Indices]) -> npt.NDArray[np.int64]:
    return np.concatenate(parts) if parts else _EMPTY
