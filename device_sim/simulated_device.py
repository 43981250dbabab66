"""One simulated device over its reboots: bootloader, slots and the agent's runner, with whatever befalls it."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from device_sim.agent.boot_environment import SlotInfo
from device_sim.agent.bootloader import boot
from device_sim.agent.device import DeviceConfig
from device_sim.agent.durable_file import make_directory
from device_sim.agent.events import Note
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.http_client import Http
from device_sim.agent.runner import Outcome, Runner
from device_sim.agent.state import AgentState
from device_sim.agent.storage import Storage
from device_sim.life import Life
from device_sim.takeover import take_over

CRASH_PAUSE_S: Final = 5.0

MakeLife = Callable[[DeviceConfig, "SimulatedDevice"], Life]

log = structlog.get_logger(__name__)


class SimulatedDevice:
    """One device from power-on to power-off, over its reboots. ``make_life`` says what befalls it."""

    def __init__(
        self,
        config: DeviceConfig,
        make_life: MakeLife,
        *,
        factory: Mapping[str, Path],
        factory_version: str,
        on_note: Callable[[DeviceConfig, Note], None],
    ) -> None:
        self.device_id = config.device_id
        self.region = config.region
        self._config = config
        self._factory = factory
        self._factory_version = factory_version
        self._on_note = on_note
        self._http: Http | None = None
        self._stopping = asyncio.Event()
        self._runner: Runner | None = None
        self._version = ""
        self._takeovers: set[asyncio.Task[bool]] = set()
        self._life = make_life(config, self)

    def begin(self) -> None:
        """What happens to it at a time counts from now."""
        self._life.begin()

    def stop(self) -> None:
        """Let it say goodbye and end."""
        self._stopping.set()
        self._life.stop()
        for taking in self._takeovers:
            taking.cancel()
        if self._runner is not None:
            self._runner.stop()

    def cut_off(self) -> None:
        """Cut its line; it runs on by itself."""
        self._life.line.cut()
        self._observe(Note("cut_off", version=self._version))

    def let_back(self) -> None:
        self._life.line.mend()
        self._observe(Note("let_back", version=self._version))

    def reset(self) -> None:
        """Take its power away for as long as a reboot takes; nothing that waits is said any more."""
        if self._runner is not None:
            self._runner.reset()

    def lend(self) -> None:
        """Let somebody with its credential take its session over, once."""
        taking = asyncio.create_task(take_over(self._config), name=f"takeover {self.device_id}")
        self._takeovers.add(taking)
        taking.add_done_callback(self._takeovers.discard)

    def die(self) -> None:
        """Let it go dark for good."""
        self._life.line.cut()
        self._on_note(self._config, Note("died", version=self._version))

    async def live(self, delay_s: float, http: Http | None) -> None:
        """Boot, run, reboot, until stopped or bricked; whatever breaks one device leaves the others alone.

        ``http`` is the client that it shares with others, if it has any.
        """
        self._http = None if http is None else self._life.http(http)
        await self._without_power(delay_s)
        while not self._stopping.is_set():
            lives_on = True
            try:
                lives_on = await self._live_one_boot()
            except Exception:
                log.exception("device_crashed", device=self.device_id)
                await self._without_power(CRASH_PAUSE_S)
            if not lives_on:
                return
            await self._without_power(self._life.without_power_s(came_up=True))

    async def _live_one_boot(self) -> bool:
        """Return whether the device boots again; tries of a slot that does not come up take their time."""
        directory, files = self._config.directory, self._life.files
        make_directory(directory, durable=False, files=files)
        provision(directory, version=self._factory_version, seeds=self._factory, durable=False, files=files)
        booted = boot(directory, boots=self._life.boots, durable=False, files=files)
        for _ in range(booted.attempts - 1):
            await self._without_power(self._life.without_power_s(came_up=False))
        slots = FileSlots(directory, durable=False, files=files)
        running = next(slot for slot in slots.slots() if slot.name == slots.booted())
        self._version = running.version
        if booted.slot is None or not self._life.returns_with(running.version):
            self._note_by_itself("bricked", running)
            return False
        self._note_by_itself("booted", running)
        self._runner = Runner(
            self._config,
            self._life.slots(slots),
            check_health=self._check_health,
            observe=self._observe,
            connect=self._life.connect,
            http=self._http,
            files=files,
            clock=self._life.clock(),
        )
        if self._stopping.is_set():
            return False
        outcome = await self._runner.run()
        self._runner = None
        return outcome is Outcome.REBOOT

    async def _check_health(self) -> bool:
        return self._life.is_healthy(self._version)

    def _observe(self, note: Note) -> None:
        self._on_note(self._config, note)
        self._life.noted(note)

    def _note_by_itself(self, event: str, running: SlotInfo) -> None:
        """What a device cannot say of itself: that it boots, or never will again."""
        factory = AgentState(self._config.region, self._config.cohort)
        directory, files = self._config.directory, self._life.files
        slots = FileSlots(directory, durable=False, files=files)
        update = Storage(directory, slots, durable=False, files=files).load(factory).update
        campaign = update.campaign if update is not None and update.slot == running.name else None
        self._observe(Note(event, campaign, running.version, running.name))

    async def _without_power(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
