"""One campaign of a virtual fleet: the server's own rule and decisions, on what its devices report."""

from collections.abc import Callable
from uuid import UUID

import numpy as np

from device_sim.scenario.draws import rank
from device_sim.scenario.model import CampaignOrder
from device_sim.virtual.executions import ReportedExecutions
from device_sim.virtual.fleet import Fleet
from device_sim.virtual.progress import Progress
from device_sim.virtual.release import VirtualRelease
from server.db.campaign_records import CampaignRecord, RegionRecord
from server.domain.campaign import JUDGED, OFFERING, State
from server.domain.decide import Decision
from server.domain.gate import DEAD_MAN_S
from server.domain.halt import HaltRule, Moment, Population, Verdict
from server.domain.identity import CampaignId
from server.domain.plan import Policy
from server.protocol.orders import Action
from server.services.replay.engine import Engine

_ACTIONS = {State.RUNNING: Action.OFFER, State.WATCHING: Action.OFFER, State.PAUSED: Action.HOLD}


class VirtualCampaign:
    """From its start on. ``on_decision`` hears what was decided, and by which verdict."""

    def __init__(
        self,
        order: CampaignOrder,
        release: VirtualRelease,
        fleet: Fleet,
        *,
        seed: int,
        begins: float,
        on_decision: Callable[["VirtualCampaign", Decision, Verdict], None],
    ) -> None:
        """``begins``: in Unix seconds."""
        self.id = CampaignId(UUID(bytes=rank(seed, order.release, "campaign")[:16]))
        self.order = order
        self.release = release
        self.progress = Progress(len(fleet))
        self.admitted_until = np.zeros(len(fleet))
        self.population = fleet.population(self.id, begins)
        self._fleet = fleet
        self._on_decision = on_decision
        self._drops = fleet.drops.copy()
        self._executions: ReportedExecutions | None = None
        self._rule = HaltRule(self.population, order.policy.halt, int.from_bytes(self.id.bytes[-8:]) ^ 1)
        self._engine = Engine(
            order.plan,
            self.population,
            order.policy,
            campaign=self.id,
            begins=begins,
            grace_s=fleet.grace_s,
            executions=self._count,
            recounts=True,
        )
        self.is_superseded = False
        self.is_quiet = False
        """Nobody is under way, and no level rises."""

    @property
    def record(self) -> CampaignRecord:
        """As the server would store it."""
        return self._engine.campaign

    @property
    def state(self) -> State:
        return State.CANCELLED if self.is_superseded else self.record.state

    @property
    def silent(self) -> int:
        """How many devices the server has given up waiting for."""
        return 0 if self._executions is None else self._executions.silent

    @property
    def is_judged(self) -> bool:
        return self.state in JUDGED

    @property
    def action(self) -> Action:
        """What devices are told."""
        if self.state is State.HALTED:
            return Action.HALT
        return _ACTIONS.get(self.state, Action.NONE)

    def hears(self, region: RegionRecord) -> bool:
        """Tell whether a region is told: those whose level has risen, and all of them of an end."""
        return region.opened_at is not None or self.action not in {Action.OFFER, Action.HOLD}

    def step(self, now: float, *, is_blind: bool) -> list[int]:
        """Judge and decide, at ``now`` (Unix seconds); return the devices that may start late from now on."""
        moment = self._moment(now, is_blind=is_blind)
        verdict = self._rule.step(moment)
        self._engine.evaluate(moment, verdict)
        for decision in self._engine.decisions:
            self._on_decision(self, decision, verdict)
        rises = any(region.ramp.t1 > now for region in self.record.regions)
        self.is_quiet = not (verdict.in_flight or rises or self.progress.says_late.any())
        if self.state not in OFFERING:
            return []
        admitted = np.concatenate(self._engine.let_in(verdict, now))
        self.admitted_until[admitted] = now + DEAD_MAN_S
        out: list[int] = admitted.tolist()
        return out

    def _count(self, population: Population, policy: Policy, *, most: int, grace_s: float) -> ReportedExecutions:
        """Make the engine's counts, and keep hold of them."""
        self._executions = ReportedExecutions(
            population,
            policy,
            most=most,
            grace_s=grace_s,
            progress=self.progress,
            admitted_until=self.admitted_until,
        )
        return self._executions

    def _moment(self, now: float, *, is_blind: bool) -> Moment:
        fleet, news = self._fleet, self.progress.take_news()
        assert self._executions is not None
        self._executions.changed = news.changed
        last_seen = fleet.last_seen(now)
        online = fleet.is_online(now)
        unheard = self.progress.unheard
        last_seen[unheard] = np.minimum(last_seen[unheard], self.progress.rebooted_at[unheard])
        lost = fleet.drops - self._drops
        self._drops = fleet.drops.copy()
        rebooted = np.asarray(news.rebooted, np.int64)
        return Moment(
            now=now,
            last_seen=last_seen,
            online=online,
            present=np.ones(len(fleet), np.bool_),
            level=self._engine.level(now),
            started=np.asarray(news.started, np.int64),
            rebooted=rebooted,
            rebooted_at=self.progress.rebooted_at[rebooted],
            over=np.asarray(news.over, np.int64),
            failed=np.asarray(news.failed, np.int64),
            succeeded=np.asarray(news.succeeded, np.int64),
            dropped=np.repeat(np.arange(len(lost)), lost),
            is_blind=is_blind,
        )
