"""What is known of a campaign at one moment: the fleet in memory joined with the executions in the database."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from server.db.bundles import BundleRecord
from server.db.campaign_records import CampaignRecord
from server.db.executions import ExecutionRepository, Progress
from server.db.halts import HaltRepository
from server.domain.eligibility import Target
from server.domain.execution import State
from server.domain.gate import height
from server.domain.halt.view import Indices
from server.domain.identity import CampaignId, DeviceId, Region
from server.domain.late import Waiting
from server.domain.scope import EVERYTHING, Scope
from server.domain.snapshot import Snapshot
from server.services.columns import Rows
from server.services.crowd import Crowd
from server.services.fleet import Fleet
from server.services.glances import Glance, Glances
from server.services.heights import Heights
from server.services.roster import Roster, Sighting
from server.services.sites import AWAY, Rebooter
from server.services.tally import Candidate, Tally
from server.services.turns import beside, each_rows, others_turn, slices

_WRITTEN: Final = AWAY | {State.INSTALLING}


@dataclass(frozen=True, slots=True)
class Counts:
    """A snapshot for ``decide``, which lacks only the verdict, and what it was counted from.

    ``heights`` are the candidates' by region, ``states`` counts the executions of all regions together, and
    ``late`` are devices that are online and wait to be admitted, ``sleepers`` those that sleep (``sleepers_starting``
    more have been admitted and are about to start), ``named`` those that wait for an offer of their own; ``rebooters``
    have written the release, where the policy bounds reboots.
    """

    snapshot: Snapshot
    heights: Mapping[Region, Indices]
    states: Mapping[State, int]
    late: Sequence[Waiting]
    sleepers: Sequence[Waiting]
    sleepers_starting: int
    named: Sequence[Waiting]
    rebooters: Sequence[Rebooter]

    @property
    def glance(self) -> Glance:
        """What is kept of them for people."""
        return Glance(self.snapshot.regions, self.states, self.rebooters)


@dataclass(frozen=True, slots=True)
class Survey:
    """The counts, and what the halt rule looks at: the run's roster, and everybody in it at this moment."""

    counts: Counts
    roster: Roster
    sighting: Sighting
    progress: Mapping[DeviceId, Progress]


class Surveyor:
    """Takes snapshots."""

    def __init__(self, *, executions: ExecutionRepository, halts: HaltRepository, fleet: Fleet) -> None:
        self._executions = executions
        self._halts = halts
        self._fleet = fleet
        self._rosters: dict[tuple[CampaignId, int], Roster] = {}
        self._heights: dict[CampaignId, Heights] = {}
        self.glances = Glances()

    def remember_only(self, campaigns: Collection[CampaignId]) -> None:
        """Forget what is kept for the survey of all others."""
        for key in [key for key in self._rosters if key[0] not in campaigns]:
            del self._rosters[key]
        for campaign in self._heights.keys() - set(campaigns):
            del self._heights[campaign]

    async def survey(
        self, campaign: CampaignRecord, bundle: BundleRecord, *, now: float, offered: Collection[DeviceId] = frozenset()
    ) -> Survey:
        """Count a campaign for an evaluation. ``offered``: who has an offer of its own already.

        Others get their turn while a large fleet is counted, so that what is counted last is some moments younger than
        what is counted first.
        """
        began = time.monotonic()
        progress = await self._executions.progress(campaign.id)
        roster = await self._roster(campaign)
        present: list[Indices] = []

        def classes(rows: Rows) -> Indices:
            present.append(roster.meet(rows))
            return roster.hardware(rows)

        crowd = self._crowd(campaign, bundle, progress)
        counts = await self._count(campaign, bundle, progress, crowd, classes, now=now, offered=offered)
        in_classes = [*counts.snapshot.starting_in_classes, *[0] * len(roster.classes)][: len(roster.classes)]
        counts = replace(counts, snapshot=replace(counts.snapshot, starting_in_classes=in_classes))
        sighting = await beside(len(roster), roster.sight, present, now)
        self.glances.keep(counts.glance, campaign, EVERYTHING, took_s=time.monotonic() - began)
        return Survey(counts, roster, sighting, progress)

    async def count(
        self, campaign: CampaignRecord, bundle: BundleRecord, *, now: float, scope: Scope = EVERYTHING
    ) -> Counts:
        """Count a campaign for people, who see what is within ``scope``; the halt rule's roster is left alone."""
        began = time.monotonic()
        progress = await self._executions.progress(campaign.id)
        if scope.is_limited:
            progress = self._within(scope, progress)
        crowd = self._crowd(campaign, bundle, progress)
        counts = await self._count(campaign, bundle, progress, crowd, crowd.hardware, now=now)
        self.glances.keep(counts.glance, campaign, scope, took_s=time.monotonic() - began)
        return counts

    async def glance(
        self, campaign: CampaignRecord, bundle: BundleRecord, *, now: float, scope: Scope = EVERYTHING
    ) -> Glance:
        """Return what people see of a campaign's counts: of a large fleet, those of a survey that was just made."""

        async def look() -> None:
            await self.count(campaign, bundle, now=now, scope=scope)

        return await self.glances.get(campaign, scope, look)

    async def _count(
        self,
        campaign: CampaignRecord,
        bundle: BundleRecord,
        progress: Mapping[DeviceId, Progress],
        crowd: Crowd,
        classes: Callable[[Rows], Indices],
        *,
        now: float,
        offered: Collection[DeviceId] = frozenset(),
    ) -> Counts:
        """``classes`` tells the hardware classes of eligible devices, as indices."""
        heights = self._heights_in(campaign)
        tallies: dict[Region, Tally] = {}
        for region in campaign.regions:
            tally = tallies[region.region] = Tally.begin(
                self._fleet, campaign, region, bundle_bytes=bundle.size_bytes, now=now
            )
            async for some in each_rows(crowd.members(region.region)):
                tally.note_candidates(heights.of(crowd.unknown(some)))
                eligible = crowd.eligible(some)
                tall, hardware = heights.of(eligible), classes(eligible)
                alone = crowd.counted_alone(eligible)
                through = crowd.through(eligible) & ~alone
                tally.count_through(eligible[through], tall[through])
                rest = ~(alone | through)
                tally.count_crowd(eligible[rest], tall[rest], hardware[rest])
                for few in slices(np.flatnonzero(alone).tolist()):
                    for each in few:
                        device = self._fleet.at(int(eligible[each]))
                        tally.count(
                            Candidate(
                                device,
                                progress.get(device.id),
                                height=int(tall[each]),
                                hardware=int(hardware[each]),
                                is_named=device.id in campaign.named,
                                is_offered=device.id in offered,
                            )
                        )
                    await others_turn(few)
        for name, one in progress.items():
            known = self._fleet.get(name)
            if known is not None and known.region in tallies:
                tallies[known.region].count_ended(one)
        states: Counter[State] = Counter(one.state for one in progress.values())
        in_classes: Counter[int] = sum((tally.starting_in_classes for tally in tallies.values()), Counter())
        snapshot = Snapshot(
            state=campaign.state,
            causes=campaign.causes,
            plan=campaign.effective_plan,
            policy=campaign.policy,
            regions=[tally.view() for tally in tallies.values()],
            started_at=(campaign.started_at or campaign.created_at).timestamp(),
            starting_in_classes=[in_classes[index] for index in range(max(in_classes, default=-1) + 1)],
            wave=campaign.wave,
            blobs_ready=campaign.blobs_ready,
            watching_since=None if campaign.watching_since is None else campaign.watching_since.timestamp(),
            advanced=campaign.advanced,
            awaits=campaign.awaits,
            sentence=campaign.sentence,
            answer=campaign.answer,
            device_bytes=bundle.size_bytes,
        )
        candidates = {region: tally.heights for region, tally in tallies.items()}
        late = [one for tally in tallies.values() for one in tally.late]
        named = [one for tally in tallies.values() for one in tally.named]
        sleepers = [one for tally in tallies.values() for one in tally.sleepers]
        starting = sum(tally.sleepers_starting for tally in tallies.values())
        rebooters = self._rebooters(campaign, progress, now)
        return Counts(snapshot, candidates, states, late, sleepers, starting, named, rebooters)

    def _crowd(self, campaign: CampaignRecord, bundle: BundleRecord, progress: Mapping[DeviceId, Progress]) -> Crowd:
        target = Target(bundle.vendor_id, frozenset(bundle.class_ids), bundle.manifest_digest)
        return Crowd(self._fleet, campaign, target, progress)

    def _heights_in(self, campaign: CampaignRecord) -> Heights:
        return self._heights.setdefault(campaign.id, Heights(campaign.id, self._fleet))

    def _within(self, scope: Scope, progress: Mapping[DeviceId, Progress]) -> dict[DeviceId, Progress]:
        found = {}
        for name, one in progress.items():
            device = self._fleet.get(name)
            if device is not None and scope.has(device.region, device.cohort):
                found[name] = one
        return found

    def _rebooters(
        self, campaign: CampaignRecord, progress: Mapping[DeviceId, Progress], now: float
    ) -> Sequence[Rebooter]:
        """Return who has written the release and is not through with it, where the policy bounds reboots."""
        if not campaign.policy.site_reboots_most:
            return ()
        found = []
        for name, one in progress.items():
            device = self._fleet.get(name)
            if device is None or device.held or device.revoked or one.state not in _WRITTEN:
                continue
            told = device.reboot
            found.append(
                Rebooter(
                    told_at=device.reboot_told_at,
                    height=height(campaign.id, name),
                    device=name,
                    site=(device.region, device.site) if device.site else None,
                    state=one.state,
                    is_told=told is not None and told.campaign == campaign.id and now < told.until,
                    is_online=self._fleet.is_online(device, now),
                )
            )
        return found

    async def _roster(self, campaign: CampaignRecord) -> Roster:
        """Return the run's roster, in the order that an earlier process gave it."""
        key = (campaign.id, campaign.run)
        if key not in self._rosters:
            saved = await self._halts.load(campaign.id, campaign.run)
            known = () if saved is None else saved.roster
            regions = [region.region for region in campaign.regions]
            named = campaign.plan.named(len(campaign.plan.waves))
            roster = Roster(regions, self._fleet, self._heights_in(campaign), known, named)
            self._rosters.setdefault(key, roster)  # another survey may have been first
        return self._rosters[key]
