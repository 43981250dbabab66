"""Many devices in one process, each with its own directory, broker session and faults."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from device_sim.agent.device import DeviceConfig
from device_sim.agent.events import Note
from device_sim.agent.http_client import HttpClient
from device_sim.faults import DeviceFaults, Fault
from device_sim.ledger import Witness
from device_sim.life import REBOOT_S, Life, OrdinaryLife
from device_sim.outages import Outage
from device_sim.script import Script
from device_sim.simulated_device import MakeLife, SimulatedDevice
from server.domain.identity import DeviceId

CONNECTS_PER_S: Final = 100.0


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
    """``await run()`` until ``stop``; ``connected`` is set once every device has reached the broker.

    ``make_life`` says what befalls the devices; without it, what the options say.
    """

    def __init__(
        self,
        configs: Sequence[DeviceConfig],
        *,
        options: FleetOptions,
        ledger: Witness,
        make_life: MakeLife | None = None,
    ) -> None:
        self.connected = asyncio.Event()
        self._missing = {config.device_id for config in configs}
        self._options = options
        self._ledger = ledger
        self._booted: dict[Outage, asyncio.Event] = {each: asyncio.Event() for each in options.outages if each.version}
        self._devices = {
            config.device_id: SimulatedDevice(
                config,
                make_life or self._life,
                factory=options.factory,
                factory_version=options.factory_version,
                on_note=self._noted,
            )
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

    def cut_off(self) -> None:
        """Cut the lines of all devices; they run on by themselves."""
        for device in self._devices.values():
            device.cut_off()

    async def let_back(self) -> None:
        """Mend all lines, no faster than devices come up."""
        await self._let_back(self._devices.values())

    async def _let_back(self, devices: Iterable[SimulatedDevice]) -> None:
        for device in devices:
            device.let_back()
            await asyncio.sleep(1 / self._options.connects_per_s)

    async def _strike(self, outage: Outage) -> None:
        """Cut an outage's victims off when its time has come; they are let back no faster than devices come up."""
        regions = {name: device.region for name, device in self._devices.items()}
        victims = [self._devices[name] for name in outage.victims(regions, seed=self._options.seed)]
        await self._booted.get(outage, self.connected).wait()
        await asyncio.sleep(outage.after_s)
        for device in victims:
            device.cut_off()
        await asyncio.sleep(outage.lasts_s)
        await self._let_back(victims)

    def _life(self, config: DeviceConfig, device: SimulatedDevice) -> Life:
        options = self._options
        return OrdinaryLife(
            config,
            DeviceFaults.of(options.faults, config.device_id, config.hardware_class, seed=options.seed),
            options.scripts.get(config.device_id),
            seed=options.seed,
            reboot_s=options.reboot_s,
            on_death=device.die,
        )

    def _noted(self, config: DeviceConfig, note: Note) -> None:
        self._ledger.write(config.device_id, note)
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
