"""What the server would know of a trace's devices: how far each is, counted by region as ``decide`` wants to see it.

The same counts as ``server.services.snapshot``, for devices that are arrays: which of them wait, are under way, have
confirmed, and have been concluded to be silent. Devices are kept in the order of their regions and heights, so that a
level is one place in a region.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import numpy as np

from server.db.campaign_records import RegionRecord
from server.domain.gate import Ramp
from server.domain.halt.view import DARK_WAKES, NOBODY, Bools, Floats, Indices, Moment, Population
from server.domain.paced import Startable
from server.domain.plan import Policy
from server.domain.snapshot import RegionView

_BITS: Final = 33
"""A level, up to 2^32, and a region's number above it are one number."""


class Step(IntEnum):
    """How far a device is. ``REBOOTED`` until it confirms: to the server, a reboot and a trial are one wait.

    ``OVER``: it has ended in another way, which nobody does in a trace.
    """

    WAITING = 0
    DOWNLOADING = 1
    REBOOTED = 2
    CONFIRMED = 3
    SILENT = 4
    OVER = 5


_WAITING, _DOWNLOADING, _REBOOTED = int(Step.WAITING), int(Step.DOWNLOADING), int(Step.REBOOTED)


class Executions:
    """Every device's way through the campaign. ``hear`` takes a moment in, ``views`` counts."""

    def __init__(self, population: Population, policy: Policy, *, most: int, grace_s: float) -> None:
        """``most``: the level that no wave exceeds; ``grace_s``: how long a device may be away and counts as there."""
        count, self._regions = len(population), len(population.regions)
        self._policy = policy
        self._grace_s = grace_s
        self._region = population.region.astype(np.int64)
        self._hardware = population.hardware.astype(np.int64)
        self._height = population.height.astype(np.int64)
        self._order = np.lexsort((self._height, self._region))
        self._heights_in_order = self._height[self._order]
        self._classes_in_order = self._hardware[self._order]
        self._places = (self._region << _BITS | self._height)[self._order]
        self._bounds = np.searchsorted(self._region[self._order], np.arange(self._regions + 1)).tolist()
        tops = self._below([most] * self._regions)
        self.candidates = [self._heights_in_order[slice(*ends)] for ends in zip(self._bounds, tops, strict=False)]
        self._wakes_s = population.wakes_s
        self._sleeps_in_order = (self._wakes_s > 0)[self._order]
        self._step = np.zeros(count, np.int8)
        self._waits = np.ones(count, np.bool_)  # in order
        self._place = np.argsort(self._order)
        self._rebooted_at: Floats = np.full(count, np.inf)
        self._changed_at: Floats = np.full(count, np.inf)
        self._is_judged = np.zeros(count, np.bool_)
        self._unjudged: Indices = NOBODY
        self._fair_since: Floats = np.full(self._regions, -np.inf)
        self._tally = np.zeros((len(Step), self._regions), np.int64)
        self._tally[_WAITING] = np.diff(self._bounds)
        self._judged = np.zeros(self._regions, np.int64)
        self._moment: Moment | None = None

    def hear(self, moment: Moment) -> None:
        """Take in what devices have said, and conclude which of them have gone silent.

        As at the server, every deadline counts from the moment at the earliest since which it hears, and the weather of
        the region is good.
        """
        self._moment = moment
        now, policy = moment.now, self._policy
        if moment.is_blind:
            self._fair_since[:] = now
        self._take_news(moment)
        is_fair = now - self._fair_since >= policy.halt.g1_s
        self._judge(moment, is_fair)
        self._judge_trials(moment, is_fair)
        online = moment.online[self._order]
        asleep = self._wakes_s * DARK_WAKES >= now - moment.last_seen
        self._here = online | (asleep[self._order] & self._sleeps_in_order)
        self._ready: Bools = online & self._waits & ~self._sleeps_in_order
        self._awake: Bools = online & self._waits & self._sleeps_in_order
        away = np.flatnonzero((self._step == _DOWNLOADING) & ~moment.online)
        self._away = np.bincount(self._region[away], minlength=self._regions)
        is_old = (self._wakes_s > 0) & (self._rebooted_at <= now - policy.halt.sleeper_s)
        resting = np.flatnonzero((self._step == _REBOOTED) & is_old & ~moment.online)
        self._resting = np.bincount(self._region[resting], minlength=self._regions)

    def _take_news(self, moment: Moment) -> None:
        """Take in how far devices have come since the moment before."""
        self._move(moment.started, Step.DOWNLOADING)
        self._reboot(moment)
        silent = np.flatnonzero(self._step == int(Step.SILENT))
        back = silent[moment.last_seen[silent] > self._changed_at[silent]]
        self._move(back, Step.REBOOTED)
        self._changed_at[back] = moment.now
        self._move(moment.succeeded, Step.CONFIRMED)

    def _reboot(self, moment: Moment) -> None:
        """Those that have rebooted wait for their verdict from now on."""
        self._move(moment.rebooted, Step.REBOOTED)
        self._rebooted_at[moment.rebooted] = self._changed_at[moment.rebooted] = moment.rebooted_at
        self._unjudged = np.concatenate([self._unjudged, moment.rebooted])

    def note_weather(self, is_bad: Bools) -> None:
        """The halt rule has seen bad weather in these regions at the last moment (mask)."""
        assert self._moment is not None
        self._fair_since[is_bad] = self._moment.now

    def _judge(self, moment: Moment, is_fair: Bools) -> None:
        """Give every device its verdict once its deadline has come."""
        policy = self._policy.halt
        wakes_s = policy.wakes * self._wakes_s[self._unjudged]
        ripe = self._rebooted_at[self._unjudged] <= moment.now - policy.g1_s - wakes_s
        ripe &= is_fair[self._region[self._unjudged]]
        if not ripe.any():
            return
        devices, self._unjudged = self._unjudged[ripe], self._unjudged[~ripe]
        self._is_judged[devices] = True
        self._judged += np.bincount(self._region[devices], minlength=self._regions)
        silent = (self._step[devices] == _REBOOTED) & (
            moment.last_seen[devices] < self._rebooted_at[devices] + policy.reboot_s
        )
        self._fall_silent(devices[silent], moment.now)

    def _judge_trials(self, moment: Moment, is_fair: Bools) -> None:
        """Whoever should have ended its trial long ago, and has not been heard for a while, is silent, too."""
        under_way = np.flatnonzero(self._step == _REBOOTED)
        since = moment.now - self._policy.halt.g1_s - self._policy.trial_s
        over = (self._changed_at[under_way] <= since) & self._is_judged[under_way]
        patience_s = np.maximum(self._grace_s, self._policy.halt.wakes * self._wakes_s[under_way])
        over &= is_fair[self._region[under_way]] & (moment.now - moment.last_seen[under_way] > patience_s)
        self._fall_silent(under_way[over], moment.now)

    def _fall_silent(self, devices: Indices, now: float) -> None:
        self._move(devices, Step.SILENT)
        self._changed_at[devices] = now

    def _move(self, devices: Indices, step: Step) -> None:
        if not len(devices):
            return
        cells = self._step[devices].astype(np.int64) * self._regions + self._region[devices]
        self._tally -= np.bincount(cells, minlength=self._tally.size).reshape(self._tally.shape)
        self._tally[step] += np.bincount(self._region[devices], minlength=self._regions)
        self._step[devices] = step
        self._waits[self._place[devices]] = False  # nobody's way leads back to the beginning

    def views(self, records: tuple[RegionRecord, ...]) -> list[RegionView]:
        """Count every region, with these levels, as of the last moment. Nobody is about to start: who may, has.

        Controls are not counted: what neighbours explain of the silence is the halt rule's to say, and without its word
        they explain none.
        """
        assert self._moment is not None
        levels = self._below([record.ramp.level(self._moment.now) for record in records])
        targets = self._below([record.target for record in records])
        tallies = self._tally.T.tolist()
        return [
            self._view(
                region,
                record,
                tallies[region],
                level=levels[region],
                target=targets[region],
            )
            for region, record in enumerate(records)
        ]

    def _view(self, region: int, record: RegionRecord, tally: list[int], *, level: int, target: int) -> RegionView:
        begin, end = self._bounds[region : region + 2]
        waiting = int(np.count_nonzero(self._ready[begin:level]))
        _, downloading, rebooted, confirmed, silent, over = tally
        judged, candidates = int(self._judged[region]), len(self.candidates[region])
        here = downloading - int(self._away[region])
        rebooted -= int(self._resting[region])
        return RegionView(
            region=record.region,
            ramp=record.ramp,
            planned=record.planned,
            eligible=end - begin,
            eligible_online=int(np.count_nonzero(self._here[begin:end])),
            candidates=candidates,
            targeted=min(target - begin, candidates),
            targeted_online=int(np.count_nonzero(self._here[begin:target])),
            reached=waiting + here + rebooted + confirmed + silent + over,
            waiting=waiting,
            in_flight=here + rebooted,
            confirmed=confirmed,
            judged=judged,
            silent=silent,
            excess=float(silent),
            startable=self._startable(level, target),
        )

    def _startable(self, level: int, target: int) -> Startable:
        """Return who would start on the level's way to its target."""
        if level >= target:
            return Startable.nobody()
        ready = self._ready[level:target]
        return Startable(self._heights_in_order[level:target][ready], self._classes_in_order[level:target][ready])

    def crossed(self, ramps: Sequence[Ramp], now: float, until: float) -> Indices:
        """Return who starts unasked because the level passes it by ``until``: those that are online now."""
        lows = [ramp.level(now) for ramp in ramps]
        highs = [ramp.level(until) for ramp in ramps]
        if lows == highs:
            return NOBODY
        places = zip(self._below(lows), self._below(highs), strict=True)
        return np.concatenate([self._order[low:high][self._ready[low:high]] for low, high in places])

    def late(self, ramps: Sequence[Ramp]) -> Indices:
        """Return who is online, and waits to be admitted because it was not when the level passed it."""
        return self._due(ramps, self._ready)

    def sleepers(self, ramps: Sequence[Ramp]) -> Indices:
        """Return who is due and online, and waits to be admitted because it sleeps."""
        return self._due(ramps, self._awake)

    def _due(self, ramps: Sequence[Ramp], which: Bools) -> Indices:
        """Return those below the levels, of ``which`` (mask, in order)."""
        assert self._moment is not None
        levels = self._below([ramp.level(self._moment.now) for ramp in ramps])
        places = zip(self._bounds, levels, strict=False)
        return np.concatenate([self._order[low:high][which[low:high]] for low, high in places])

    def _below(self, levels: Sequence[int]) -> list[int]:
        """Return the place in the order at which each region's level stands."""
        keys = (np.arange(self._regions) << _BITS) + np.asarray(levels, np.int64)
        out: list[int] = np.searchsorted(self._places, keys).tolist()
        return out
