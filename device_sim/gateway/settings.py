"""From ``agent.toml`` and the device's folder to what the agent's runner is told."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from device_sim.agent.device import DeviceConfig
from device_sim.agent.trust import Identity
from device_sim.gateway.config import AgentConfig
from device_sim.gateway.device_folder import CERTIFICATE_FILE, KEY_FILE, DeviceFolder
from firmware_store.errors import ConfigurationError, ConflictError
from firmware_store.private_files import read_private_file
from firmware_store.root import ROOT_FILE
from server.domain.identity import Cohort, Region, cohort, device_id, hardware_class, region
from server.domain.windows import Window

AGENT: Final = "tidegate-agent"
LOCK_FILE: Final = "lock"
ROOT_MOST_BYTES: Final = 1 << 16
PASSWORD_MOST_BYTES: Final = 4096


@contextmanager
def sole_agent(state: Path) -> Iterator[None]:
    """Hold the agent's folder: two agents on the same slots would be the end of both.

    Raises:
        ConflictError: another one holds it.
        ConfigurationError: the folder cannot be made.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state / LOCK_FILE).open("w")
    except OSError as exc:
        raise ConfigurationError(f"cannot use {state}: {exc.strerror}") from exc
    with lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as exc:
            raise ConflictError(f"an agent runs in {state} already") from exc
        yield


def device_config(config: AgentConfig) -> DeviceConfig:
    """Join what the file says and what enrolment has brought; the file has the last word.

    Raises:
        ConfigurationError, InvalidInputError: something is missing, cannot be read, or is not what it should be.
    """
    folder = enrolled_folder(config)
    known: dict[str, Any] = {} if folder is None else folder.identity
    broker = _broker(config, known)
    home, part = places_of(config)
    return DeviceConfig(
        device_id=device_id(_needed(config.device or known.get("device"), "device")),
        region=home,
        cohort=part,
        vendor=config.vendor,
        hardware_class=hardware_class(config.hardware),
        components=_components(config),
        labels=config.labels,
        root_bytes=pinned_root(config),
        directory=config.state,
        host=broker["host"],
        port=broker["port"],
        username=broker["username"],
        password=broker["password"],
        client_id=broker["client_id"],
        topic_root=broker["topic_root"],
        tls=_tls(config, folder) if broker["tls"] else None,
        agent_version=AGENT,
        windows=tuple(Window(one.opens, one.duration_s) for one in config.gates.windows),
        utc_offset_minutes=utc_offset_minutes(config),
    )


def identity_of(config: AgentConfig) -> Identity:
    """Who the device is, as far as a release's conditions go; no broker is needed for that."""
    folder = enrolled_folder(config)
    known = {} if folder is None else folder.identity
    return Identity(
        device_id(_needed(config.device or known.get("device"), "device")),
        config.vendor,
        hardware_class(config.hardware),
        AGENT,
        _components(config),
    )


def places_of(config: AgentConfig) -> tuple[Region, Cohort]:
    """Where the device belongs until a welcome says otherwise. Raises: ConfigurationError."""
    folder = enrolled_folder(config)
    known = {} if folder is None else folder.identity
    return (
        region(_needed(config.region or known.get("region"), "region")),
        cohort(_needed(config.cohort or known.get("cohort"), "cohort")),
    )


def pinned_root(config: AgentConfig) -> bytes:
    """Read the root that the device goes by from its first day. Raises: ConfigurationError."""
    path = config.root or (None if config.identity is None else config.identity / ROOT_FILE)
    if path is None:
        raise ConfigurationError("neither root nor identity says where the pinned trust root is")
    try:
        with path.open("rb") as file:
            return file.read(ROOT_MOST_BYTES)
    except OSError as exc:
        raise ConfigurationError(f"cannot read the trust root {path}: {exc.strerror}") from exc


def enrolled_folder(config: AgentConfig) -> DeviceFolder | None:
    """The folder of a device that is enrolled; None where it is not, or has none."""
    if config.identity is None or not config.identity.is_dir():
        return None
    folder = DeviceFolder(config.identity)
    return folder if folder.is_enrolled else None


def utc_offset_minutes(config: AgentConfig) -> int:
    """Of the device's local time, now."""
    zone = config.gates.time_zone
    local = datetime.now(UTC).astimezone(None if zone is None else ZoneInfo(zone))
    offset = local.utcoffset()
    assert offset is not None
    return round(offset.total_seconds() / 60)


def _components(config: AgentConfig) -> frozenset[str] | None:
    """Those that are named, else those that have a partition, else any."""
    if config.components is not None:
        return frozenset(config.components)
    if config.slots.kind == "rauc":
        return frozenset({config.slots.component})
    return frozenset(config.slots.a) if config.slots.kind == "u-boot" else None


def _broker(config: AgentConfig, known: dict[str, Any]) -> dict[str, Any]:
    if config.broker is not None:
        told = config.broker
        password = None
        if told.password_file is not None:
            password = read_private_file(told.password_file, max_bytes=PASSWORD_MOST_BYTES).decode().strip()
        return {**told.model_dump(exclude={"password_file"}), "password": password}
    if known.get("broker") is not None:
        broker: dict[str, Any] = known["broker"]
        return broker
    raise ConfigurationError(
        "nothing says where the broker is: give [broker], or an identity of a device that is enrolled"
    )


def _tls(config: AgentConfig, folder: DeviceFolder | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.authorities)
        if folder is not None:
            context.load_cert_chain(folder.path / CERTIFICATE_FILE, folder.path / KEY_FILE)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(f"cannot read the authorities, or the device's certificate: {exc}") from exc
    return context


def _needed(value: str | None, name: str) -> str:
    if value is None:
        raise ConfigurationError(f"{name} is missing, and the device is not enrolled")
    return value
