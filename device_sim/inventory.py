"""Which devices a simulated fleet has: read from a file, or added to a server over its REST API."""

import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from device_sim.agent.device import DeviceConfig
from device_sim.naps import Nap
from firmware_store.errors import InvalidInputError, StoreUnavailableError
from server.domain.identity import cohort, device_id, hardware_class, region
from server.traces.format import Trace

ADD_AT_ONCE: Final = 500
TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One device, as a line of the devices file says."""

    id: str
    region: str
    cohort: str
    vendor: str
    hardware: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None
    client_id: str | None = None
    topic_root: str = "tg/1"
    tls: bool = False

    def config(
        self,
        *,
        directory: Path,
        root_bytes: bytes,
        host: str | None,
        port: int | None,
        lab_factor: float = 1.0,
        nap: Nap | None = None,
        authorities: ssl.SSLContext | None = None,
    ) -> DeviceConfig:
        """Return the device's settings, in a directory of its own below ``directory``.

        ``authorities``: what it trusts where its broker speaks TLS; default: the system's.

        Raises:
            InvalidInputError: an id that is none.
        """
        device = device_id(self.id)  # checked: it becomes a folder and a level of a topic
        return DeviceConfig(
            device_id=device,
            host=host or self.host,
            port=port or self.port,
            username=self.username,
            password=self.password,
            client_id=self.client_id,
            vendor=self.vendor,
            hardware_class=hardware_class(self.hardware),
            root_bytes=root_bytes,
            directory=directory / device,
            region=region(self.region),
            cohort=cohort(self.cohort),
            topic_root=self.topic_root,
            tls=(authorities or ssl.create_default_context()) if self.tls else None,
            lab_factor=lab_factor,
            wake_interval_s=None if nap is None else nap.interval_s,
            awake_s=None if nap is None else nap.awake_s,
            durable=False,
        )


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A device to add."""

    id: str
    region: str
    cohort: str
    vendor: str
    hardware: str


@dataclass(frozen=True, slots=True)
class Added:
    """What devices to add: ``count`` of them, dealt out over regions and hardware classes in turn."""

    count: int
    regions: tuple[str, ...]
    cohort: str
    hardware: tuple[str, ...]
    vendor: str
    prefix: str

    def newcomers(self) -> list[Newcomer]:
        regions, hardware = self.regions, self.hardware
        return [
            Newcomer(
                id=f"{self.prefix}-{number:05}",
                region=regions[number % len(regions)],
                cohort=self.cohort,
                vendor=self.vendor,
                hardware=hardware[number // len(regions) % len(hardware)],
            )
            for number in range(self.count)
        ]


def newcomers_of(trace: Trace, *, cohort: str, vendor: str) -> list[Newcomer]:
    """Return the devices of a trace, in its order."""
    devices = trace.devices
    return [
        Newcomer(name, devices.regions[region], cohort, vendor, devices.classes[hardware])
        for name, region, hardware in zip(devices.ids, devices.region, devices.hardware, strict=True)
    ]


def read_devices(path: Path) -> list[Entry]:
    """Read a devices file: one JSON object a line, unknown members ignored.

    Raises:
        InvalidInputError: a line that is not a device.
    """
    entries: list[Entry] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                entries.append(_entry(json.loads(line)))
            except (ValueError, TypeError, KeyError) as exc:
                raise InvalidInputError(f"{path}, line {number}: not a device: {exc}") from exc
    return entries


async def add_devices(
    server: str, token: str, wanted: Sequence[Newcomer], *, authorities: ssl.SSLContext | None = None
) -> tuple[list[Entry], bytes]:
    """Add devices to a server, and return them with the trust root that it gives out.

    A lab's shortcut: a real device has its root from the factory, not from the server it is to be safe from.

    Raises:
        StoreUnavailableError: the server cannot be reached, or refused.
    """
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    entries: list[Entry] = []
    try:
        connector = aiohttp.TCPConnector(ssl=authorities or True)
        async with aiohttp.ClientSession(server, headers=headers, timeout=timeout, connector=connector) as session:
            for start in range(0, len(wanted), ADD_AT_ONCE):
                some = wanted[start : start + ADD_AT_ONCE]
                body = {"devices": [{"id": one.id, "region": one.region, "cohort": one.cohort} for one in some]}
                async with session.post("/v1/devices", json=body) as response:
                    added = await _json(response)
                for device, one in zip(added["devices"], some, strict=True):
                    own = {"vendor": one.vendor, "hardware": one.hardware}
                    entries.append(_entry({**device, **(device["credential"] or {}), **own}))
            async with session.get("/v1/trust/root") as response:
                response.raise_for_status()
                return entries, await response.read()
    except (aiohttp.ClientError, TimeoutError, KeyError, TypeError) as exc:
        raise StoreUnavailableError(f"Cannot add devices to {server}: {type(exc).__name__} {exc}") from exc


async def _json(response: aiohttp.ClientResponse) -> Any:
    if not response.ok:
        raise StoreUnavailableError(f"The server answered {response.status}: {(await response.text())[:300]}")
    return await response.json()


def _entry(members: dict[str, Any]) -> Entry:
    known = {name: members[name] for name in Entry.__slots__ if name in members}
    return Entry(**known)
