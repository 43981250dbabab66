"""Simulated devices on a test's own broker and region, and what their ledger says of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from device_sim.agent.boot_environment import EnvironmentFile
from device_sim.agent.device import DeviceConfig
from device_sim.faults import Fault
from device_sim.fleet import Fleet, FleetOptions
from device_sim.ledger import Ledger
from device_sim.naps import Nap
from device_sim.outages import Outage
from server.domain.identity import Cohort, DeviceId, Region
from server.embedded import EmbeddedBroker
from tests.agent_world import HARDWARE, VENDOR, dev_keys
from tests.lab_server import ends_with

FACT_S = 20.0


class Lab:
    """Makes devices, and reads their ledger."""

    def __init__(self, broker: EmbeddedBroker, region: Region, directory: Path) -> None:
        self.broker, self.region, self.directory = broker, region, directory
        self.nap: Nap | None = None
        """How the devices sleep that are made from now on."""

    def config(self, device: DeviceId) -> DeviceConfig:
        credential = self.broker.issue_device_credential(device)
        return DeviceConfig(
            device_id=device,
            host=self.broker.mqtt_host,
            port=self.broker.mqtt_port,
            username=credential.username,
            password=credential.password,
            client_id=credential.client_id,
            vendor=VENDOR,
            hardware_class=HARDWARE,
            root_bytes=dev_keys().root_bytes,
            directory=self.directory / device,
            region=self.region,
            cohort=Cohort("main"),
            wake_interval_s=None if self.nap is None else self.nap.interval_s,
            awake_s=None if self.nap is None else self.nap.awake_s,
            durable=False,
        )

    @asynccontextmanager
    async def fleet(
        self, *devices: DeviceId, faults: tuple[str, ...] = (), outages: tuple[str, ...] = (), **options: Any
    ) -> AsyncIterator[Fleet]:
        ledger = Ledger(self.directory / "ledger.jsonl")
        chosen = FleetOptions(
            faults=[Fault.parse(fault) for fault in faults],
            outages=[Outage.parse(outage) for outage in outages],
            **{"reboot_s": 0.05, **options},
        )
        fleet = Fleet([self.config(device) for device in devices], options=chosen, ledger=ledger)
        task = asyncio.create_task(fleet.run())
        try:
            async with ends_with(task, fleet.stop):
                yield fleet
        finally:
            ledger.close()

    def facts(self, device: DeviceId) -> list[str]:
        return [fact["event"] for fact in self.ledger(device)]

    def refusals(self, device: DeviceId) -> list[str]:
        """The reasons that the device has refused something for."""
        return [fact["reason"] for fact in self.ledger(device) if fact["event"] == "refused"]

    def ledger(self, device: DeviceId) -> list[dict[str, Any]]:
        lines = (self.directory / "ledger.jsonl").read_text().splitlines()
        return [fact for fact in map(json.loads, lines) if fact["device"] == device]

    async def until_fact(self, device: DeviceId, event: str, *, times: int = 1) -> None:
        async with asyncio.timeout(FACT_S):
            while self.facts(device).count(event) < times:
                await asyncio.sleep(0.01)

    def booted_version(self, device: DeviceId) -> str:
        environment = EnvironmentFile(self.directory / device).read()
        return environment.slots[environment.booted].version

    def slot_state(self, device: DeviceId, slot: str) -> str:
        return EnvironmentFile(self.directory / device).read().slots[slot].state.value
