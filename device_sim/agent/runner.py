"""One boot of a device: the core, its storage and its broker session joined on the event loop.

Events wait in one queue and are handled one after the other, so that the core never sees two things at once. Blob
messages are shed first when the queue is full: they are subscribed to again by themselves.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import lru_cache
from typing import Final

import structlog

from device_sim.agent.clock import Clock, LoopClock
from device_sim.agent.core import Agent
from device_sim.agent.device import Connect, DeviceConfig, Link, connect_mqtt
from device_sim.agent.events import (
    CheckHealth,
    Conditions,
    Effect,
    Event,
    Get,
    LinkDown,
    LinkUp,
    Make,
    Note,
    Obstacle,
    Publish,
    Reboot,
    Received,
    Reconnect,
    StepFailed,
    StopGets,
    Subscribe,
    Tick,
    Unsubscribe,
    put_answer,
)
from device_sim.agent.filesystem import SYSTEM_FILES, Filesystem
from device_sim.agent.health import ask_health, assume_healthy
from device_sim.agent.http_client import Gets, Http
from device_sim.agent.sleep import Sleep
from device_sim.agent.slots import SlotBackend
from device_sim.agent.state import AgentState
from device_sim.agent.storage import Storage
from device_sim.agent.trust import Identity
from firmware_store.deltas import codecs
from firmware_store.errors import BrokerUnavailableError
from firmware_store.root import Root, open_root
from server.mqtt.link import Incoming, Will
from server.protocol.messages import Gone, encode_gone
from server.protocol.topics import Topics, Up

QUEUE_MOST: Final = 512
"""Messages waiting for the core; more than a window of blobs and everything else a broker has to say at once."""
OTHERS_MOST: Final = 2 * QUEUE_MOST
"""The same, for what is no blob: a broker that pours out directives finds an end, too."""
EVENTS_PER_TURN: Final = 32  # then the other devices of the process have theirs
RECONNECT_FIRST_S: Final = 0.5
RECONNECT_LONGEST_S: Final = 60.0
STABLE_S: Final = 10.0
BOOT_ID_BYTES: Final = 8
NONCE_BYTES: Final = 16

log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """Why a boot has ended."""

    REBOOT = "reboot"
    STOPPED = "stopped"


def ignore_note(_note: Note) -> None:
    """Keep no log."""


class Runner:
    """``await run()`` until the device reboots or ``stop`` is called. Each boot is a new runner.

    Without ``http`` the device fetches over MQTT alone.
    """

    def __init__(
        self,
        config: DeviceConfig,
        slots: SlotBackend,
        *,
        check_health: Callable[[], Awaitable[bool]] = assume_healthy,
        observe: Callable[[Note], None] = ignore_note,
        connect: Connect = connect_mqtt,
        http: Http | None = None,
        files: Filesystem = SYSTEM_FILES,
        clock: Clock | None = None,
    ) -> None:
        self._config = config
        self._topics = Topics(config.topic_root)
        self._storage = Storage(config.directory, slots, durable=config.durable, files=files)
        self._check_health = check_health
        self._observe = observe
        self._connect = connect
        self._boot_id = secrets.token_bytes(BOOT_ID_BYTES)
        self._loop = asyncio.get_running_loop()
        self._clock = clock or LoopClock()
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._session_over = asyncio.Event()
        self._leaves_in_order = False
        self._sleep = Sleep(wake_interval_s=config.wake_interval_s, awake_s=config.awake_s)
        self._is_asleep = False
        self._outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._checking: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._gets = Gets(http, self._put)
        self.shed = 0
        """Messages dropped because the queue was full."""
        self._agent = Agent(
            identity=Identity(
                config.device_id,
                config.vendor,
                config.hardware_class,
                config.agent_version,
                config.components,
                config.labels,
                utc_offset_minutes=config.utc_offset_minutes,
                windows=config.windows,
                wake_interval_s=config.wake_interval_s,
            ),
            root=_open_pinned(config.root_bytes),
            state=self._storage.load(AgentState(config.region, config.cohort)),
            slots=slots.slots(),
            booted=slots.booted(),
            boot_id=self._boot_id,
            now=self._clock.now(),
            topics=self._topics,
            has_http=http is not None,
            codecs=codecs(),
        )

    def tell_conditions(self, obstacle: Obstacle | None) -> None:
        """Say what on the device keeps it from starting and activating, from now on."""
        self._put(Conditions(obstacle))

    def stop(self) -> None:
        """End this boot in order: the broker gets a DISCONNECT, and no last will is published."""
        self._finish(Outcome.STOPPED)

    def reset(self) -> None:
        """End this boot as a loss of power does: nothing that waits is done or said any more."""
        self._finish(Outcome.REBOOT)

    async def run(self) -> Outcome:
        """Serve until the core wants a reboot, or ``stop``.

        Raises:
            StorageError: the agent's state could not be stored, so that nothing more may be done in this boot.
        """
        core = asyncio.create_task(self._run_core(), name=f"core {self._config.device_id}")
        sessions = asyncio.create_task(self._run_sessions(), name=f"sessions {self._config.device_id}")
        try:
            await asyncio.wait((core, sessions, self._outcome), return_when=asyncio.FIRST_COMPLETED)
            for task in (core, sessions):
                if task.done():
                    task.result()
            outcome = self._outcome.result()
            if self._link is not None:
                # A reboot cuts the line, as real ones do: the last will tells the server at once.
                await self._link.close(graceful=outcome is Outcome.STOPPED)
            return outcome
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._link is not None:
                self._link.drop()
            tasks = [task for task in (core, sessions, self._checking) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(self._gets.close(), *tasks, return_exceptions=True)

    def _finish(self, outcome: Outcome) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    # --- sessions ---

    async def _run_sessions(self) -> None:
        """One link after the other: each has a nonce of its own, which its last will carries."""
        failures = 0
        while not self._outcome.done():
            began_at = self._loop.time()
            await self._run_session()
            if self._is_asleep:
                await self._sleep.end()
                continue
            lived_s = (self._loop.time() - began_at) * self._config.lab_factor
            failures = 0 if lived_s >= STABLE_S else failures + 1
            longest_s = min(RECONNECT_LONGEST_S, RECONNECT_FIRST_S * 2.0 ** min(failures, 10))
            await asyncio.sleep(longest_s * secrets.randbelow(1000) / 1000 / self._config.lab_factor)

    async def _run_session(self) -> None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._session_over.clear()
        self._leaves_in_order = self._is_asleep = False
        was_up = False

        def on_up(_session_present: bool) -> None:
            nonlocal was_up
            was_up = True
            self._put(LinkUp(nonce))

        def on_down(reason: str) -> None:
            if was_up:  # before that, the link tries again by itself: its nonce is unused
                self._session_over.set()
            log.debug("device_link_down", device=self._config.device_id, reason=reason)

        state = self._agent.state
        gone = self._topics.up(state.region, self._config.device_id, Up.GONE)
        link = self._connect(
            self._config,
            will=Will(gone, encode_gone(Gone(self._boot_id, nonce))),
            on_message=self._on_message,
            on_up=on_up,
            on_down=on_down,
        )
        self._link = link
        running = asyncio.create_task(link.run(), name=f"link {self._config.device_id}")
        dozing = asyncio.create_task(self._doze_off(gone, Gone(self._boot_id, nonce)), name="doze off")
        try:
            await self._session_over.wait()
            await link.close(graceful=self._leaves_in_order)
        finally:
            dozing.cancel()
            link.drop()
            if not running.done():
                running.cancel()
            await asyncio.gather(running, dozing, return_exceptions=True)
            self._put(LinkDown())

    async def _doze_off(self, topic: str, gone: Gone) -> None:
        """End the session in order when it is time to sleep.

        A DISCONNECT discards the last will, so the device says itself what that would have said: else the server would
        take it for online until its grace is over.
        """
        await self._sleep.come(lambda: self._link is not None and self._link.connected and self._agent.may_sleep)
        self._tell_link(lambda link: _forget(link.publish(topic, encode_gone(gone), qos=0)))
        self._is_asleep = self._leaves_in_order = True
        self._session_over.set()

    def _on_message(self, message: Incoming) -> None:
        # Nothing on the wire is said only once; but what is no blob may be a halt, which is to be heard at once.
        most = QUEUE_MOST if self._topics.is_blob(message.topic) else OTHERS_MOST
        if len(self._queue) >= most:
            self.shed += 1
            return
        self._put(Received(message.topic, message.payload))

    # --- the core ---

    def _put(self, event: Event) -> None:
        self._queue.append(event)
        self._wake.set()

    async def _run_core(self) -> None:
        await self._carry_out(self._agent.boot())
        self._set_timer()
        while not self._outcome.done():
            await self._wake.wait()
            self._wake.clear()
            handled = 0
            while self._queue and not self._outcome.done():
                event = self._queue.popleft()
                handled += 1
                is_last = handled % EVENTS_PER_TURN == 0 or not self._queue
                then = None if is_last else self._queue[0]
                await self._carry_out(self._agent.handle(event, self._clock.now(), then=then))
                if handled % EVENTS_PER_TURN == 0:
                    await asyncio.sleep(0)
            self._set_timer()

    async def _carry_out(self, effects: list[Effect]) -> None:
        has_failed = False
        for effect in effects:
            if has_failed and not isinstance(effect, (Subscribe, Unsubscribe)):
                continue  # nothing that stands behind a step may happen without it; what is asked for may come
            answer = await self._perform(effect)
            if answer is not None:
                put_answer(self._queue, effect, answer)
                self._wake.set()
            has_failed = has_failed or isinstance(answer, StepFailed)

    async def _perform(self, effect: Effect) -> Event | None:
        match effect:
            case Note():
                self._observe(effect)
            case Subscribe(topics):
                self._tell_link(lambda link: link.subscribe([(topic, 0) for topic in topics]))
            case Unsubscribe(topics):
                self._tell_link(lambda link: link.unsubscribe(list(topics)))
            case Publish(topic, payload, qos):
                self._tell_link(lambda link: _forget(link.publish(topic, payload, qos=qos)))
            case Reconnect():
                self._leaves_in_order = True
                self._session_over.set()
            case Reboot():
                self._finish(Outcome.REBOOT)
            case Get():
                self._gets.start(effect)
            case StopGets():
                self._gets.stop()
            case CheckHealth():
                self._checking = asyncio.create_task(self._ask_health(), name=f"health {self._config.device_id}")
            case _ if self._config.durable or isinstance(effect, Make):
                return await asyncio.to_thread(self._storage.perform, effect)
            case _:
                return self._storage.perform(effect)
        return None

    def _tell_link(self, tell: Callable[[Link], None]) -> None:
        """What a broken line swallows is said again in the next session."""
        if self._link is None or not self._link.connected:
            return
        try:
            tell(self._link)
        except BrokerUnavailableError as exc:
            log.debug("device_message_lost", device=self._config.device_id, error=str(exc))

    async def _ask_health(self) -> None:
        timeout_s = self._config.health_timeout_s
        self._put(await ask_health(self._config.device_id, self._check_health, timeout_s=timeout_s))

    def _set_timer(self) -> None:
        at = self._agent.wake_at
        if self._timer is not None:
            if self._timer_at == at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at is None else self._loop.call_later(self._clock.seconds_until(at), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._put(Tick())


@lru_cache(maxsize=4)
def _open_pinned(root_bytes: bytes) -> Root:
    """Open the root that the factory pinned; a fleet in one process shares it.

    Its expiry is not asked here: a device's clock may know nothing before its first welcome. The core asks before it
    starts or activates anything.
    """
    return open_root(root_bytes, now=None)


def _forget(confirmed: asyncio.Future[None] | None) -> None:
    """The server's own acknowledgement is what counts; a PUBACK proves no permission, and its loss proves nothing."""
    if confirmed is not None:
        confirmed.add_done_callback(lambda done: done.cancelled() or done.exception())
