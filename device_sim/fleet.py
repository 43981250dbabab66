"""Many devices in one process, each with its own directory, broker session and faults."""

import asyncio
import random
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import structlog

from device_sim.agent.boot_environment import SlotInfo
from device_sim.agent.bootloader import boot
from device_sim.agent.device import DeviceConfig, connect_mqtt
from device_sim.agent.events import Note
from device_sim.agent.file_slots import FileSlots, provision
from device_sim.agent.http_client import Http, HttpClient
from device_sim.agent.runner import Outcome, Runner
from device_sim.agent.state import AgentState
from device_sim.agent.storage import Storage
from device_sim.faults import DeviceFaults, Fault
from device_sim.follower import Follower
from device_sim.ledger import Ledger
from device_sim.line import Line
from device_sim.outages import Outage
from device_sim.script import Script
from device_sim.slow_link import SlowHttp, slow_connect
from server.domain.identity import DeviceId

CONNECTS_PER_S: Final = 100.0
REBOOT_S: Final = 1.5
REBOOT_SPREAD: Final = 0.3  # sigma of the logarithm
CRASH_PAUSE_S: Final = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """What all devices of a fleet share. ``factory`` are the image files that they leave the factory with."""

    seed: int = 0
    faults: Sequence[Fault] = ()
    outages: Sequence[Outage] = ()
    reboot_s: float = REBOOT_S
    """Median time without power; lognormal."""
    connects_per_s: float = CONNECTS_PER_S
    factory_version: str = "1.0.0"
    factory: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    scripts: Mapping[DeviceId, Script] = field(default_factory=lambda: MappingProxyType({}))
    """What devices follow that live by a trace; it begins once every device has reached the broker."""
    has_http: bool = True
    """Without it, all devices fetch over MQTT alone."""
    authorities: ssl.SSLContext | None = None
    """What they trust where they fetch over HTTPS; None: the system's authorities."""


class Fleet:
    """``await run()`` until ``stop``; ``connected`` is set once every device has reached the broker."""

    def __init__(self, configs: Sequence[DeviceConfig], *, options: FleetOptions, ledger: Ledger) -> None:
        self.connected = asyncio.Event()
        self._missing = {config.device_id for config in configs}
        self._options = options
        self._booted: dict[Outage, asyncio.Event] = {each: asyncio.Event() for each in options.outages if each.version}
        self._devices = {
            config.device_id: SimulatedDevice(config, options=options, ledger=ledger, on_note=self._noted)
            for config in configs
        }
        if not configs:
            self.connected.set()

    async def run(self) -> None:
        """Live all devices' lives; their starts are spread, or the broker would see all of them at once."""
        async with HttpClient(tls=self._options.authorities) as http, asyncio.TaskGroup() as around:
            outages = [around.create_task(self._strike(each), name="outage") for each in self._options.outages]
            async with asyncio.TaskGroup() as group:
                for number, device in enumerate(self._devices.values()):
                    delay_s = number / self._options.connects_per_s
                    shared = http if self._options.has_http else None
                    group.create_task(device.live(delay_s, shared), name=f"device {device.device_id}")
            for task in outages:
                task.cancel()

    def stop(self) -> None:
        """Let every device say goodbye and end."""
        for device in self._devices.values():
            device.stop()

    async def _strike(self, outage: Outage) -> None:
        """Cut an outage's victims off when its time has come; they are let back no faster than devices come up."""
        regions = {name: device.region for name, device in self._devices.items()}
        victims = [self._devices[name] for name in outage.victims(regions, seed=self._options.seed)]
        await self._booted.get(outage, self.connected).wait()
        await asyncio.sleep(outage.after_s)
        for device in victims:
            device.cut_off()
        await asyncio.sleep(outage.lasts_s)
        for device in victims:
            device.let_back()
            await asyncio.sleep(1 / self._options.connects_per_s)

    def _noted(self, config: DeviceConfig, note: Note) -> None:
        if note.event == "booted":
            for outage, booted in self._booted.items():
                if outage.version == note.version and outage.is_in(config.region):
                    booted.set()
        if note.event == "connected" and self._missing:
            self._missing.discard(config.device_id)
            if not self._missing:
                self.connected.set()
                for device in self._devices.values():
                    device.begin()


class SimulatedDevice:
    """One device from power-on to power-off, over its reboots."""

    def __init__(
        self,
        config: DeviceConfig,
        *,
        options: FleetOptions,
        ledger: Ledger,
        on_note: Callable[[DeviceConfig, Note], None],
    ) -> None:
        self.device_id = config.device_id
        self.region = config.region
        self._config = config
        self._options = options
        self._ledger = ledger
        self._on_note = on_note
        self._faults = DeviceFaults.of(options.faults, config.device_id, config.hardware_class, seed=options.seed)
        self._rng = random.Random(f"{options.seed}|{config.device_id}")
        self._bytes_per_s = speed = self._faults.bytes_per_s
        self._line = Line()
        carried = connect_mqtt if speed is None else slow_connect(speed)
        self._script = options.scripts.get(config.device_id)
        self._follower: Follower | None = None
        if self._script is not None:
            rng = random.Random(f"{options.seed}|{config.device_id}|fate")
            self._follower = Follower(self._script, self._line, rng=rng, on_death=self._died)
            carried = self._follower.slowed(carried)
        self._connect = self._line.carry(carried)
        self._http: Http | None = None
        self._stopping = asyncio.Event()
        self._runner: Runner | None = None
        self._version = ""

    def begin(self) -> None:
        """Its trace begins now, if it follows one."""
        if self._follower is not None:
            self._follower.begin()

    def stop(self) -> None:
        self._stopping.set()
        if self._follower is not None:
            self._follower.stop()
        if self._runner is not None:
            self._runner.stop()

    def cut_off(self) -> None:
        """Cut its line; it runs on by itself."""
        self._line.cut()
        self._observe(Note("cut_off", version=self._version))

    def let_back(self) -> None:
        self._line.mend()
        self._observe(Note("let_back", version=self._version))

    async def live(self, delay_s: float, http: Http | None) -> None:
        """Boot, run, reboot, until stopped or bricked; whatever breaks one device leaves the others alone.

        ``http`` is the client that it shares with others, if it has any.
        """
        self._http = http
        if http is not None and self._bytes_per_s is not None:
            self._http = SlowHttp(http, self._bytes_per_s)
        await self._without_power(delay_s)
        while not self._stopping.is_set():
            attempts = 1
            try:
                attempts = await self._live_one_boot()
            except Exception:
                log.exception("device_crashed", device=self.device_id)
                await self._without_power(CRASH_PAUSE_S)
            if not attempts:
                return
            for _ in range(attempts):
                await self._without_power(self._draw_reboot_s())

    async def _live_one_boot(self) -> int:
        """Return how many boots the way down and up again takes; 0 at the end of this device's life."""
        directory = self._config.directory
        directory.mkdir(parents=True, exist_ok=True)
        provision(directory, version=self._options.factory_version, seeds=self._options.factory, durable=False)
        booted = boot(directory, boots=self._boots, durable=False)
        slots = FileSlots(directory, durable=False)
        running = next(slot for slot in slots.slots() if slot.name == slots.booted())
        self._version = running.version
        if booted.slot is None or not self._returns_with(running.version):
            self._note_by_itself("bricked", running)
            return 0
        self._note_by_itself("booted", running)
        self._runner = Runner(
            self._config,
            slots,
            check_health=self._check_health,
            observe=self._observe,
            connect=self._connect,
            http=self._http,
        )
        if self._stopping.is_set():
            return 0
        outcome = await self._runner.run()
        self._runner = None
        return booted.attempts if outcome is Outcome.REBOOT else 0

    def _returns_with(self, version: str) -> bool:
        in_script = self._script is None or self._script.returns_with(version)
        return in_script and not self._faults.bricks(version)

    def _draw_reboot_s(self) -> float:
        if self._script is not None:
            return self._script.reboot_s
        return self._rng.lognormvariate(0, REBOOT_SPREAD) * self._options.reboot_s

    def _boots(self, slot: SlotInfo) -> bool:
        return self._faults.boots(slot.version)

    async def _check_health(self) -> bool:
        return not self._faults.is_unhealthy(self._version)

    def _observe(self, note: Note) -> None:
        self._ledger.write(self.device_id, note)
        if self._follower is not None:
            self._follower.noted(note)
        self._on_note(self._config, note)

    def _died(self) -> None:
        self._ledger.write(self.device_id, Note("died", version=self._version))

    def _note_by_itself(self, event: str, running: SlotInfo) -> None:
        """What a device cannot say of itself: that it boots, or never will again."""
        factory = AgentState(self._config.region, self._config.cohort)
        slots = FileSlots(self._config.directory, durable=False)
        update = Storage(self._config.directory, slots, durable=False).load(factory).update
        campaign = update.campaign if update is not None and update.slot == running.name else None
        self._observe(Note(event, campaign, running.version, running.name))

    async def _without_power(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
