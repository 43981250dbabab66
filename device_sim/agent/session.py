"""One session at the broker: subscriptions and hello at its start, the welcome that answers, beats until its end."""

from typing import Final

from device_sim.agent.events import Note, Publish, Reconnect, Subscribe
from device_sim.agent.situation import Situation
from device_sim.agent.trust import DEVICE_AUDIENCE, cohort_key, open_welcome
from firmware_store.errors import TidegateError
from server.protocol.messages import Beat, Counter, Hello, Slot, encode_beat, encode_hello
from server.protocol.topics import Audience, CohortAudience, DeviceAudience, Up

HELLO_AGAIN_S: Final = 10.0
HELLO_AGAIN_LONGEST_S: Final = 60.0
ASK_AGAIN_S: Final = 10.0
DEFAULT_HEARTBEAT_S: Final = 60
JITTER: Final = 0.1
"""Beats come this part of their interval early or late, so that a fleet that began together drifts apart."""


class Session:
    """Begins with each connection and ends with it. QoS 0 throughout: whatever is lost is asked for again."""

    def __init__(self, situation: Situation, nonce: bytes) -> None:
        self._situation = situation
        self._nonce = nonce
        self._hello_interval_s = HELLO_AGAIN_S
        self._hello_at = situation.now
        self._beat_at = situation.now + DEFAULT_HEARTBEAT_S
        self._ask_at: float | None = None
        self._sealed_welcome = b""
        self._root = situation.trust.root

    @property
    def beat_at(self) -> float:
        """When the next beat is due (monotonic seconds)."""
        return self._beat_at

    @property
    def next_at(self) -> float | None:
        """When this session has something to do, beats apart (monotonic seconds)."""
        times = [] if self._situation.welcome is not None else [self._hello_at]
        if self._ask_at is not None:
            times.append(self._ask_at)
        return min(times, default=None)

    def begin(self) -> None:
        here = self._situation
        region, device = here.state.region, here.identity.device
        here.journal.emit(
            Subscribe(
                (
                    *here.topics.all_trust,
                    here.topics.welcome(region, device),
                    here.topics.ack(region, device),
                    *map(here.topics.directive, self._audiences.values()),
                )
            )
        )
        self._say_hello()

    def trust_changed(self) -> None:
        """Root or status is another one: see whether the welcome still holds, and what may have been refused before."""
        here = self._situation
        if here.welcome is not None and not self._still_welcome():
            here.welcome = here.clock_offset = here.latest_offset = None
            # Every device notices at the same moment.
            self._hello_at = here.now + HELLO_AGAIN_S * here.rng.random()
        if here.trust.root is not self._root:
            self._root = here.trust.root
            here.journal.emit(
                Subscribe((here.topics.trust_status, *map(here.topics.directive, self._audiences.values())))
            )
        self.ask_for_what_lags()

    def tick(self) -> None:
        here = self._situation
        if here.welcome is None and here.now >= self._hello_at:
            self._hello_interval_s = min(2 * self._hello_interval_s, HELLO_AGAIN_LONGEST_S)
            self._say_hello()
        if here.now >= self._beat_at:
            self._beat()
        self.ask_for_what_lags()

    def welcomed(self, sealed: bytes) -> None:
        """Take the server's answer in.

        Raises:
            CodecError, TrustError: see ``open_welcome``; nothing has changed.
        """
        here = self._situation
        welcome = open_welcome(sealed, trust=here.trust, device=here.identity.device, nonce=self._nonce)
        if here.welcome is not None and welcome.server_time < here.welcome.server_time:
            return  # an earlier one of this session, delivered late or again
        is_first = here.welcome is None
        here.welcome = welcome
        self._sealed_welcome = sealed
        offset = welcome.server_time - here.now
        if is_first or here.clock_offset is None or offset > here.clock_offset:
            here.clock_offset = offset  # within a session the clock only ever goes forward
            here.latest_offset = max(offset, offset if here.latest_offset is None else here.latest_offset)
        if (welcome.region, welcome.cohort) != (here.state.region, here.state.cohort):
            here.journal.emit(Note("moved", detail=f"{welcome.region}/{welcome.cohort}"))
            here.directives.move(welcome.region, welcome.cohort)
            here.welcome = None  # the next session, in the new region, has to be welcomed by itself
            here.journal.emit(Reconnect())  # the last will lies in the region, too
            return
        if is_first:
            self._beat_at = here.now + self._heartbeat_s * here.rng.random()
        self.ask_for_what_lags()

    def ask_for_what_lags(self) -> None:
        """The welcome, or a directive, knows of newer documents than we hold: subscribing again brings them."""
        here = self._situation
        lagging = self._lagging()
        if not lagging:
            self._ask_at, here.is_trust_late = None, False
        elif self._ask_at is None:
            self._ask_at = here.now + ASK_AGAIN_S  # it is probably on its way
        elif here.now >= self._ask_at:
            self._ask_at = here.now + ASK_AGAIN_S
            here.is_trust_late = not set(here.topics.all_trust).isdisjoint(lagging)
            here.journal.emit(Subscribe(lagging))

    @property
    def _heartbeat_s(self) -> int:
        welcome = self._situation.welcome
        return DEFAULT_HEARTBEAT_S if welcome is None else max(1, welcome.heartbeat_s)

    @property
    def _audiences(self) -> dict[str, Audience]:
        """The audiences this device is in, by the key under which their counters are kept."""
        region, cohort = self._situation.state.region, self._situation.state.cohort
        return {
            DEVICE_AUDIENCE: DeviceAudience(region, self._situation.identity.device),
            cohort_key(self._situation.state): CohortAudience(region, cohort),
        }

    def _still_welcome(self) -> bool:
        here = self._situation
        try:
            open_welcome(self._sealed_welcome, trust=here.trust, device=here.identity.device, nonce=self._nonce)
        except TidegateError:
            return False
        return True

    def _lagging(self) -> tuple[str, ...]:
        """The topics whose retained message must be newer than what we have."""
        here = self._situation
        if here.welcome is None:
            return ()
        all_roots, status = here.topics.all_trust
        directives = (here.topics.directive(self._audiences[audience]) for audience in here.lags(here.welcome))
        return (
            *([all_roots] if here.lacks_root(here.welcome) else []),
            *([status] if here.lacks_status(here.welcome) else []),
            *directives,
        )

    def _say_hello(self) -> None:
        here = self._situation
        hello = Hello(
            boot_id=here.boot_id,
            vendor=here.identity.vendor,
            hardware=here.identity.hardware,
            agent_version=here.identity.agent_version,
            slots=tuple(
                Slot(slot.name, slot.sequence_number, slot.version, slot.manifest_digest, slot.state)
                for slot in here.slots
            ),
            booted=here.booted,
            nonce=self._nonce,
            root_version=here.trust.root.version,
            status_version=0 if here.trust.status is None else here.trust.status.version,
            cohort_counter=self._cohort_counter,
            device_counter=here.counter(DEVICE_AUDIENCE),
            execution=here.state.last_report,
            labels=here.identity.labels,
            utc_offset_minutes=here.identity.utc_offset_minutes,
            wake_interval_s=here.identity.wake_interval_s,
        )
        here.journal.emit(Publish(self._topic(Up.HELLO), encode_hello(hello), 1))
        self._hello_at = here.now + self._hello_interval_s

    def _beat(self) -> None:
        here = self._situation
        beat = Beat(
            boot_id=here.boot_id,
            uptime_s=int(here.now - here.booted_at),
            cohort_counter=self._cohort_counter,
            execution=here.state.last_report,
            health={"errors": here.refusals},
        )
        here.journal.emit(Publish(self._topic(Up.BEAT), encode_beat(beat), 0))
        self._beat_at = here.now + self._heartbeat_s * here.rng.uniform(1 - JITTER, 1 + JITTER)

    @property
    def _cohort_counter(self) -> Counter:
        return self._situation.counter(cohort_key(self._situation.state))

    def _topic(self, kind: Up) -> str:
        return self._situation.topics.up(self._situation.state.region, self._situation.identity.device, kind)
