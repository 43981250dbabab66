"""A campaign in virtual time: the server's own decisions, carried out on a fleet that is arrays.

At each tick ``server.domain.decide.decide`` is asked until it has nothing more to say, as the server asks it every
second, and each answer changes the campaign by ``server.services.transitions``. A device whose height a level crosses
while it is online starts by itself. One that was away is late, and is admitted by ``server.domain.late.choose`` when
there is room. A line of ``decide`` never reaches further than ``DEAD_MAN_S``, so that none needs to be renewed here.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import numpy as np

from firmware_store.errors import InvalidInputError
from server.db.campaign_records import CampaignRecord, RegionRecord
from server.domain.campaign import OFFERING, State
from server.domain.decide import Decision, Kind, decide
from server.domain.halt.pace import SMALL_FLEET, SMALL_STEPS
from server.domain.halt.view import UNBOUNDED, Indices, Moment, Population, Verdict
from server.domain.identity import BundleId, CampaignId, Cohort, DeviceId, Region
from server.domain.late import Waiting, choose
from server.domain.paced import rooms
from server.domain.plan import Plan, Policy, Wave
from server.domain.snapshot import RegionView, Snapshot
from server.services.replay.executions import Executions
from server.services.transitions import ceiling, decided

_CANARY_SHARE: Final = 0.01
_CANARY_MOST: Final = 200
_DECISIONS_MOST: Final = 16
"""In one tick: a wave opens, its lines are drawn; another cause may be cleared before. More would be a circle."""


def plan_of_a_day(population: Population) -> Plan:
    """A canary baked for an hour, each region up to 85 % in its turn, 95 % of all, and the sentinels in four steps.

    Fleets under 50 devices: 1, 3 and 10 first, with a full verdict between.
    """
    regions = tuple(Region(name) for name in population.regions)
    first = int(np.count_nonzero(population.region == 0))
    waves = []
    if len(population) < SMALL_FLEET:
        waves += [Wave(regions=regions[:1], ratio=None, count=count, ramp_s=60, soak_s=9000) for count in SMALL_STEPS]
    else:
        canary = min(_CANARY_MOST, max(1, round(first * _CANARY_SHARE)))
        waves.append(Wave(regions=regions[:1], ratio=None, count=canary, ramp_s=900, soak_s=3600))
    waves += [Wave(regions=(name,), ratio=0.85, count=None, ramp_s=5400, soak_s=1800) for name in regions]
    waves.append(Wave(ratio=0.95, count=None, ramp_s=3600, soak_s=1800))
    waves += [Wave(ratio=ratio, count=None, ramp_s=600, soak_s=1200) for ratio in (0.9625, 0.975, 0.9875, 1.0)]
    return Plan(waves=tuple(waves))


class Engine:
    """One campaign, from its start on. ``campaign`` is its record, as the server would store it."""

    def __init__(
        self,
        plan: Plan,
        population: Population,
        policy: Policy,
        *,
        campaign: CampaignId,
        begins: float,
        grace_s: float,
        executions: Callable[..., Executions] = Executions,
        recounts: bool = False,
    ) -> None:
        """``begins``: in Unix seconds; ``grace_s``: how long a device may be silent and counts as online.

        ``executions``: what counts the devices; ``recounts``: also while a campaign is watched, when counts decide
        nothing and are only told.
        """
        at = datetime.fromtimestamp(begins, UTC)
        self.campaign = CampaignRecord(
            id=campaign,
            name="replay",
            cohort=Cohort("replay"),
            bundle_id=BundleId(UUID(int=0)),
            plan=_unattended(plan),
            policy=policy,
            reason="",
            created_by="",
            created_at=at,
            regions=tuple(RegionRecord(Region(name)) for name in population.regions),
            state=State.RUNNING,
            started_at=at,
            run_at=at,
            blobs_ready=True,
        )
        self.decisions: list[Decision] = []
        """Those of the last tick."""
        self._population = population
        self._began = begins
        self._views: list[RegionView] = []
        self._was_watching = False
        self._recounts = recounts
        self._executions = executions(population, policy, most=ceiling(self.campaign), grace_s=grace_s)
        names = [record.region for record in self.campaign.regions]
        self._heights = dict(zip(names, self._executions.candidates, strict=True))

    def level(self, now: float) -> Indices:
        """Return the level of each region."""
        return np.array([record.ramp.level(now) for record in self.campaign.regions], np.int64)

    def step(self, moment: Moment, verdict: Verdict, *, until: float) -> Indices:
        """Decide what is to be decided at this moment, and return the devices that start before ``until``."""
        self.evaluate(moment, verdict)
        if self.campaign.state not in OFFERING:
            return np.empty(0, np.int64)
        ramps = [record.ramp for record in self.campaign.regions]
        late, sleepers = self.let_in(verdict, moment.now)
        return np.concatenate([self._executions.crossed(ramps, moment.now, until), late, sleepers])

    def evaluate(self, moment: Moment, verdict: Verdict) -> None:
        """Decide what is to be decided at this moment."""
        now = moment.now
        self.decisions = []
        self._executions.hear(moment)
        if verdict.bad_weather or verdict.is_blind:
            bad = [verdict.is_blind or name in verdict.bad_weather for name in self._population.regions]
            self._executions.note_weather(np.array(bad))
        self._was_watching = self.campaign.state is State.WATCHING
        snapshot = self._snapshot(verdict, is_new=self._recounts or not self._was_watching)
        while (decision := decide(snapshot, now)).kind is not Kind.NOTHING:
            assert len(self.decisions) < _DECISIONS_MOST
            self.decisions.append(decision)
            at = datetime.fromtimestamp(now, UTC)
            self.campaign = decided(self.campaign, decision, self._heights, now=at).campaign
            if decision.kind is Kind.PACE:  # which changes no count
                records = zip(self._views, self.campaign.regions, strict=True)
                self._views = [
                    view if view.ramp == record.ramp else replace(view, ramp=record.ramp) for view, record in records
                ]
            snapshot = self._snapshot(verdict, is_new=decision.kind is not Kind.PACE)

    def let_in(self, verdict: Verdict, now: float) -> tuple[Indices, Indices]:
        """Return those who wait to be admitted and for whom there is room: the late, and those that sleep."""
        ramps = [record.ramp for record in self.campaign.regions]
        late, sleepers = self._executions.late(ramps), self._executions.sleepers(ramps)
        if len(late) or len(sleepers):
            snapshot = self._snapshot(verdict, is_new=self._was_watching)
            late = self._admitted(late, snapshot, now)
            sleepers = self._admitted(sleepers, snapshot, now, most=verdict.room_of_sleepers)
        return late, sleepers

    def _snapshot(self, verdict: Verdict, *, is_new: bool = True) -> Snapshot:
        """Return what ``decide`` asks of; with counts of an earlier moment where they decide nothing."""
        campaign = self.campaign
        if is_new:
            self._views = self._executions.views(campaign.regions)
        return Snapshot(
            state=campaign.state,
            causes=campaign.causes,
            plan=campaign.effective_plan,
            policy=campaign.policy,
            regions=self._views,
            started_at=self._began,
            verdict=verdict,
            starting_in_classes=[0] * len(self._population.classes),
            wave=campaign.wave,
            blobs_ready=campaign.blobs_ready,
            watching_since=None if campaign.watching_since is None else campaign.watching_since.timestamp(),
            awaits=campaign.awaits,
            sentence=campaign.sentence,
        )

    def _admitted(self, late: Indices, snapshot: Snapshot, now: float, *, most: int = UNBOUNDED) -> Indices:
        """Return those who wait whom there is room for, ``most`` of them."""
        if not len(late):
            return late
        left = rooms(snapshot.lines, snapshot.verdict, snapshot.starting_in_classes, policy=snapshot.policy, now=now)
        if not left.whole or not any(left.in_regions):
            return late[:0]
        population, regions = self._population, self.campaign.regions
        places = dict(enumerate(late.tolist()))
        waiting = [
            Waiting(height, DeviceId(f"d{place}"), regions[region].region, hardware)
            for place, height, region, hardware in zip(
                places,
                population.height[late].tolist(),
                population.region[late].tolist(),
                population.hardware[late].tolist(),
                strict=True,
            )
        ]
        in_regions = {view.region: room for view, room in zip(snapshot.regions, left.in_regions, strict=True)}
        chosen = choose(waiting, room=min(left.whole, most), in_regions=in_regions, in_classes=left.in_classes.tolist())
        return late[[int(name[1:]) for name in chosen]]


def _unattended(plan: Plan) -> Plan:
    """Return the plan with gates that ask nobody: of what a person or a webhook would say a trace knows nothing.

    Raises:
        InvalidInputError: it names devices.
    """
    if any(wave.devices for wave in plan.waves):
        raise InvalidInputError("A replay knows no devices by name: give a plan of levels.", pointer="/plan")
    alone = {"manual": False, "webhook": None}
    waves = [wave.model_copy(update={"gate": wave.gate.model_copy(update=alone)}) for wave in plan.waves]
    return Plan(waves=tuple(waves))
