"""The agent without I/O: events in, effects out. Everything a device decides is decided below this class.

Safety, in the order in which it is relied upon: only the slot backend makes bytes bootable, after it has compared them
with signed digests; only the bootloader gives a trial up; and the core starts or activates nothing without a welcome
of the present session that confirms the directives it holds.
"""

import random
from dataclasses import replace

from device_sim.agent.boot_environment import SlotInfo, SlotState
from device_sim.agent.directives import Directives
from device_sim.agent.events import (
    Conditions,
    Effect,
    Event,
    Got,
    HealthChecked,
    ImageDone,
    LinkDown,
    LinkUp,
    Note,
    Reboot,
    Received,
    Reconnect,
    Reused,
    Staged,
    Step,
    StepDone,
    StepFailed,
    Tick,
)
from device_sim.agent.journal import Journal
from device_sim.agent.reports import Reports
from device_sim.agent.session import Session
from device_sim.agent.situation import Situation
from device_sim.agent.state import AgentState
from device_sim.agent.trial import Trial
from device_sim.agent.trust import Identity, Trust, reason_of
from device_sim.agent.trust_store import TrustStore
from device_sim.agent.update import Updates
from firmware_store.errors import CodecError, TidegateError
from firmware_store.root import Root
from server.protocol.messages import decode_ack
from server.protocol.topics import CohortAudience, DeviceAudience, Topics


class Agent:
    """One boot of one device. Call ``boot`` first; feed ``handle``; carry out what they return, in order.

    ``root`` is the one that the factory has pinned: the device may have walked on from it since. ``has_http`` and
    ``codecs``: whether the platform carries out ``Get``, and which deltas it can apply.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        root: Root,
        state: AgentState,
        slots: tuple[SlotInfo, ...],
        booted: str,
        boot_id: bytes,
        now: float,
        topics: Topics | None = None,
        has_http: bool = False,
        codecs: frozenset[str] = frozenset(),
        rng: random.Random | None = None,
    ) -> None:
        journal = Journal(with_highest(state, slots))
        store = TrustStore(journal, root)
        self._situation = Situation(
            identity=identity,
            store=store,
            topics=topics or Topics(),
            rng=rng or random.Random(),
            boot_id=boot_id,
            journal=journal,
            directives=Directives(journal, identity=identity, store=store),
            slots=slots,
            booted=booted,
            booted_at=now,
            now=now,
            has_http=has_http,
            codecs=codecs,
        )
        self._reports = Reports(self._situation)
        self._updates = Updates(self._situation, self._reports)
        self._trial = Trial(self._situation, self._reports)
        self._session: Session | None = None
        self._is_over = False

    @property
    def state(self) -> AgentState:
        """What the agent knows, stored or about to be."""
        return self._situation.state

    @property
    def may_sleep(self) -> bool:
        """Whether nothing is under way that a sleep would hold up: no update, unless it is held, and no report."""
        return self._updates.may_sleep and not self.state.unacked

    @property
    def wake_at(self) -> float | None:
        """When to feed a ``Tick`` at the latest (monotonic seconds)."""
        if self._is_over or self._session is None:
            return self.acts_at
        acts_at = self.acts_at
        return self._session.beat_at if acts_at is None else min(acts_at, self._session.beat_at)

    @property
    def acts_at(self) -> float | None:
        """When it has something to do, beats apart: a simulator need not live through each of them."""
        if self._is_over:
            return None
        parts = [self._reports.next_at, self._updates.next_at, self._trial.next_at]
        if self._session is not None:
            parts.append(self._session.next_at)
        return min((at for at in parts if at is not None), default=None)

    def boot(self) -> list[Effect]:
        """Take up what the last boot left."""
        self._updates.resume()
        self._trial.resume()
        self._reconcile()
        return self._finish()

    def handle(self, event: Event, now: float, *, then: Event | None = None) -> list[Effect]:
        """Return what to do about an event at ``now`` (monotonic seconds).

        ``then`` is the event that is handled next, at once, if one is waiting: while blob comes after blob, what is to
        be done about all of them is decided, and returned, after the last one.
        """
        if self._is_over:
            return []
        self._situation.now = max(now, self._situation.now)
        match event:
            case LinkUp(nonce):
                self._link_up(nonce)
            case LinkDown():
                self._link_down()
            case Received(topic, payload):
                self._received(topic, payload)
            case StepDone(step, slot, slots):
                self._situation.slots = slots
                self._step_done(step, slot)
            case StepFailed(step, reason, detail, slots):
                self._situation.slots = slots
                if self._trial.owns(step):
                    self._trial.step_failed(step, detail)
                else:
                    self._updates.step_failed(step, reason, detail)
            case Reused() | Staged() | ImageDone() | Got():
                self._updates.fetched(event)
            case Conditions(obstacle):
                self._situation.obstacle = obstacle
            case HealthChecked():
                self._trial.health_checked(event)
            case Tick():
                self._reports.tick()
                if self._session is not None:
                    self._session.tick()
        if then is not None and self._is_blob(then) and self._is_blob(event):
            return []
        self._reconcile()
        return self._finish()

    def _is_blob(self, event: Event) -> bool:
        return isinstance(event, Received) and event.topic.startswith(self._situation.topics.blobs)

    def _reconcile(self) -> None:
        self._trial.reconcile()
        self._updates.reconcile()
        self._trial.reconcile()  # an update that has just ended may leave a rollback to obey

    def _finish(self) -> list[Effect]:
        effects = self._situation.journal.take()
        self._is_over = any(isinstance(effect, Reboot) for effect in effects)
        if any(isinstance(effect, Reconnect) for effect in effects):
            self._link_down()
        return effects

    def _link_up(self, nonce: bytes) -> None:
        here = self._situation
        here.welcome = None
        here.is_up = True
        self._session = Session(here, nonce)
        here.journal.emit(Note("connected"))
        self._session.begin()
        self._reports.session_began()

    def _link_down(self) -> None:
        here = self._situation
        here.is_up = False
        here.welcome = None
        self._session = None
        self._updates.link_lost()

    def _step_done(self, step: Step, slot: str) -> None:
        if self._trial.owns(step):
            self._trial.step_done(step)
        else:
            self._updates.step_done(step, slot)

    def _received(self, topic: str, payload: bytes) -> None:
        here = self._situation
        try:
            if topic.startswith(here.topics.blobs):
                self._updates.blob_came(here.topics.parse_blob(topic), payload)
            elif self._session is not None and payload:  # an empty payload is never an order
                self._take_document(self._session, topic, payload)
        except TidegateError as exc:
            here.refusals += 1
            here.journal.emit(Note("refused", reason=reason_of(exc), detail=f"{topic}: {exc}"))

    def _take_document(self, session: Session, topic: str, payload: bytes) -> None:
        here = self._situation
        region, device = here.state.region, here.identity.device
        if topic == here.topics.welcome(region, device):
            session.welcomed(payload)
        elif topic == here.topics.ack(region, device):
            self._reports.acknowledged(decode_ack(payload))
        elif topic in {
            here.topics.directive(DeviceAudience(region, device)),
            here.topics.directive(CohortAudience(region, here.state.cohort)),
        }:
            here.directives.accept(payload)
            session.ask_for_what_lags()
        elif topic == here.topics.trust_status or topic.startswith(f"{here.topics.root}/trust/root/"):
            self._take_trust(session, topic, payload)
        else:
            raise CodecError("a message on a topic that is not this device's")

    def _take_trust(self, session: Session, topic: str, payload: bytes) -> None:
        """Even where a step fails, those before it count: see ``TrustStore.take_root``."""
        here = self._situation
        before = here.trust
        try:
            if topic == here.topics.trust_status:
                here.store.take_status(payload)
            else:
                here.store.take_root(here.topics.parse_trust_root(topic), payload)
        finally:
            if here.trust is not before:
                here.directives.recheck()
                here.journal.emit(Note("trust_changed", detail=_in_words(here.trust)))
                session.trust_changed()


def _in_words(trust: Trust) -> str:
    status = "no status" if trust.status is None else f"status {trust.status.version}"
    return f"root {trust.root.version}, {status}"


def with_highest(state: AgentState, slots: tuple[SlotInfo, ...]) -> AgentState:
    """Never fall below what a slot says was confirmed here, even when the agent's own state was lost."""
    confirmed = [slot for slot in slots if slot.state is SlotState.CONFIRMED]
    best = max(confirmed, key=lambda slot: slot.sequence_number, default=None)
    if best is None or best.sequence_number <= state.highest_sequence:
        return state
    return replace(state, highest_sequence=best.sequence_number, highest_digest=best.manifest_digest)
